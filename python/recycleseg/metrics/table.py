"""Every metric of structures that were measured, by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recycleseg import _ext
from recycleseg.metrics.measure import Measured
from recycleseg.metrics.overlap import overlap_metrics, overlap_names
from recycleseg.metrics.surface import surface_metrics, surface_names

Table = dict[str, NDArray[np.float64]]


def metric_table(
    measured: Measured, *, spacing: Sequence[float], percentile: float, tolerances: Sequence[str]
) -> Table:
    """Metrics (B, C) of `measured`, by the extension: for one case NumPy takes longer to start than
    the extension to measure an image.

    spacing: in mm, along the measured axes. percentile: the one that was measured. tolerances: the
    name of surface Dice at each tolerance that was measured.
    """
    counts, sums = (np.ascontiguousarray(x) for x in (measured.counts, measured.coordinate_sums))
    head = counts.shape[:-1]
    names = overlap_names(spacing)
    rows = np.empty((len(names), *head))
    _ext.C.overlap_metrics_cpu(counts.__dlpack__(), sums.__dlpack__(), spacing, rows.__dlpack__())
    table = dict(zip(names, rows, strict=True))
    for definition, (directed, pooled) in measured.distances.items():
        names = surface_names(percentile, tolerances, definition)
        rows = np.empty((len(names), *head))
        _ext.C.surface_metrics_cpu(
            directed.__dlpack__(),
            pooled.__dlpack__() if definition == "voxel" else None,
            rows.__dlpack__(),
        )
        table |= zip(names, rows, strict=True)
    return table


def metric_table_reference(
    measured: Measured, *, spacing: Sequence[float], percentile: float, tolerances: Sequence[str]
) -> Table:
    """What :func:`metric_table` computes, in NumPy."""
    table = overlap_metrics(measured.counts, measured.coordinate_sums, spacing)
    for definition, (directed, pooled) in measured.distances.items():
        table |= surface_metrics(
            directed, pooled, percentile=percentile, tolerances=tolerances, definition=definition
        )
    return table
