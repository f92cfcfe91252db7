"""Segmentation losses: soft Dice, focal loss and cross entropy.

Logits are (B, C, *S) in any floating dtype; losses are computed in float32 at least. The label is
(B, *S) integers for exclusive classes, or a mask (B, C, *S), which may be soft: for overlapping
classes, and for exclusive ones that sum to 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recycleseg.ops.dice_loss import LossTerms, check_gamma
from recycleseg.ops.dice_loss import dice_loss as loss_terms


def dice_loss(logits: Tensor, label: Tensor, *, exclusive: bool = True) -> Tensor:
    """1 - soft Dice of each sample and class.

    Args:
        logits: (B, C, *S).
        label: integers (B, *S) or a mask (B, C, *S).
        exclusive: exclusive classes (softmax) or overlapping (sigmoid).

    Returns:
        (B, C), NaN where the label lacks the class.

    Raises:
        ValueError: logits and label do not fit.
    """
    terms = loss_terms(logits, label, exclusive=exclusive, terms=("dice",))
    return _dice_of_present(terms)


def focal_loss(
    logits: Tensor, label: Tensor, *, exclusive: bool = True, gamma: float = 2.0
) -> Tensor:
    """Focal loss (Lin et al., arXiv 1708.02002): -(1 - p)^gamma * log p of the truth.

    Args:
        logits: (B, C, *S).
        label: integers (B, *S) or a mask (B, C, *S).
        exclusive: exclusive classes (softmax) or overlapping (sigmoid).
        gamma: 0, which gives cross entropy, or at least 1.

    Returns:
        (B,), mean over voxels; overlapping classes add up their binary losses.

    Raises:
        ValueError: logits and label do not fit, or a gamma below 1 that is not 0.
    """
    return loss_terms(logits, label, exclusive=exclusive, gamma=gamma, terms=("focal",)).focal


def cross_entropy_loss(logits: Tensor, label: Tensor, *, exclusive: bool = True) -> Tensor:
    """Cross entropy in nats.

    Args:
        logits: (B, C, *S).
        label: integers (B, *S) or a mask (B, C, *S).
        exclusive: exclusive classes (softmax) or overlapping (sigmoid).

    Returns:
        (B,), mean over voxels; overlapping classes add up their binary losses.

    Raises:
        ValueError: logits and label do not fit.
    """
    terms = loss_terms(logits, label, exclusive=exclusive, terms=("cross_entropy",))
    return terms.cross_entropy


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
        check_gamma(focal_gamma)
        self.weights = weights
        self.exclusive = exclusive
        self.focal_gamma = focal_gamma
        self.imgx_compat = imgx_compat

    def forward(self, logits: Tensor, label: Tensor, known: Tensor | None = None) -> Tensor:
        """The weighted sum.

        Args:
            logits: (B, C, *S).
            label: integers (B, *S) or a mask (B, C, *S).
            known: (B, *S) bool; the loss is that of these voxels alone. None: of all.

        Returns:
            (B,) in float32 (float64 for float64 logits); 0 for a sample without known voxels.

        Raises:
            ValueError: logits, label and known do not fit.
        """
        needed = tuple(name for name, weight in self.weights.items() if weight)
        terms = self._terms(logits, label, needed, known)
        loss = terms.focal.new_zeros(logits.shape[0])
        if self.weights["dice"]:
            loss = loss + self.weights["dice"] * self._mean_dice(terms)
        if self.weights["focal"]:
            loss = loss + self.weights["focal"] * terms.focal
        if self.weights["cross_entropy"]:
            loss = loss + self.weights["cross_entropy"] * terms.cross_entropy
        return loss

    @torch.no_grad()
    def components(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Unweighted terms to log: dice (B, C), NaN if absent; focal and cross_entropy (B,)."""
        terms = self._terms(logits, label, tuple(self.weights))
        return {
            "dice": _dice_of_present(terms),
            "focal": terms.focal,
            "cross_entropy": terms.cross_entropy,
        }

    def _terms(
        self,
        logits: Tensor,
        label: Tensor,
        needed: tuple[str, ...],
        known: Tensor | None = None,
    ) -> LossTerms:
        return loss_terms(
            logits,
            label,
            exclusive=self.exclusive,
            gamma=self.focal_gamma,
            known=known,
            terms=needed,
        )

    def _mean_dice(self, terms: LossTerms) -> Tensor:
        dice, present = terms.dice, terms.counts > 0
        if self.exclusive or self.imgx_compat:
            dice, present = dice[:, 1:], present[:, 1:]
        count = present.sum(1)
        total = torch.where(present, dice, 0.0).sum(1)
        mean = total / count.clamp(min=1)
        return torch.where(count > 0, mean, torch.nan) if self.imgx_compat else mean


def _dice_of_present(terms: LossTerms) -> Tensor:
    return torch.where(terms.counts > 0, terms.dice, torch.nan)
