"""A step of DDIM: from logits and x_t to x_{t-1}, the next input of the network and the label.

Plain PyTorch takes the softmax, steps, clips, writes the mask into the input and takes the arg-max.
Of overlapping classes, which have no label, the probabilities are asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from op_shapes import (
    LOGITS,
    PROVIDERS,
    Inputs,
    Shape,
    as_provided,
    assert_close,
    skip_unless_served,
    title,
)
from op_timing import time_op
from pytest_benchmark.fixture import BenchmarkFixture
from selection import DEVICE
from torch import Tensor

from recycleseg.ops.ddim_update import ddim_update, ddim_update_reference

# of logits, x_t, coefficients (B, 3) and network_input: x_{t-1} and the label or probabilities
Update = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]


def update_of(provider: str, shape: Shape) -> Update:
    """Overwrites the mask in the network's input."""
    exclusive, first_channel = shape.exclusive, shape.image_channels

    def plain(
        logits: Tensor, x_t: Tensor, coefficients: Tensor, network_input: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        x_prev, probs, score = ddim_update_reference(logits, x_t, coefficients, exclusive=exclusive)
        network_input[:, first_channel:] = (x_prev.clamp(-1, 1) + 1) / 2
        assert score is not None
        return x_prev, score.argmax(1).to(torch.uint8) if exclusive else probs

    def fused(
        logits: Tensor, x_t: Tensor, coefficients: Tensor, network_input: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        update = ddim_update(
            logits,
            x_t,
            coefficients,
            exclusive=exclusive,
            network_input=network_input,
            first_channel=first_channel,
            return_label=exclusive,
            return_probs=not exclusive,
        )
        return update.x_prev, update.label if exclusive else update.probs

    return fused if provider == "fused" else as_provided(provider, plain)


def check(
    update: Update,
    logits: Tensor,
    x_t: Tensor,
    coefficients: Tensor,
    network_input: Tensor,
    shape: Shape,
) -> None:
    """Equals the reference, in all that it writes."""
    x_prev, segmentation = update(logits, x_t, coefficients, network_input)
    expected, probs, score = ddim_update_reference(
        logits, x_t, coefficients, exclusive=shape.exclusive
    )
    assert segmentation is not None and probs is not None and score is not None
    assert_close(x_prev, expected)
    mask = (expected.clamp(-1, 1) + 1) / 2
    assert_close(network_input[:, shape.image_channels :], mask)
    if shape.exclusive:
        assert torch.equal(segmentation, score.argmax(1).to(torch.uint8))
    else:
        assert_close(segmentation, probs)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("name", "dtype"), LOGITS, ids=str)
def test_ddim_update(
    benchmark: BenchmarkFixture, name: str, dtype: torch.dtype, provider: str
) -> None:
    benchmark.group = f"ddim_update, {title(name, dtype)}"
    skip_unless_served(provider)
    inputs = Inputs(name, provider)
    shape = inputs.shape
    logits, x_t = inputs.logits(dtype), inputs.normal(shape.mask)
    network_input = inputs.network_input(inputs.image())
    coefficients = torch.tensor([[0.6, 0.5, 0.0]], device=DEVICE).repeat(shape.mask[0], 1)
    update = update_of(provider, shape)
    check(update, logits, x_t, coefficients, network_input, shape)
    label_bytes = x_t[:, 0].numel() if shape.exclusive else x_t.nbytes
    num_bytes = logits.nbytes + 3 * x_t.nbytes + label_bytes  # x_t, x_{t-1} and the mask
    time_op(benchmark, lambda: update(logits, x_t, coefficients, network_input), num_bytes)
