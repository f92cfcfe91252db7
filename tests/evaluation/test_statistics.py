"""Intervals and tests, checked against enumeration, SciPy and examples by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from recycleseg.evaluation.statistics import (
    MIN_CASES,
    bonferroni,
    bootstrap_interval,
    by_patient,
    number_of,
    patient_groups,
    shown_digits,
    signed_rank,
)

NAN, INF = math.nan, math.inf


def test_bonferroni_does_not_count_what_was_not_tested() -> None:
    first, none, second = bonferroni([0.02, NAN, 0.6])
    assert (first, second) == (0.04, 1.0) and math.isnan(none)
    assert bonferroni([]) == []


def enumerated(num: int, rank_sum: int) -> float:
    """p of a rank sum, from all ways to give signs to the ranks."""
    ranks = np.arange(1, num + 1)
    sums = [int(np.dot(s, ranks)) for s in itertools.product((0, 1), repeat=num)]
    return min(1.0, 2 * float(np.mean([each <= rank_sum for each in sums])))


@pytest.mark.parametrize("num", range(6, 13))
def test_signed_rank_of_few_is_enumeration(num: int) -> None:
    differences = np.random.default_rng(num).normal(0.4, 1, num)
    ranks = stats.rankdata(np.abs(differences))
    smaller = min(ranks[differences > 0].sum(), ranks[differences < 0].sum())
    p_value = signed_rank(differences).p_value
    assert p_value == pytest.approx(enumerated(num, int(smaller)), abs=1e-12)


@pytest.mark.parametrize("num", [6, 13, 30, 50])
def test_signed_rank_without_ties_is_scipys(num: int) -> None:
    differences = np.random.default_rng(num).normal(0.3, 1, num)
    expected = stats.wilcoxon(differences, method="exact").pvalue
    assert signed_rank(differences).p_value == pytest.approx(expected, rel=1e-12)


def test_signed_rank_of_many_is_scipys_approximation() -> None:
    differences = np.random.default_rng(0).normal(0.1, 1, 300)
    expected = stats.wilcoxon(differences, correction=True, method="asymptotic").pvalue
    assert signed_rank(differences).p_value == pytest.approx(expected, rel=1e-9)
    fewer = differences[:200]
    approximate = stats.wilcoxon(fewer, correction=True, method="asymptotic").pvalue
    assert signed_rank(fewer).p_value == pytest.approx(approximate, rel=0.02)


def test_interval_by_hand() -> None:
    # For 6 differences only the rank sum 0 has p <= 0.05, so the ends are the extreme averages.
    made = signed_rank(np.array([1.0, 2, 4, 8, 16, 32]))
    assert (made.p_value, made.low, made.high) == (2 / 64, 1.0, 32.0)
    # Of 21 sorted averages, (1 + 16) / 2 is the eleventh.
    assert (made.typical, made.direction) == (8.5, 1)
    assert math.isnan(signed_rank(np.array([1.0, 2, 4, 8, 16, 32]), 0.01).low)


@pytest.mark.parametrize("error_rate", [0.3, 0.05, 0.05 / 8, 0.05 / 40])
def test_interval_and_test_always_agree(error_rate: float) -> None:
    rng = np.random.default_rng(0)
    values = [-INF, -2, -1, -1, 0, 0, 1, 1, 2, 3, INF]
    directions = set()
    for _ in range(500):
        size = int(rng.integers(6, 40))
        kind = rng.integers(3)
        differences = rng.choice(values, size) if kind else rng.normal(0.5, 1, size)
        made = signed_rank(np.asarray(differences) + (kind == 2), error_rate)
        if math.isnan(made.low):
            assert made.p_value > error_rate or 2.0 ** (1 - size) > error_rate
            continue
        assert (made.p_value <= error_rate) == (made.direction != 0)
        assert made.low <= made.typical <= made.high
        directions.add(made.direction)
    assert directions >= {0, 1}


def test_the_test_is_not_too_often_significant() -> None:
    rng = np.random.default_rng(1)
    for draw in (
        lambda: rng.normal(size=7),
        lambda: rng.choice([-2.0, -1, 0, 1, 2], 12),
        lambda: rng.choice([-INF, -1.0, 1, INF], 10),
    ):
        significant = np.mean([signed_rank(draw()).direction != 0 for _ in range(2000)])
        assert significant < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize("num", range(MIN_CASES))
def test_fewer_than_six_are_not_tested(num: int) -> None:
    made = signed_rank(np.ones(num))
    assert np.isnan([made.p_value, made.low, made.high]).all() and made.direction == 0


def test_equal_pairs_and_infinite_differences() -> None:
    equal = signed_rank(np.zeros(10))
    assert (equal.p_value, equal.low, equal.high, equal.direction) == (1.0, 0.0, 0.0, 0)
    # Six of twelve pairs differ, which is not much.
    assert signed_rank(np.array([1.0] * 6 + [0.0] * 6)).p_value > 0.05
    missed = signed_rank(np.array([-0.1] * 3 + [INF] * 9))
    assert missed.p_value < 0.05 and (missed.low, missed.high, missed.direction) == (INF, INF, 1)
    both = signed_rank(np.array([INF, -INF] * 5))
    assert (both.p_value, both.low, both.high) == (1.0, -INF, INF)


def test_a_patient_counts_once() -> None:
    groups = patient_groups(["a1", "a2", "b", "c"], {"a1": "a", "a2": "a", "c": "b"})
    assert groups.tolist() == [0, 0, 1, 2]  # patient b is not the case b
    assert by_patient(np.array([1.0, 3.0, 5.0, 7.0]), groups).tolist() == [2.0, 5.0, 7.0]
    assert by_patient(np.array([INF, -INF, INF, 7.0]), groups).tolist() == [0.0, INF, 7.0]
    assert number_of(groups, np.array([True, True, False, True])) == 2


def test_digits_show_on_which_side_of_0_a_number_is() -> None:
    assert [shown_digits(v, 3) for v in ([0.1], [0.0004], [0.0, NAN, INF], [0.2, -3e-5])] == [
        *(3, 4, 3, 5)
    ]
    assert shown_digits([1e-9], 2) == 6


def test_interval_is_scipys() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=60)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2)
    ).confidence_interval
    low, high = bootstrap_interval(values[:, None], resamples=20_000)[:, 0]
    # With 20 000 resamples an end has a standard error of 2 % of the standard deviation of a mean.
    tolerance = 0.1 * values.std() / math.sqrt(60)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=tolerance)


def test_interval_is_of_the_finite_values() -> None:
    values = np.random.default_rng(3).normal(size=(40, 1))
    padded = np.concatenate([values, np.full((5, 1), INF), np.full((5, 1), NAN)])
    low, high = bootstrap_interval(padded)[:, 0]
    alone_low, alone_high = bootstrap_interval(values)[:, 0]
    # Among 50 rows the number of finite values varies; this widens the interval a little.
    assert (low, high) == pytest.approx((alone_low, alone_high), abs=0.05)


@pytest.mark.parametrize(
    "column",
    [[1.0, 2, 3, 4, 5, NAN], [1.0, 2, 3, 4, 5, INF], [NAN] * 6, [0.5] * 8, [0.0] * 6],
)
def test_few_or_equal_values_have_no_interval(column: list[float]) -> None:
    assert np.isnan(bootstrap_interval(np.array(column)[:, None])).all()
    sound = np.stack([column, np.arange(len(column))], axis=1)
    assert np.isnan(bootstrap_interval(sound)).any(0).tolist() == [True, False]


def test_patients_are_resampled_whole() -> None:
    of_patients = np.random.default_rng(5).normal(size=(20, 1))
    cases = np.repeat(of_patients, 4, axis=0)
    groups = np.repeat(np.arange(20), 4)
    whole = bootstrap_interval(cases, groups)
    # Four equal scans of each patient say no more than one.
    np.testing.assert_allclose(whole, bootstrap_interval(of_patients), rtol=0, atol=1e-12)
    assert np.ptp(bootstrap_interval(cases)) < 0.6 * np.ptp(whole)
    assert np.isnan(bootstrap_interval(cases[:20], groups[:20])).all()  # of five patients


def test_interval_depends_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).normal(size=(30, 2))
    once = bootstrap_interval(values, seed=5, resamples=1000)
    np.testing.assert_array_equal(once, bootstrap_interval(values, seed=5, resamples=1000))
    assert (once != bootstrap_interval(values, seed=6, resamples=1000)).all()
    monkeypatch.setattr("recycleseg.evaluation.statistics._DRAWN_AT_ONCE", 1000)
    np.testing.assert_allclose(
        once, bootstrap_interval(values, seed=5, resamples=1000), rtol=0, atol=1e-12
    )
