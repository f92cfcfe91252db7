"""Intervals and tests, checked against enumeration, SciPy and examples by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from recycleseg.evaluation.statistics import bootstrap_interval, holm, signed_rank

NAN, INF = math.nan, math.inf


def test_holm_by_hand() -> None:
    # Sorted: 4 * 0.005, 3 * 0.01, 2 * 0.03, and 0.04, raised because it is below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-15)
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_does_not_count_what_was_not_tested() -> None:
    first, none, second = holm([0.02, NAN, 0.03])
    assert (first, second) == pytest.approx((0.04, 0.04), abs=1e-15)
    assert math.isnan(none)


def enumerated(differences: list[float]) -> float:
    """p from all ways to give signs to the ranks."""
    ranks = stats.rankdata(np.abs(differences))
    observed = abs((np.sign(differences) * ranks).sum())
    balances = [abs(np.dot(s, ranks)) for s in itertools.product((-1, 1), repeat=len(ranks))]
    return float(np.mean([balance >= observed - 1e-9 for balance in balances]))


@pytest.mark.parametrize(
    ("differences", "by_hand"),
    [
        ([1, 2, 3, 4, 5, 6], 2 / 64),
        ([1, 1, 2, 3, 4, 0], 2 / 32),
        ([1] * 6, 2 / 64),
        ([0.3, -0.1, 0.2, 0.7, -0.5, 0.9, 1.1], None),
        ([-1, -2, -3, -4, -5, INF], None),
    ],
)
def test_signed_rank_of_few_is_exact(differences: list[float], by_hand: float | None) -> None:
    p_value, _ = signed_rank(np.array(differences))
    assert p_value == pytest.approx(enumerated([d for d in differences if d]), abs=1e-12)
    assert by_hand is None or p_value == by_hand


@pytest.mark.parametrize("num", range(1, 11))
def test_signed_rank_with_ties_is_enumeration(num: int) -> None:
    rng = np.random.default_rng(num)
    for _ in range(5):
        differences = rng.choice([-3, -2, -1, 1, 2, 3, INF], size=num)
        p_value, _ = signed_rank(differences)
        assert p_value == pytest.approx(enumerated(differences.tolist()), abs=1e-12)


@pytest.mark.parametrize("num", [6, 13, 30, 50])
def test_signed_rank_without_ties_is_scipys(num: int) -> None:
    differences = np.random.default_rng(num).normal(0.3, 1, num)
    expected = stats.wilcoxon(differences, method="exact").pvalue
    assert signed_rank(differences)[0] == pytest.approx(expected, rel=1e-12)


def test_infinite_differences_have_the_top_rank() -> None:
    assert signed_rank(np.array([-1.0, -2, -3, -4, -5, INF]))[1] == pytest.approx((6 - 15) / 21)
    p_value, balance = signed_rank(np.array([-0.1] * 3 + [INF] * 9))
    assert balance > 0 and p_value < 0.05


def test_signed_rank_of_many_is_scipys_approximation() -> None:
    rng = np.random.default_rng(0)
    for differences in (rng.normal(0.2, 1, 80), rng.integers(-3, 5, 90).astype(float)):
        expected = stats.wilcoxon(differences[differences != 0], method="asymptotic").pvalue
        assert signed_rank(differences)[0] == pytest.approx(expected, rel=1e-12)


def test_zero_differences_are_dropped() -> None:
    assert signed_rank(np.zeros(10)) == (1.0, 0.0)
    some = [1.0, 2.0, -3.0, 4.0, 5.0, 6.0]
    assert signed_rank(np.array([0.0, *some, 0.0])) == signed_rank(np.array(some))


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
    few = np.array([[1.0, NAN, 2.0], [NAN, NAN, 2.0], [INF, INF, 2.0]])
    interval = bootstrap_interval(few)
    assert np.isnan(interval[:, :2]).all()
    assert interval[:, 2].tolist() == [2.0, 2.0]


def test_interval_depends_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).normal(size=(30, 2))
    once = bootstrap_interval(values, seed=5, resamples=1000)
    np.testing.assert_array_equal(once, bootstrap_interval(values, seed=5, resamples=1000))
    assert (once != bootstrap_interval(values, seed=6, resamples=1000)).all()
    monkeypatch.setattr("recycleseg.evaluation.statistics._DRAWN_AT_ONCE", 1000)
    np.testing.assert_allclose(
        once, bootstrap_interval(values, seed=5, resamples=1000), rtol=0, atol=1e-12
    )
