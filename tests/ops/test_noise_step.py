"""noise_step against its formula in plain torch, and its contract."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from recycleseg.classes import probabilities
from recycleseg.diffusion.process import GaussianDiffusion
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.ops.noise_step import noise_step, noise_step_reference
from recycleseg.ops.philox import philox_normal

SHAPE = (3, 4, 5, 6, 7)


def diffusion_and_scales(
    exclusive: bool, dtype: torch.dtype
) -> tuple[GaussianDiffusion, Tensor, Tensor, Tensor]:
    """The process, t_index (3,), and the scales of that t_index."""
    schedule = NoiseSchedule("linear", num_timesteps=100, beta_start=1e-3, beta_end=0.05)
    t_index = torch.tensor([0, 50, 99])
    alphas_cumprod = schedule.alphas_cumprod[t_index]
    scales = alphas_cumprod.sqrt().to(dtype), (1 - alphas_cumprod).sqrt().to(dtype)
    return GaussianDiffusion(schedule, exclusive=exclusive), t_index, *scales


def mask_and_x_t(x_start: Tensor, scales: list[Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
    """The formula of the docstring."""
    scale_start, scale_noise = (scale.view(-1, *[1] * (noise.ndim - 1)) for scale in scales)
    x_t = scale_start * x_start + scale_noise * noise
    return (x_t.clip(-1, 1) + 1) / 2, x_t


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("source_type", ["logits", "probs"])
def test_is_q_sample_of_a_prediction(source_type: str, exclusive: bool) -> None:
    diffusion, t_index, *scales = diffusion_and_scales(exclusive, torch.float64)
    generator = torch.Generator().manual_seed(0)
    logits, noise = torch.randn((2, *SHAPE), generator=generator, dtype=torch.float64)
    source = logits if source_type == "logits" else probabilities(logits, diffusion.exclusive)
    network_input, x_t = noise_step(
        source,
        *scales,
        source_type=source_type,
        num_classes=4,
        exclusive=exclusive,
        noise=noise,
        return_x=True,
    )
    x_start = 2 * (logits.softmax(1) if exclusive else logits.sigmoid()) - 1
    mask, expected = mask_and_x_t(x_start, scales, noise)
    assert network_input.dtype == torch.float64
    torch.testing.assert_close(x_t, expected)
    torch.testing.assert_close(network_input, mask)
    torch.testing.assert_close(diffusion.q_sample(x_start, t_index, noise), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
def test_is_q_sample_of_a_label(dtype: torch.dtype) -> None:
    diffusion, _, *scales = diffusion_and_scales(True, torch.float32)
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(4, (3, 5, 6), generator=generator).to(dtype)
    noise = torch.randn((3, 4, 5, 6), generator=generator)
    step = noise_step(label, *scales, source_type="label", num_classes=4, noise=noise)
    mask, _ = mask_and_x_t(diffusion.label_to_x(label, 4), scales, noise)
    torch.testing.assert_close(step.network_input, mask)
    assert step.x_t is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_writes_its_channels_and_no_other(dtype: torch.dtype, layout: torch.memory_format) -> None:
    *_, scale_start, scale_noise = diffusion_and_scales(True, torch.float32)
    logits = torch.randn((3, 4, 5, 6), generator=torch.Generator().manual_seed(0))
    network_input = torch.full((3, 7, 5, 6), torch.nan, dtype=dtype)
    network_input = network_input.contiguous(memory_format=layout)
    step = noise_step(
        logits.requires_grad_(),
        scale_start,
        scale_noise,
        source_type="logits",
        num_classes=4,
        seed=3,
        offset=torch.tensor(4),
        network_input=network_input,
        first_channel=2,
        return_x=True,
    )
    assert step.network_input is network_input
    mask, x_t = noise_step_reference(
        logits,
        scale_start,
        scale_noise,
        philox_normal((3, 4, 5, 6), 3, 4),
        source_type="logits",
        num_classes=4,
    )
    assert network_input[:, 2:6].equal(mask.to(dtype))
    assert network_input[:, [0, 1, 6]].isnan().all()
    assert step.x_t is not None
    assert step.x_t.equal(x_t)
    assert step.x_t.is_contiguous(memory_format=layout)
    assert not any(result.requires_grad for result in step)


def test_the_reference_is_differentiable() -> None:
    *_, scale_start, scale_noise = diffusion_and_scales(True, torch.float64)
    generator = torch.Generator().manual_seed(0)
    logits, noise = torch.randn((2, 3, 4, 2), generator=generator, dtype=torch.float64)

    def step(logits: Tensor) -> tuple[Tensor, Tensor]:
        arguments = logits, scale_start, scale_noise, noise
        return noise_step_reference(*arguments, source_type="logits", num_classes=4)

    assert torch.autograd.gradcheck(step, logits.requires_grad_())


def test_compiled_full_graph_equals_eager() -> None:
    *_, scale_start, scale_noise = diffusion_and_scales(True, torch.float32)

    def step(source: Tensor, network_input: Tensor, **noise: Any) -> tuple[Tensor, ...]:
        result = noise_step(
            source,
            scale_start,
            scale_noise,
            source_type="logits" if source.is_floating_point() else "label",
            num_classes=4,
            network_input=network_input,
            first_channel=1,
            return_x=True,
            **noise,
        )
        assert result.x_t is not None
        return result.x_t, result.network_input + 1

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((3, 4, 5, 6), generator=generator)
    label = torch.randint(4, (3, 5, 6), generator=generator)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    draws = ({"noise": logits.flip(0)}, {"seed": 3}, {"seed": torch.tensor(3), "offset": 2})
    for source in (logits, label):
        for noise in draws:
            buffers = [torch.ones(3, 5, 5, 6) for _ in range(2)]
            ours, eager = compiled(source, buffers[0], **noise), step(source, buffers[1], **noise)
            torch.testing.assert_close([*ours, buffers[0]], [*eager, buffers[1]])


def test_on_a_cpu_triton_is_not_imported() -> None:
    program = """
import sys, torch
from recycleseg.ops.ddim_update import ddim_update
from recycleseg.ops.noise_step import noise_step
x, one = torch.zeros(1, 2, 3), torch.ones(1)
noise_step(x, one, one, source_type="logits", num_classes=2, seed=0)
ddim_update(x, x, torch.ones(1, 3), seed=0)
assert "triton" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_type": "mask"}, r"source_type: expected one of \('logits', .*\), got 'mask'"),
        ({"num_classes": 0}, "num_classes: expected at least 1, got 0"),
        ({"source": torch.zeros(2, 4, 5)}, r"source: expected floating point \(B, 3, \*S\), got"),
        ({"source": torch.zeros(2, 3)}, "source: expected floating point"),
        ({"source": torch.zeros(2, 3, 5).long()}, "source: expected floating .* torch.int64"),
        ({"source_type": "label"}, r"source: expected a label \(B, \*S\) of uint8, .*float32"),
        ({"source_type": "label", "exclusive": False}, "source_type: expected 'logits' or 'probs'"),
        ({"scale_start": torch.zeros(3)}, r"scale_start: expected torch.float32 of shape \(2,\)"),
        ({"scale_noise": torch.zeros(2).double()}, "scale_noise: expected .*, got torch.float64"),
        ({"scale_noise": torch.zeros(2, device="meta")}, "scale_noise: expected a tensor on cpu"),
        ({"seed": None}, "noise, seed: expected exactly one of them, got none"),
        ({"noise": torch.zeros(2, 3, 5)}, "noise, seed: expected exactly one of them, got both"),
        ({"seed": None, "noise": torch.zeros(2, 3, 4)}, r"noise: expected .* \(2, 3, 5\), got"),
        ({"seed": 2**63}, "seed: expected -9223372036854775808 to 9223372036854775807, got"),
        ({"offset": -1}, "offset: expected 0 to 1152921504606846975, got -1"),
        ({"offset": torch.zeros(2).long()}, "offset: expected an int or a 0-d int64 tensor"),
        ({"first_channel": 1}, "first_channel: expected 0 without network_input, got 1"),
        (
            {"network_input": torch.zeros(2, 5, 5), "first_channel": 3},
            r"network_input: expected floating point of shape \(2, C_total, 5\) with room for 3 "
            r"channels from first_channel 3 on, got torch.float32 of shape \(2, 5, 5\)",
        ),
        ({"network_input": torch.zeros(2, 5, 5), "first_channel": -1}, "from first_channel -1"),
        ({"network_input": torch.zeros(2, 5, 6)}, "network_input: expected"),
        ({"network_input": torch.zeros(2, 3, 5).long()}, "network_input: expected floating"),
        ({"backend": "cuda"}, r"backend: expected one of \('auto', 'triton', 'reference'\)"),
        ({"backend": "triton"}, "backend='triton': expected CUDA tensors, got cpu"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    arguments = {
        "source": torch.zeros(2, 3, 5),
        "scale_start": torch.zeros(2),
        "scale_noise": torch.zeros(2),
        "source_type": "logits",
        "num_classes": 3,
        "seed": 0,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        noise_step(**arguments)
