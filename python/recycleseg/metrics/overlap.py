"""Metrics that follow from voxel counts and from sums of voxel indices.

A structure that neither map has gives NaN, "not applicable"; one that only one of them has gives
0, and an infinite distance of centroids, so that a missed structure never improves a mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# counts: (..., 3) true positives, predicted and reference voxels, as recycleseg.ops.overlap_counts
# gives them.
Counts = NDArray[Any]

# From true positives, predicted and reference voxels to the outcomes, but that the true negatives
# lack the number of all voxels.
_OUTCOMES = np.array([[1, -1, -1, 1], [0, 1, 0, -1], [0, 0, 1, -1]])


def dice(counts: Counts) -> Array:
    """Dice coefficient (...) of counts (..., 3): 2 TP / (predicted + reference)."""
    tp, pred, ref = _split(counts)
    return ratio(2 * tp, pred + ref)


def iou(counts: Counts) -> Array:
    """Intersection over union (...) of counts (..., 3)."""
    tp, pred, ref = _split(counts)
    return ratio(tp, pred + ref - tp)


def precision(counts: Counts) -> Array:
    """TP / predicted (...) of counts (..., 3); 0 where nothing was predicted of a structure."""
    tp, pred, ref = _split(counts)
    return ratio(tp, np.where(pred == 0, ref, pred))


def recall(counts: Counts) -> Array:
    """TP / reference (...) of counts (..., 3); 0 where the reference lacks what was predicted."""
    tp, pred, ref = _split(counts)
    return ratio(tp, np.where(ref == 0, pred, ref))


def outcomes(counts: Counts, num_voxels: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """True positives, false positives, false negatives, true negatives (..., 4) of counts (..., 3).

    Args:
        counts: (..., 3).
        num_voxels: of a whole map, or (B, 1) of each of B maps.
    """
    table: NDArray[np.int64] = counts @ _OUTCOMES
    table[..., 3] += num_voxels
    return table


def volumes(counts: Counts, spacing: Sequence[float]) -> Array:
    """Sizes (..., 2), predicted and reference, in ml; in mm^2 where spacing (mm) has two axes."""
    mm = math.prod(spacing)
    return counts[..., 1:] * (mm / 1000 if len(spacing) == 3 else mm)


def centroid_distance(
    counts: Counts, coordinate_sums: NDArray[Any], spacing: Sequence[float]
) -> Array:
    """Distance (...) in mm between the centroids of a structure in both maps.

    Args:
        counts: (..., 3).
        coordinate_sums: (..., 2, D) sums of voxel indices, predicted and reference.
        spacing: D numbers, in mm.

    Returns:
        float64 (...); inf where one map lacks the structure, NaN where both do.
    """
    sizes = counts[..., 1:]
    is_empty = sizes == 0
    centroids = ratio(coordinate_sums, sizes[..., None])
    steps = (centroids[..., 0, :] - centroids[..., 1, :]) * spacing
    distance: Array = np.sqrt((steps * steps).sum(-1))
    distance[is_empty[..., 0] != is_empty[..., 1]] = np.inf
    return distance


def overlap_metrics(
    counts: Counts, coordinate_sums: NDArray[Any], spacing: Sequence[float]
) -> dict[str, Array]:
    """Every metric above, by name; the arguments are those of :func:`centroid_distance`."""
    sizes = volumes(counts, spacing)
    values = (
        dice(counts),
        iou(counts),
        precision(counts),
        recall(counts),
        sizes[..., 0],
        sizes[..., 1],
        centroid_distance(counts, coordinate_sums, spacing),
    )
    return dict(zip(overlap_names(spacing), values, strict=True))


def overlap_names(spacing: Sequence[float]) -> list[str]:
    """The metrics' names, for spacing (mm) of 2 or 3 axes."""
    unit = "volume_ml" if len(spacing) == 3 else "area_mm2"
    names = ["dice", "iou", "precision", "recall", f"pred_{unit}", f"ref_{unit}"]
    return [*names, "centroid_distance"]


def _split(counts: Counts) -> tuple[Counts, Counts, Counts]:
    return counts[..., 0], counts[..., 1], counts[..., 2]


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> Array:
    """part / whole in float64; NaN where both are 0, "not applicable"."""
    with np.errstate(invalid="ignore"):
        quotient: Array = part / whole
    return quotient
