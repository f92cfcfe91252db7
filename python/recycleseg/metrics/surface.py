"""Metrics that follow from surface distances.

Each takes `directed` of recycleseg.ops.surface_distances as a NumPy array (..., 2, 3 + P + K). A
structure that neither map has gives NaN, "not applicable"; one that only one of them has gives inf
and a surface Dice of 0, so that a missed structure never improves a mean. Distances have the unit
of the spacing that they were measured with: mm, or pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recycleseg.metrics.overlap import ratio
from recycleseg.units import Unit

Array = NDArray[np.float64]
_SIZE, _MEAN, _MAXIMUM, _FIRST_PERCENTILE = range(4)


def hausdorff(directed: Array) -> Array:
    """Hausdorff distance (...): the larger of the two directed maxima."""
    return _larger(directed[..., _MAXIMUM])


def percentile_hausdorff(directed: Array, index: int = 0) -> Array:
    """Percentile Hausdorff distance (...), HD95 of the 95th: the larger of both directions.

    Args:
        directed: see the top of this file.
        index: which of the measured percentiles, from 0.
    """
    return _larger(directed[..., _FIRST_PERCENTILE + index])


def directed_means(directed: Array) -> Array:
    """Mean distance (..., 2) from pred to ref and from ref to pred."""
    means = directed[..., _MEAN]
    return np.where(np.isnan(means), means[..., ::-1], means)


def assd(directed: Array) -> Array:
    """Average symmetric surface distance (...): the mean over both surfaces together."""
    sizes = directed[..., _SIZE]
    weighted = sizes * directed[..., _MEAN]
    weighted[sizes == 0] = 0.0
    return ratio(weighted[..., 0] + weighted[..., 1], sizes[..., 0] + sizes[..., 1])


def masd(directed: Array) -> Array:
    """Mean average surface distance (...): the mean of the two directed means."""
    means = directed_means(directed)
    return 0.5 * (means[..., 0] + means[..., 1])


def nsd(directed: Array, num_tolerances: int = 1, index: int = 0) -> Array:
    """Normalized surface Dice (...): the share of both surfaces within tolerance number `index`."""
    within = directed[..., directed.shape[-1] - num_tolerances + index]
    sizes = directed[..., _SIZE]
    return ratio(within[..., 0] + within[..., 1], sizes[..., 0] + sizes[..., 1])


def surface_metrics(
    directed: Array,
    pooled: Array,
    *,
    percentile: float,
    tolerances: Sequence[str],
    definition: str = "voxel",
    in_one_map: NDArray[np.bool_] | np.bool_ = np.False_,
) -> dict[str, Array]:
    """Every metric above, by name.

    Args:
        directed: (..., 2, 4 + K), of one percentile.
        pooled: (..., 1), used for the definition "voxel".
        percentile: from 0 to 100, part of a name.
        tolerances: K names of surface Dice.
        definition: "voxel" or "surfel".
        in_one_map: (...), whether only one map has the structure, which may fill the volume and so
            have no surface, where the volume's border does not count as outside.
    """
    means = directed_means(directed)
    values = [
        hausdorff(directed),
        percentile_hausdorff(directed),
        assd(directed),
        masd(directed),
        means[..., 0],
        means[..., 1],
    ]
    if definition == "voxel":
        values.append(pooled[..., 0])
    values = [np.where(in_one_map, np.inf, distance) for distance in values]
    for index in range(len(tolerances)):
        values.append(np.where(in_one_map, 0.0, nsd(directed, len(tolerances), index)))
    return dict(zip(surface_names(percentile, tolerances, definition), values, strict=True))


def surface_names(percentile: float, tolerances: Sequence[str], definition: str) -> list[str]:
    """The metrics' names; those of the definition "surfel" have names of their own."""
    hd = f"hd{percentile:g}"
    names = ["hd", hd, "assd", "masd", "mean_pred_to_ref", "mean_ref_to_pred"]
    if definition == "voxel":
        return [*names, f"{hd}_pooled", *tolerances]
    return [f"{definition}_{name}" for name in (*names, *tolerances)]


def tolerance_names(
    tolerances: Sequence[float], single: bool, unit: Unit = "mm"
) -> dict[str, float]:
    """Name of the surface Dice at each tolerance in a unit: "nsd" of one alone, else "nsd_2mm"."""
    return {"nsd" if single else f"nsd_{t:g}{unit}": t for t in tolerances}


def _larger(both: Array) -> Array:
    return np.fmax(both[..., 0], both[..., 1])
