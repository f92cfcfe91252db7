"""Means over cases and labels: their intervals, ranges and counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from recycleseg.evaluation.statistics import (
    ERROR_RATE,
    MIN_CASES,
    RESAMPLES,
    Groups,
    bootstrap_interval,
    number_of,
    resampled_means,
    shows_spread,
    value_range,
)
from recycleseg.metrics.aggregate import finite_mean, mean_of_means
from recycleseg.report.columns import Array


@dataclass(frozen=True)
class Mean:
    """Mean over the finite values, and what tells how far it can be trusted.

    Attributes:
        value: the mean; NaN without finite values.
        low, high: 95 % interval; NaN with fewer than six patients, and where all values are equal.
        smallest, largest: of the values. For the mean of all labels, of the means of cases.
        num: how many cases have a finite value; of all labels, the fewest and the most.
        num_inf, num_nan: how many values are not finite.
    """

    value: float
    low: float
    high: float
    smallest: float
    largest: float
    num: tuple[int, int]
    num_inf: int
    num_nan: int

    @property
    def count(self) -> str:
        """The number of cases in words."""
        fewest, most = self.num
        return f"n = {most}" if fewest == most else f"n = {fewest} to {most}"


def label_means(values: Array, groups: Groups) -> list[Mean]:
    """Mean of every label's column of `values` (B, C).

    Args:
        values: one row per case.
        groups: (B,), the patient of each case.
    """
    low, high = bootstrap_interval(values, groups)
    means = finite_mean(values)
    made = []
    for c, column in enumerate(values.T):
        num = int(np.isfinite(column).sum())
        made.append(
            Mean(
                float(means[c]),
                float(low[c]),
                float(high[c]),
                *value_range(column),
                (num, num),
                int(np.isinf(column).sum()),
                int(np.isnan(column).sum()),
            )
        )
    return made


def overall_mean(values: Array, groups: Groups) -> Mean:
    """The mean over labels of their means, of `values` (B, C), over the labels with a value.

    It has an interval if at least six patients have a value of each of these labels.
    """
    finite = np.isfinite(values)
    numbers = finite.sum(0)[finite.any(0)]
    known = values[:, finite.any(0)]
    low = high = math.nan
    enough = all(number_of(groups, where) >= MIN_CASES for where in np.isfinite(known).T)
    if enough and any(shows_spread(column, groups) for column in known.T):
        means = finite_mean(resampled_means(known, groups, RESAMPLES, 0), axis=1)
        tails = [ERROR_RATE / 2, 1 - ERROR_RATE / 2]
        low, high = (float(end) for end in np.nanquantile(means, tails))
    return Mean(
        mean_of_means(values),
        low,
        high,
        *value_range(case_means(values)),
        (int(numbers.min()), int(numbers.max())) if len(numbers) else (0, 0),
        int(np.isinf(values).sum()),
        int(np.isnan(values).sum()),
    )


def case_means(values: Array) -> Array:
    """Means (B,) over the finite values of each case, of `values` (B, C); NaN without any."""
    return finite_mean(values, axis=1)
