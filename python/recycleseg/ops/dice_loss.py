"""Soft Dice, focal loss and cross entropy of the same logits, in one pass.

The three share the probabilities. On a GPU the logits are read once forward and once backward. The
backward pass computes the probabilities again, so nothing of their size is kept but the arguments.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recycleseg.ops._backend import use_triton
from recycleseg.ops._checks import is_tensor
from recycleseg.ops._layout import collapse_spatial

TERMS = ("dice", "focal", "cross_entropy")


class LossTerms(NamedTuple):
    """What :func:`dice_loss` gives.

    Attributes:
        dice: (B, C), 1 - soft Dice.
        counts: (B, C), voxels of each class in the label; of a soft mask, their mass.
        focal: (B,).
        cross_entropy: (B,).
    """

    dice: Tensor
    counts: Tensor
    focal: Tensor
    cross_entropy: Tensor


def dice_loss(
    logits: Tensor,
    label: Tensor,
    *,
    exclusive: bool = True,
    gamma: float = 2.0,
    known: Tensor | None = None,
    terms: Collection[str] = TERMS,
    backend: str = "auto",
) -> LossTerms:
    """Terms of a segmentation loss, per sample, from logits.

    With p the softmax of exclusive classes or the sigmoid of overlapping ones, y the label as a
    mask, sums over the known voxels v of a sample and means over them,

        counts = sum_v y,    dice = 1 - 2 sum_v p y / (sum_v p + counts),
        focal = -mean_v sum_c (1 - p)^gamma y log p,    cross_entropy = -mean_v sum_c y log p

    (Milletari et al., arXiv 1606.04797, without squares; Lin et al., arXiv 1708.02002). Of
    overlapping classes both add p^gamma (1 - y) log(1 - p), with gamma 0 for cross entropy. Where
    counts is 0, dice is 1 and has no gradient. A sample without known voxels has focal loss and
    cross entropy 0.

    It is computed in float32 (float64 for float64 logits). The terms have a gradient in the logits,
    with "triton" a first one only. They have one in a soft mask with "reference", which "auto"
    takes where the mask needs it. "triton" gives the same bits every time.

    Args:
        logits: (B, C, *S), floating point.
        label: (B, *S) integers in [0, C), of exclusive classes; or a mask (B, C, *S), which may be
            soft: of overlapping classes, or of exclusive ones, where it sums to 1. A label that is
            no class raises on a CPU, and on a GPU makes the terms of its sample NaN.
        exclusive: exclusive classes or overlapping ones.
        gamma: exponent of the focal loss, 0 or at least 1.
        known: (B, *S) bool, false where logits and label, whatever they are, add nothing to any
            term and have no gradient; None where all voxels are known.
        terms: those needed among "dice" (with counts), "focal", "cross_entropy"; others are NaN.
        backend: "triton" (CUDA; float32, float16 or bfloat16; up to 64 classes), "reference", or
            "auto": "triton" where it can be used.

    Raises:
        ValueError: an argument is not as described.
        RuntimeError: "triton" where it is not installed.
    """
    _check(logits, label, exclusive, known, terms)
    check_gamma(gamma)
    if backend == "triton" and label.requires_grad:
        raise ValueError("backend='triton': expected a label without gradient, got one with")
    if backend == "auto" and (label.requires_grad or logits.numel() == 0):
        backend = "reference"
    if not use_triton(backend, logits.shape[1], logits, label):
        return dice_loss_reference(
            logits, label, exclusive=exclusive, gamma=gamma, known=known, terms=terms
        )
    return _dice_loss_triton(logits, label, exclusive, gamma, known, terms)


def dice_loss_reference(
    logits: Tensor,
    label: Tensor,
    *,
    exclusive: bool = True,
    gamma: float = 2.0,
    known: Tensor | None = None,
    terms: Collection[str] = TERMS,
) -> LossTerms:
    """What :func:`dice_loss` computes, in plain torch."""
    # one pass that also undoes channels-last memory: the channel axis is reduced below
    dtype = torch.promote_types(logits.dtype, torch.float32)
    z = logits.to(dtype, memory_format=torch.contiguous_format).flatten(2)
    is_mask = label.shape == logits.shape
    target = label.flatten(2).to(dtype) if is_mask else label.flatten(1).long()
    unknown = None if known is None else ~known.flatten(1).unsqueeze(1)
    if unknown is not None:
        # whatever stands there could be NaN, which 0 does not make 0
        z = z.masked_fill(unknown, 0.0)
        target = target.masked_fill(unknown if is_mask else unknown.squeeze(1), 0)
    log_p = z.log_softmax(1) if exclusive else F.logsigmoid(z)
    dice = counts = z.new_full(z.shape[:2], torch.nan)
    focal = entropy = z.new_full(z.shape[:1], torch.nan)
    if "dice" in terms:
        p = log_p.exp()
        mask = target if is_mask else torch.zeros_like(p).scatter_(1, target.unsqueeze(1), 1.0)
        if unknown is not None:
            p, mask = p.masked_fill(unknown, 0.0), mask.masked_fill(unknown, 0.0)
        counts = mask.sum(2)
        dice = _dice(torch.linalg.vecdot(p, mask), p.sum(2), counts)
    if "focal" in terms or "cross_entropy" in terms:
        # y log p of a truth y, with what focuses it: log p and, of overlapping classes, log(1 - p)
        parts: list[tuple[Tensor, Tensor, Tensor | None]]
        if not exclusive:
            log_not_p = F.logsigmoid(-z)
            true, false = log_p * target, log_not_p * (1 - target)
            parts = [(true, log_p, log_not_p), (false, log_not_p, log_p)]
        elif is_mask:
            parts = [(log_p * target, log_p, None)]
        else:
            log_p_true = log_p.gather(1, target.unsqueeze(1))
            parts = [(log_p_true, log_p_true, None)]
        if unknown is not None:
            parts = [(true.masked_fill(unknown, 0.0), log, log_not) for true, log, log_not in parts]
        number = _num_known(logits, known)
        if "focal" in terms:
            losses = [_focus(log, log_not, gamma) * true for true, log, log_not in parts]
            focal = _total(losses) / number
        if "cross_entropy" in terms:
            entropy = _total([true for true, _, _ in parts]) / number
    return LossTerms(dice, counts, focal, entropy)


def check_gamma(gamma: float) -> None:
    """Raise ValueError unless gamma is 0 or at least 1."""
    if gamma != 0 and gamma < 1:
        raise ValueError(
            f"gamma must be 0 or at least 1, got {gamma}: between them the gradient is infinite "
            "where a voxel is certain"
        )


def _check(
    logits: Tensor,
    label: Tensor,
    exclusive: bool,
    known: Tensor | None,
    terms: Collection[str],
) -> None:
    is_tensor("logits", logits)
    is_tensor("label", label)
    if logits.ndim < 3 or not logits.is_floating_point():
        raise ValueError(
            f"logits must be floating with shape (B, C, *S), got {logits.dtype} "
            f"{tuple(logits.shape)}"
        )
    batch, _, *spatial = logits.shape
    is_mask = label.shape == logits.shape
    if not is_mask and not (exclusive and label.shape == (batch, *spatial)):
        label_shape = f"{(batch, *spatial)} or {tuple(logits.shape)}"
        raise ValueError(
            f"label must have shape {label_shape if exclusive else tuple(logits.shape)} "
            f"for {'exclusive' if exclusive else 'overlapping'} classes, got {tuple(label.shape)}"
        )
    if not is_mask and (label.is_floating_point() or label.dtype == torch.bool):
        raise ValueError(f"label {tuple(label.shape)} must be integer, got {label.dtype}")
    if label.device != logits.device:
        raise ValueError(
            f"label must be on the device of logits, {logits.device}, got {label.device}"
        )
    if known is not None and (known.shape != (batch, *spatial) or known.dtype != torch.bool):
        raise ValueError(
            f"known must be bool with shape {(batch, *spatial)}, "
            f"got {known.dtype} {tuple(known.shape)}"
        )
    if known is not None and known.device != logits.device:
        raise ValueError(
            f"known must be on the device of logits, {logits.device}, got {known.device}"
        )
    if not set(terms) <= set(TERMS):
        raise ValueError(f"terms must be among {TERMS}, got {tuple(terms)}")


def _dice(overlap: Tensor, probability: Tensor, counts: Tensor) -> Tensor:
    # an absent class whose probability is 0 too would give 0 / 0, whose gradient is NaN
    total = torch.where(counts > 0, probability + counts, 1.0)
    return 1 - 2 * overlap / total


def _focus(log_p: Tensor, log_not_p: Tensor | None, gamma: float) -> Tensor | float:
    """(1 - p)^gamma without loss of digits where p is almost 1."""
    if gamma == 0:
        return 1.0
    return (-log_p.expm1()).pow(gamma) if log_not_p is None else (gamma * log_not_p).exp()


def _total(parts: list[Tensor]) -> Tensor:
    """Sum (B,) of the loss over voxels, from parts (B, C, V) of the log-likelihood."""
    # summed, not averaged: the gradient of a mean over voxels is written out, of their size
    sums = [part.sum(2).sum(1) for part in parts]
    return -(sums[0] if len(sums) == 1 else sums[0] + sums[1])


def _num_known(logits: Tensor, known: Tensor | None) -> int | Tensor:
    """Known voxels of a sample, or (B,) of each; 1 where there is none, to divide by."""
    if known is None:
        return math.prod(logits.shape[2:])
    return known.flatten(1).sum(1).clamp(min=1)


def _dice_loss_triton(
    logits: Tensor,
    label: Tensor,
    exclusive: bool,
    gamma: float,
    known: Tensor | None,
    terms: Collection[str],
) -> LossTerms:
    # Imported here because Triton may be absent, and takes seconds to import.
    from recycleseg.kernels.dice_loss import dice_loss_fwd

    is_mask = label.shape == logits.shape
    z = collapse_spatial(logits)
    target = collapse_spatial(label if is_mask else label.unsqueeze(1))
    target = target if is_mask else target.squeeze(1)
    seen = None if known is None else known.flatten(1).byte().contiguous()
    sums = dice_loss_fwd(z, target, seen, exclusive, float(gamma))
    overlap, probability, counts = sums[:, :-2].unflatten(1, (3, -1)).unbind(1)
    number = _num_known(logits, known)
    focal, entropy = (term / number for term in sums[:, -2:].unbind(1))
    counts = counts.detach()
    found = (_dice(overlap, probability, counts), counts, focal, entropy)
    names = ("dice", "dice", "focal", "cross_entropy")
    return LossTerms(
        *(
            term if name in terms else torch.full_like(term, torch.nan)
            for name, term in zip(names, found, strict=True)
        )
    )
