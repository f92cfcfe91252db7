"""Metrics that follow from voxel counts."""

from __future__ import annotations

from torch import Tensor


def dice_from_counts(counts: Tensor) -> Tensor:
    """Dice coefficient of every class.

    counts: (..., 3) true positives, predicted and reference voxels (see
    recycleseg.ops.overlap_counts). Returns float64 (...): 2 TP / (predicted + reference);
    0 where one of both is empty, NaN ("not applicable") where both are.
    """
    tp, pred, ref = counts.double().unbind(-1)
    return 2.0 * tp / (pred + ref)


def iou_from_counts(counts: Tensor) -> Tensor:
    """Intersection over union of every class; shapes and empty cases as `dice_from_counts`."""
    tp, pred, ref = counts.double().unbind(-1)
    return tp / (pred + ref - tp)
