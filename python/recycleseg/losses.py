"""Segmentation losses: soft Dice, focal loss and cross entropy.

Logits are (B, C, *S) in any floating dtype; losses are computed in float32 at least. The label is
(B, *S) integers for exclusive classes, or a mask (B, C, *S), which may be soft: for overlapping
classes, and for exclusive ones that sum to 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dice_loss(logits: Tensor, label: Tensor, *, exclusive: bool = True) -> Tensor:
    """1 - soft Dice of each sample and class, (B, C), NaN where the label lacks the class.

    Raises:
        ValueError: logits and label do not fit.
    """
    logits, target = _flatten(logits, label, exclusive)
    log_p, _ = _log_probs(logits, exclusive)
    dice, present = _dice(log_p.exp(), target)
    return torch.where(present, dice, torch.nan)


def focal_loss(
    logits: Tensor, label: Tensor, *, exclusive: bool = True, gamma: float = 2.0
) -> Tensor:
    """Focal loss (Lin et al., arXiv 1708.02002): -(1 - p)^gamma * log p of the truth, (B,).

    Mean over voxels; overlapping classes add up their binary losses. gamma 0 is cross entropy.

    Raises:
        ValueError: logits and label do not fit, or a gamma below 1 that is not 0.
    """
    _check_gamma(gamma)
    logits, target = _flatten(logits, label, exclusive)
    return _focal(*_log_probs(logits, exclusive), target, gamma)


def cross_entropy_loss(logits: Tensor, label: Tensor, *, exclusive: bool = True) -> Tensor:
    """Cross entropy (B,) in nats, mean over voxels; overlapping classes add up theirs.

    Raises:
        ValueError: logits and label do not fit.
    """
    return focal_loss(logits, label, exclusive=exclusive, gamma=0.0)


class SegmentationLoss(nn.Module):
    """Weighted sum of Dice, focal loss and cross entropy.

    Dice is the mean over the classes that the label has: of exclusive classes the foreground (1
    and above), of overlapping classes all. A sample that has none of them has Dice term 0.

    Args:
        dice: weight of the Dice loss.
        focal: weight of the focal loss.
        cross_entropy: weight of the cross entropy.
        exclusive: exclusive classes (softmax, class 0 is background) or overlapping (sigmoid).
        focal_gamma: exponent of the focal loss, 0 or at least 1.
        imgx_compat: as ImgX, leave out class 0 of overlapping classes too, and give NaN for a
            sample that has no foreground.

    Raises:
        ValueError: a negative weight, or all 0, or a bad focal_gamma.
    """

    def __init__(
        self,
        dice: float = 1.0,
        focal: float = 20.0,
        cross_entropy: float = 0.0,
        *,
        exclusive: bool = True,
        focal_gamma: float = 2.0,
        imgx_compat: bool = False,
    ) -> None:
        super().__init__()
        weights = {"dice": dice, "focal": focal, "cross_entropy": cross_entropy}
        if min(weights.values()) < 0 or max(weights.values()) == 0:
            raise ValueError(f"weights must be at least 0 and not all 0, got {weights}")
        _check_gamma(focal_gamma)
        self.weights = weights
        self.exclusive = exclusive
        self.focal_gamma = focal_gamma
        self.imgx_compat = imgx_compat

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Loss (B,) in float32 (float64 for float64 logits).

        Raises:
            ValueError: logits and label do not fit.
        """
        logits, target = _flatten(logits, label, self.exclusive)
        log_p, log_not_p = _log_probs(logits, self.exclusive)
        loss = logits.new_zeros(logits.shape[0])
        if self.weights["dice"]:
            loss = loss + self.weights["dice"] * self._mean_dice(*_dice(log_p.exp(), target))
        if self.weights["focal"]:
            focal = _focal(log_p, log_not_p, target, self.focal_gamma)
            loss = loss + self.weights["focal"] * focal
        if self.weights["cross_entropy"]:
            entropy = _focal(log_p, log_not_p, target, 0.0)
            loss = loss + self.weights["cross_entropy"] * entropy
        return loss

    @torch.no_grad()
    def components(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Unweighted terms to log: dice (B, C), NaN if absent; focal and cross_entropy (B,)."""
        logits, target = _flatten(logits, label, self.exclusive)
        log_p, log_not_p = _log_probs(logits, self.exclusive)
        dice, present = _dice(log_p.exp(), target)
        return {
            "dice": torch.where(present, dice, torch.nan),
            "focal": _focal(log_p, log_not_p, target, self.focal_gamma),
            "cross_entropy": _focal(log_p, log_not_p, target, 0.0),
        }

    def _mean_dice(self, dice: Tensor, present: Tensor) -> Tensor:
        if self.exclusive or self.imgx_compat:
            dice, present = dice[:, 1:], present[:, 1:]
        count = present.sum(1)
        total = torch.where(present, dice, 0.0).sum(1)
        mean = total / count.clamp(min=1)
        return torch.where(count > 0, mean, torch.nan) if self.imgx_compat else mean


def _flatten(logits: Tensor, label: Tensor, exclusive: bool) -> tuple[Tensor, Tensor]:
    """Logits (B, C, N) and label (B, N) int64 or mask (B, C, N), for N voxels."""
    if logits.ndim < 3 or not logits.is_floating_point():
        raise ValueError(
            f"logits must be floating with shape (B, C, *S), got {logits.dtype} "
            f"{tuple(logits.shape)}"
        )
    batch, classes, *spatial = logits.shape
    is_mask = label.shape == logits.shape
    if not is_mask and not (exclusive and label.shape == (batch, *spatial)):
        label_shape = f"{(batch, *spatial)} or {tuple(logits.shape)}"
        raise ValueError(
            f"label must have shape {label_shape if exclusive else tuple(logits.shape)} "
            f"for {'exclusive' if exclusive else 'overlapping'} classes, got {tuple(label.shape)}"
        )
    if not is_mask and (label.is_floating_point() or label.dtype == torch.bool):
        raise ValueError(f"label {tuple(label.shape)} must be integer, got {label.dtype}")
    # one pass that also undoes channels-last memory: the channel axis is reduced below
    dtype = torch.promote_types(logits.dtype, torch.float32)
    flat = logits.to(dtype, memory_format=torch.contiguous_format).flatten(2)
    return flat, label.flatten(2).to(dtype) if is_mask else label.flatten(1).long()


def _log_probs(logits: Tensor, exclusive: bool) -> tuple[Tensor, Tensor | None]:
    """log p and, for overlapping classes, log (1 - p); both (B, C, N)."""
    if exclusive:
        return logits.log_softmax(1), None
    return F.logsigmoid(logits), F.logsigmoid(-logits)


def _dice(probs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """1 - soft Dice (B, C), and whether the label has the class (B, C)."""
    if target.ndim == 2:
        target = torch.zeros_like(probs).scatter_(1, target.unsqueeze(1), 1.0)
    size = target.sum(2)
    overlap = torch.linalg.vecdot(probs, target)
    present = size > 0
    # an absent class whose probability is 0 too would give 0 / 0, whose gradient is NaN
    total = torch.where(present, probs.sum(2) + size, 1.0)
    return 1 - 2 * overlap / total, present


def _focal(log_p: Tensor, log_not_p: Tensor | None, target: Tensor, gamma: float) -> Tensor:
    """Focal loss (B,)."""
    if log_not_p is not None:
        true = (gamma * log_not_p).exp() * log_p * target
        false = (gamma * log_p).exp() * log_not_p * (1 - target)
        return -(true + false).sum(1).mean(1)
    if target.ndim == 2:
        log_p_true = log_p.gather(1, target.unsqueeze(1)).squeeze(1)
        return -(_focus(log_p_true, gamma) * log_p_true).mean(1)
    return -(_focus(log_p, gamma) * log_p * target).sum(1).mean(1)


def _focus(log_p: Tensor, gamma: float) -> Tensor | float:
    """(1 - p)^gamma without loss of digits where p is almost 1."""
    return (-log_p.expm1()).pow(gamma) if gamma else 1.0


def _check_gamma(gamma: float) -> None:
    if gamma != 0 and gamma < 1:
        raise ValueError(
            f"gamma must be 0 or at least 1, got {gamma}: between them the gradient is infinite "
            "where a voxel is certain"
        )
