"""Means of labels and of all labels, the headline, and how Dice changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from recycleseg.evaluation.statistics import bootstrap_interval
from recycleseg.report.columns import format_number, size_digits
from recycleseg.report.intervals import headline, label_means, overall_mean, trend

RNG = np.random.default_rng(0)


def test_overall_is_the_mean_of_the_labels_means() -> None:
    values = RNG.uniform(0.5, 1, (9, 3))
    values[2, 0], values[5, 1], values[6, 1] = np.nan, np.inf, np.nan
    means = label_means(values)
    assert [m.num_inf for m in means] == [0, 1, 0] and [m.num_nan for m in means] == [1, 1, 0]
    overall = overall_mean(values)
    assert overall.value == pytest.approx(np.mean([m.value for m in means]), rel=1e-12)
    assert (overall.num_inf, overall.num_nan) == (1, 2)
    assert overall.low < overall.value < overall.high


def test_overall_interval_is_that_of_case_means_where_nothing_is_missing() -> None:
    values = RNG.uniform(0.5, 1, (12, 2))
    overall = overall_mean(values)
    low, high = bootstrap_interval(values.mean(1, keepdims=True))[:, 0]
    # The resamples are the same, but summed in another order.
    assert (overall.low, overall.high) == pytest.approx((low, high), rel=1e-12)


@pytest.mark.parametrize("values", [[[0.5]], [[np.nan, np.nan]] * 3, [[np.inf], [np.inf]]])
def test_too_few_values_have_no_interval(values: list[list[float]]) -> None:
    overall = overall_mean(np.array(values))
    assert np.isnan([overall.low, overall.high]).all()


@pytest.mark.parametrize(
    ("change", "verdict"), [(0.01, "improves"), (-0.01, "declines"), (0.0, "holds")]
)
def test_trend_is_that_of_paired_differences(change: float, verdict: str) -> None:
    # Cases differ much more than steps, so only paired differences can show the change.
    first = RNG.uniform(0.2, 1, (30, 2))
    last = first + change + RNG.normal(0, 0.002, first.shape)
    said = trend(first, last)
    assert said.verdict == verdict and f"Dice {verdict}" in said.sentence
    assert trend(first[:1], last[:1]).verdict == "unknown"


def test_headline(evaluated: Callable[..., Any]) -> None:
    scores, _ = evaluated(labels={"a": 1, "b": 2})
    dice = overall_mean(scores.by_step[-1].table["dice"])
    assert headline(scores.by_step[-1]) == (
        f"Mean Dice {dice.value:.3f} (95 % interval {dice.low:.3f} to {dice.high:.3f}) "
        "over 7 cases; no structure was missed."
    )
    scores, _ = evaluated(labels={"a": 1}, case_ids=("one",), missed=(0,))
    expected = "Mean Dice 0.000 over 1 case; a was missed in 1 case."
    assert headline(scores.by_step[-1]) == expected
    scores, _ = evaluated(labels={"a": 1}, case_ids=("one",), absent=(0,))
    assert headline(scores.by_step[-1]).startswith("No structure is in the reference")


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
