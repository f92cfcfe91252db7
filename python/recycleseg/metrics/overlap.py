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

from recycleseg.units import Unit

Array = NDArray[np.float64]
# counts: (..., 3) true positives, predicted and reference voxels, as recycleseg.ops.overlap_counts
# gives them.
Counts = NDArray[Any]

# Unit of lengths -> number of axes -> what the names of sizes end with.
SIZES: dict[Unit, dict[int, str]] = {
    "mm": {2: "area_mm2", 3: "volume_ml"},
    "pixels": {2: "area_pixels", 3: "volume_voxels"},
}
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


def in_one_map(counts: Counts) -> NDArray[np.bool_]:
    """Whether only one of both maps has a structure (...), of counts (..., 3)."""
    _, pred, ref = _split(counts)
    alone: NDArray[np.bool_] = (pred == 0) != (ref == 0)
    return alone


def volumes(counts: Counts, spacing: Sequence[float], unit: Unit = "mm") -> Array:
    """Sizes (..., 2), predicted and reference.

    They are in ml; in mm^2 where spacing has two axes; in voxels where the unit is "pixels".
    """
    size = math.prod(spacing)
    return counts[..., 1:] * (size / 1000 if len(spacing) == 3 and unit == "mm" else size)


def centroid_distance(
    counts: Counts, coordinate_sums: NDArray[Any], spacing: Sequence[float]
) -> Array:
    """Distance (...) between the centroids of a structure in both maps, in the unit of spacing.

    Args:
        counts: (..., 3).
        coordinate_sums: (..., 2, D) sums of voxel indices, predicted and reference.
        spacing: D numbers, in mm or pixels.

    Returns:
        float64 (...); inf where one map lacks the structure, NaN where both do.
    """
    sizes = counts[..., 1:]
    centroids = ratio(coordinate_sums, sizes[..., None])
    steps = (centroids[..., 0, :] - centroids[..., 1, :]) * spacing
    distance: Array = np.sqrt((steps * steps).sum(-1))
    distance[in_one_map(counts)] = np.inf
    return distance


def overlap_metrics(
    counts: Counts, coordinate_sums: NDArray[Any], spacing: Sequence[float], unit: Unit = "mm"
) -> dict[str, Array]:
    """Every metric above, by name; the arguments are those of :func:`centroid_distance`.

    `unit` is that of spacing.
    """
    sizes = volumes(counts, spacing, unit)
    values = (
        dice(counts),
        iou(counts),
        precision(counts),
        recall(counts),
        sizes[..., 0],
        sizes[..., 1],
        centroid_distance(counts, coordinate_sums, spacing),
    )
    return dict(zip(overlap_names(spacing, unit), values, strict=True))


def overlap_names(spacing: Sequence[float], unit: Unit = "mm") -> list[str]:
    """The metrics' names, for spacing of 2 or 3 axes in this unit."""
    size = SIZES[unit][len(spacing)]
    names = ["dice", "iou", "precision", "recall", f"pred_{size}", f"ref_{size}"]
    return [*names, "centroid_distance"]


def _split(counts: Counts) -> tuple[Counts, Counts, Counts]:
    return counts[..., 0], counts[..., 1], counts[..., 2]


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> Array:
    """part / whole in float64; NaN where both are 0, "not applicable"."""
    with np.errstate(invalid="ignore"):
        quotient: Array = part / whole
    return quotient
