"""What a metric amounts to over many cases: some are not applicable, some are missed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recycleseg.ops._arrays import refuse_mask

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """Statistics over the finite values, and how many were not.

    mean, std, median: of the finite values, NaN where there is none; std is the sample's, with
    n - 1, and NaN of a single value. num_nan: cases where the metric is not applicable, since
    neither map has the structure. num_inf: cases where one map alone has it, which no mean of
    distances can show: report it beside the mean.
    """

    mean: float
    std: float
    median: float
    num_finite: int
    num_nan: int
    num_inf: int


def summarise(values: ArrayLike) -> Summary:
    """Summary of all elements of `values`, which have no mask."""
    refuse_mask("values", values)
    array = np.asarray(values, dtype=np.float64).ravel()
    finite = array[np.isfinite(array)]
    return Summary(
        mean=float(finite.mean()) if len(finite) else math.nan,
        std=float(finite.std(ddof=1)) if len(finite) > 1 else math.nan,
        median=float(np.median(finite)) if len(finite) else math.nan,
        num_finite=len(finite),
        num_nan=int(np.isnan(array).sum()),
        num_inf=int(np.isinf(array).sum()),
    )


def finite_mean(values: Array, axis: int = 0) -> Array:
    """Mean over the finite values along an axis; NaN where there is none."""
    finite = np.isfinite(values)
    number = finite.sum(axis)
    total: Array = np.where(finite, values, 0.0).sum(axis)
    return total / np.where(number == 0, np.nan, number)


def mean_of_means(values: Array) -> float:
    """The mean over structures of their means over cases, of values (B, C).

    Each structure counts the same, in however many cases it applies. NaN where none applies.
    """
    return float(finite_mean(finite_mean(values)))
