"""Means of labels and of all labels, their intervals, ranges and counts."""

from __future__ import annotations

import numpy as np
import pytest

from recycleseg.evaluation.statistics import bootstrap_interval
from recycleseg.report.columns import format_number, size_digits
from recycleseg.report.intervals import Mean, label_means, overall_mean

RNG = np.random.default_rng(0)


def alone(values: np.ndarray) -> np.ndarray:
    """Every case is of another patient."""
    return np.arange(len(values))


def test_overall_is_the_mean_of_the_labels_means() -> None:
    values = RNG.uniform(0.5, 1, (9, 3))
    values[2, 0], values[5, 1], values[6, 1] = np.nan, np.inf, np.nan
    means = label_means(values, alone(values))
    assert [m.num_inf for m in means] == [0, 1, 0] and [m.num_nan for m in means] == [1, 1, 0]
    overall = overall_mean(values, alone(values))
    assert overall.value == pytest.approx(np.mean([m.value for m in means]), rel=1e-12)
    assert (overall.num_inf, overall.num_nan) == (1, 2)
    assert [m.count for m in (*means, overall)] == ["n = 8", "n = 7", "n = 9", "n = 7 to 9"]
    assert overall.low < overall.value < overall.high


def test_overall_interval_is_that_of_case_means_where_nothing_is_missing() -> None:
    values = RNG.uniform(0.5, 1, (12, 2))
    overall = overall_mean(values, alone(values))
    low, high = bootstrap_interval(values.mean(1, keepdims=True))[:, 0]
    # The resamples are the same, but summed in another order.
    assert (overall.low, overall.high) == pytest.approx((low, high), rel=1e-12)


@pytest.mark.parametrize("values", [[[0.5]], [[np.nan, np.nan]] * 8, [[np.inf]] * 8, [[0.5]] * 8])
def test_too_few_or_equal_values_have_no_interval(values: list[list[float]]) -> None:
    array = np.array(values)
    for mean in (*label_means(array, alone(array)), overall_mean(array, alone(array))):
        assert np.isnan([mean.low, mean.high]).all()


@pytest.mark.parametrize("num", [1, 2, 5, 6, 40])
def test_intervals_begin_with_six_patients(num: int) -> None:
    values = RNG.uniform(0.5, 1, (num, 2))
    for groups in (np.arange(num), np.arange(num) // 2):
        patients = len(np.unique(groups))
        for mean in (*label_means(values, groups), overall_mean(values, groups)):
            assert np.isnan(mean.low) == np.isnan(mean.high) == (patients < 6)
            assert mean.smallest <= mean.value <= mean.largest and mean.num == (num, num)


def test_the_mean_of_all_has_no_interval_if_one_label_has_none() -> None:
    values = RNG.uniform(0.5, 1, (20, 2))
    values[5:, 1] = np.nan
    common, rare = label_means(values, alone(values))
    overall: Mean = overall_mean(values, alone(values))
    assert not np.isnan(common.low) and np.isnan(rare.low) and np.isnan(overall.low)
    assert overall.count == "n = 5 to 20"
    values[:, 1] = 0.5  # which are enough, although they show no spread themselves
    overall = overall_mean(values, alone(values))
    assert overall.low < overall.value < overall.high


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1236, "+0.124"), (-0.5, "−0.500"), (-0.0001, "0.000"), (np.nan, "–"), (np.inf, "∞")],
)
def test_numbers_are_written_with_a_true_minus_and_no_minus_zero(value: float, text: str) -> None:
    assert format_number(value, 3, signed=True) == text


def test_digits_of_sizes_follow_a_typical_one() -> None:
    assert [size_digits(np.array([v, 0.0])) for v in (0.5, 3.0, 40.0, 1500.0, 8e4)] == [
        3,
        3,
        2,
        0,
        0,
    ]
    assert size_digits(np.zeros(3)) == 2
