"""The forward step of the diffusion: from a label or logits to the input of the network.

Plain PyTorch draws the noise, makes a mask of the label, noises and clips it, and concatenates it
with the image. The fused operation draws inside its kernel and writes beside the image; on a CPU it
takes noise that PyTorch draws, as a training step does there.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from op_shapes import (
    LOGITS,
    PROVIDERS,
    QUICK_SHAPES,
    SHAPES,
    Inputs,
    Shape,
    as_provided,
    assert_close,
    skip_unless_served,
    title,
)
from op_timing import time_op
from pytest_benchmark.fixture import BenchmarkFixture
from selection import DEVICE, full_unless
from torch import Tensor

from recycleseg.ops.noise_step import SourceType, noise_step, noise_step_reference
from recycleseg.ops.philox import philox_normal

# of the source, the scales (B,) of x_start and of the noise
Step = Callable[[Tensor, Tensor, Tensor], Tensor]
SEED = 5


def step_of(provider: str, inputs: Inputs, image: Tensor, source_type: SourceType) -> Step:
    """Gives the input of the network; the noise is the provider's own."""
    shape = inputs.shape
    num_classes, exclusive, first_channel = shape.classes, shape.exclusive, shape.image_channels

    def plain(source: Tensor, scale_start: Tensor, scale_noise: Tensor) -> Tensor:
        mask, _ = noise_step_reference(
            source,
            scale_start,
            scale_noise,
            torch.randn(shape.mask, device=DEVICE),
            source_type=source_type,
            num_classes=num_classes,
            exclusive=exclusive,
        )
        return torch.cat([image, mask], dim=1)

    if provider != "fused":
        return as_provided(provider, plain)
    network_input = inputs.network_input(image)

    def noise() -> dict[str, Tensor]:
        if DEVICE.type == "cpu":
            return {"noise": torch.randn(shape.mask)}
        return {name: torch.tensor(n, device=DEVICE) for name, n in (("seed", SEED), ("offset", 0))}

    def fused(source: Tensor, scale_start: Tensor, scale_noise: Tensor) -> Tensor:
        return noise_step(
            source,
            scale_start,
            scale_noise,
            source_type=source_type,
            num_classes=num_classes,
            exclusive=exclusive,
            **noise(),
            network_input=network_input,
            first_channel=first_channel,
        ).network_input

    return fused


def check(
    step: Step, source: Tensor, image: Tensor, shape: Shape, source_type: SourceType, provider: str
) -> None:
    """Equals the reference without noise; of noise alone, its moments, or the drawn numbers."""
    first_channel, batch = shape.image_channels, shape.mask[0]
    zero, one = (torch.full((batch,), value, device=DEVICE) for value in (0.0, 1.0))
    expected, _ = noise_step_reference(
        source,
        0.7 * one,
        zero,
        torch.zeros((), device=DEVICE).expand(shape.mask),
        source_type=source_type,
        num_classes=shape.classes,
        exclusive=shape.exclusive,
    )
    found = step(source, 0.7 * one, zero)
    assert torch.equal(found[:, :first_channel], image)
    assert_close(found[:, first_channel:], expected)

    mask = step(source, zero, 0.1 * one)[:, first_channel:]  # 10 standard deviations to the clip
    noise = (mask - 0.5) / 0.05
    bound = 6 * noise.numel() ** -0.5
    assert abs(noise.mean().item()) < bound
    assert abs(noise.std().item() - 1) < bound
    if (
        provider == "fused" and DEVICE.type == "cuda"
    ):  # of the first sample, for the reference of Philox takes much memory
        drawn = philox_normal((1, *shape.mask[1:]), SEED, 0, DEVICE)
        assert_close(mask[:1], 0.5 + 0.05 * drawn)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [*(full_unless(name in QUICK_SHAPES, name, None) for name in SHAPES), *LOGITS],
    ids=str,
)
def test_noise_step(
    benchmark: BenchmarkFixture, name: str, dtype: torch.dtype | None, provider: str
) -> None:
    """dtype: of logits; None: from a label, or from a mask of overlapping classes."""
    benchmark.group = f"noise_step from {'logits' if dtype else 'label'}, {title(name, dtype)}"
    skip_unless_served(provider)
    inputs = Inputs(name, provider)
    shape = inputs.shape
    image = inputs.image()
    source = inputs.logits(dtype) if dtype else inputs.label()
    given: SourceType = "label" if shape.exclusive else "probs"
    source_type: SourceType = "logits" if dtype else given
    step = step_of(provider, inputs, image, source_type)
    check(step, source, image, shape, source_type, provider)
    scales = [torch.full(shape.mask[:1], 0.5**0.5, device=DEVICE) for _ in range(2)]
    # float32 mask; the image need not move
    num_bytes = source.nbytes + 4 * image[:, 0].numel() * shape.classes
    time_op(benchmark, lambda: step(source, *scales), num_bytes)
