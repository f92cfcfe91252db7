"""Means over cases, some of which are not applicable or missed."""

from __future__ import annotations

import math
import statistics

import numpy as np

from recycleseg.metrics import Summary, summarise


def test_finite_values_and_counts_of_others() -> None:
    values = [1.0, 2.5, math.nan, 7.0, math.inf, math.nan]
    finite = [1.0, 2.5, 7.0]
    assert summarise(values) == Summary(
        mean=statistics.mean(finite),
        std=statistics.stdev(finite),
        median=2.5,
        num_finite=3,
        num_nan=2,
        num_inf=1,
    )


def test_one_value_or_none() -> None:
    one = summarise([[4.0]])
    assert (one.mean, one.median, one.num_finite) == (4.0, 4.0, 1)
    assert math.isnan(one.std)
    for none in ([], [math.inf, math.nan]):
        summary = summarise(none)
        assert summary.num_finite == 0
        assert np.isnan([summary.mean, summary.std, summary.median]).all()
