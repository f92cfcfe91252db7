"""Intervals and tests over cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy  # loads scipy.stats at first use, because that takes a second
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 10_000
# With 5 pairs that differ, p of the two-sided signed-rank test is at least 2 / 2^5 = 0.0625.
MIN_PAIRS = 6
# With more nonzero differences the signed-rank test uses the normal approximation.
_MAX_EXACT = 50
_DRAWN_AT_ONCE = 1 << 22


def bootstrap_interval(
    values: Array, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Array:
    """Percentile bootstrap interval of the mean of each column.

    Args:
        values: (N, M), one row per case. Means are over the finite values of a column.
        level: probability that the interval covers.
        resamples: how often N rows are drawn, with replacement, the same for all columns.
        seed: seed of the random numbers.

    Returns:
        (2, M), the low and the high end. NaN where a column has fewer than two finite values.
    """
    finite = np.isfinite(values)
    known = finite.sum(0) > 1
    interval = np.full((2, values.shape[1]), np.nan)
    if not known.any():
        return interval
    means = resampled_means(
        np.where(finite, values, 0.0)[:, known], finite[:, known], resamples, seed
    )
    tails = [(1 - level) / 2, (1 + level) / 2]
    interval[:, known] = np.stack([np.nanquantile(column, tails) for column in means.T], axis=1)
    return interval


def resampled_means(values: Array, finite: NDArray[np.bool_], resamples: int, seed: int) -> Array:
    """Means (R, M) over the finite values of each of R resamples; NaN where there are none."""
    rng = np.random.default_rng(seed)
    num = len(values)
    chunk = max(1, _DRAWN_AT_ONCE // num)
    means = []
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(num, size=(rows, num)) + num * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * num).reshape(rows, num).astype(float)
        sizes = weights @ finite.astype(float)
        means.append(weights @ values / np.where(sizes == 0, np.nan, sizes))
    return np.concatenate(means)


def signed_rank(differences: Array) -> tuple[float, float]:
    """Two-sided Wilcoxon signed-rank test.

    p is exact, also with ties, for up to 50 nonzero differences. For more it is the normal
    approximation, corrected for ties.

    Args:
        differences: (N,). Zeros are dropped, equal values share their mean rank, infinite values
            have the highest ranks.

    Returns:
        p (1 if all differences are zero), and the balance of ranks, from -1 (all differences are
        negative) to 1 (all are positive).
    """
    nonzero = differences[differences != 0]
    if len(nonzero) == 0:
        return 1.0, 0.0
    signs = np.sign(nonzero)
    ranks = scipy.stats.rankdata(np.abs(nonzero))
    if len(ranks) > _MAX_EXACT:
        result = scipy.stats.wilcoxon(signs * ranks, correction=False, method="asymptotic")
        p_value = float(result.pvalue)
    else:
        p_value = _exact_p(ranks, signs > 0)
    return p_value, float((signs * ranks).sum() / ranks.sum())


def _exact_p(ranks: Array, positive: NDArray[np.bool_]) -> float:
    """Two-sided p of the rank sum, from all 2^N ways to give signs to the ranks (N,)."""
    doubled = np.rint(2 * ranks).astype(np.int64)  # the mean rank of ties may end in .5
    ways = np.zeros(doubled.sum() + 1)  # counts up to 2^50, which float64 holds exactly
    ways[0] = 1
    for rank in doubled:
        ways[rank:] += ways[:-rank].copy()
    smaller = min(doubled[positive].sum(), doubled[~positive].sum())
    return min(1.0, float(2 * ways[: smaller + 1].sum() / 2.0 ** len(ranks)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for the number of tests; NaN does not count as a test.

    Source: Holm 1979, Scand. J. Statist. 6:65.
    """
    p = np.asarray(p_values, dtype=np.float64)
    tests = np.flatnonzero(~np.isnan(p))
    order = tests[np.argsort(p[tests])]
    adjusted = np.full(len(p), np.nan)
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in adjusted]
