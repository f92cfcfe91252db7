"""Soft Dice and focal loss of logits, forward alone and with the gradient of the logits.

Forward is that of training: it keeps what the backward pass will need. MONAI
computes both terms alike.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from monai.losses import DiceLoss, FocalLoss
from op_shapes import LOGITS, PROVIDERS, Inputs, as_provided, skip_unless_served, title
from op_timing import time_op
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from recycleseg.ops.dice_loss import dice_loss, dice_loss_reference

# of logits and a label: 1 - Dice (B, C) and the focal loss (B,)
Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
TERMS = ("dice", "focal")


def loss_of(provider: str, exclusive: bool) -> Loss:
    """What a training step takes of the loss."""

    def plain(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        terms = dice_loss_reference(logits, label, exclusive=exclusive, terms=TERMS)
        return terms.dice, terms.focal

    def fused(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        terms = dice_loss(logits, label, exclusive=exclusive, terms=TERMS)
        return terms.dice, terms.focal

    if provider == "monai":
        return monai_loss(exclusive)
    return fused if provider == "fused" else as_provided(provider, plain)


def monai_loss(exclusive: bool) -> Loss:
    """The two terms that MONAI's DiceFocalLoss adds, in float32."""
    dice = DiceLoss(
        to_onehot_y=exclusive, softmax=exclusive, sigmoid=not exclusive, reduction="none"
    )
    focal = FocalLoss(to_onehot_y=exclusive, use_softmax=exclusive, reduction="none")

    def loss(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        logits, mask = logits.float(), label.unsqueeze(1) if exclusive else label
        by_class = focal(logits, mask).flatten(2).mean(2)
        return dice(logits, mask).flatten(1), by_class.sum(1)

    return loss


def gradient(loss: Loss, logits: Tensor, label: Tensor) -> Tensor:
    """Of the sum of both terms, in the logits."""
    terms = loss(logits, label)
    (grad,) = torch.autograd.grad(terms, logits, [torch.ones_like(term) for term in terms])
    return grad


def check(loss: Loss, logits: Tensor, label: Tensor, exclusive: bool) -> None:
    """Terms and gradient equal the reference's."""
    reference = loss_of("reference", exclusive)
    for found, expected in zip(loss(logits, label), reference(logits, label), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found, expected = (gradient(f, logits, label) for f in (loss, reference))
    # of the largest, for it may be the difference of two that nearly cancel; bfloat16 rounds
    atol = 1e-4 * expected.abs().max().item()
    rtol = max(1e-4, torch.finfo(logits.dtype).eps)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("provider", (*PROVIDERS, "monai"))
@pytest.mark.parametrize("direction", ["forward", "forward and backward"])
@pytest.mark.parametrize(("name", "dtype"), LOGITS, ids=str)
def test_dice_loss(
    benchmark: BenchmarkFixture, name: str, dtype: torch.dtype, direction: str, provider: str
) -> None:
    benchmark.group = f"dice_loss {direction}, {title(name, dtype)}"
    skip_unless_served(provider)
    inputs = Inputs(name, provider)
    logits, label = inputs.logits(dtype).requires_grad_(), inputs.label()
    loss = loss_of(provider, inputs.shape.exclusive)
    check(loss, logits, label, inputs.shape.exclusive)
    once = logits.nbytes + label.nbytes
    if direction == "forward":
        time_op(benchmark, lambda: loss(logits, label), once)
    else:  # each pass reads both, for the gradient needs the sums over all voxels
        time_op(benchmark, lambda: gradient(loss, logits, label), 2 * once + logits.nbytes)
