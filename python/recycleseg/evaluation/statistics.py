"""Intervals and tests over patients."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # loads its modules when they are used
from numpy.typing import NDArray

Array = NDArray[np.float64]
Groups = NDArray[np.int64]

RESAMPLES = 10_000
# Below six, no two-sided signed-rank test can reach p < 0.05, and an interval of a mean is hardly
# more than the smallest and the largest value.
MIN_CASES = 6
ERROR_RATE = 0.05
# With more values the signed-rank test uses the normal approximation.
_MAX_EXACT = 200
_DRAWN_AT_ONCE = 1 << 22


def patient_groups(case_ids: Sequence[str], patients: Mapping[str, str]) -> Groups:
    """Number (N,) of the patient of each case, from 0; a case without a patient is its own.

    Args:
        case_ids: the N cases.
        patients: case_id -> patient.
    """
    # A pair, because a patient may have the name of another case.
    names = [(c in patients, patients.get(c, c)) for c in case_ids]
    number = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names], dtype=np.int64)


def number_of(groups: Groups, where: NDArray[np.bool_]) -> int:
    """Number of patients with a case where `where` (N,) is true."""
    return len(np.unique(groups[where]))


def bootstrap_interval(
    values: Array,
    groups: Groups | None = None,
    *,
    level: float = 1 - ERROR_RATE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Array:
    """Percentile bootstrap interval of the mean of each column.

    Args:
        values: (N, M), one row per case. Means are over the finite values of a column.
        groups: (N,), the patient of each case; patients are resampled with all their cases. None
            means that every case is a patient.
        level: probability that the interval covers.
        resamples: how often the patients are drawn, with replacement, the same for all columns.
        seed: seed of the random numbers.

    Returns:
        (2, M), the low and the high end. NaN where fewer than MIN_CASES patients of a column have
        a finite value, and where all finite values are equal.
    """
    groups = np.arange(len(values)) if groups is None else groups
    known = np.array([shows_spread(column, groups) for column in values.T], dtype=bool)
    interval = np.full((2, values.shape[1]), np.nan)
    if not known.any():
        return interval
    means = resampled_means(values[:, known], groups, resamples, seed)
    tails = [(1 - level) / 2, (1 + level) / 2]
    interval[:, known] = np.stack([np.nanquantile(column, tails) for column in means.T], axis=1)
    return interval


def shows_spread(column: Array, groups: Groups) -> bool:
    """Whether values (N,) can show how much they vary: they differ, and of enough patients."""
    finite = np.isfinite(column)
    if number_of(groups, finite) < MIN_CASES:
        return False
    return bool(np.ptp(column[finite]) > 0)


def resampled_means(values: Array, groups: Groups, resamples: int, seed: int) -> Array:
    """Means (R, M) over the finite values (N, M) of each of R resamples; NaN where none are."""
    rng = np.random.default_rng(seed)
    finite = np.isfinite(values)
    num = int(groups.max()) + 1
    chunk = max(1, _DRAWN_AT_ONCE // max(num, len(values)))
    means = []
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(num, size=(rows, num)) + num * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * num).reshape(rows, num)[:, groups]
        weights = weights.astype(float)
        sizes = weights @ finite.astype(float)
        sums = weights @ np.where(finite, values, 0.0)
        means.append(sums / np.where(sizes == 0, np.nan, sizes))
    return np.concatenate(means)


@dataclass(frozen=True)
class SignedRank:
    """Two-sided signed-rank test whether paired differences are 0, and the interval of this test.

    The interval has 0 inside exactly if p > error_rate.

    Attributes:
        p_value: NaN with fewer than MIN_CASES differences.
        typical: the median of the averages of every two differences (Hodges and Lehmann), which
            lies in the interval; NaN without differences.
        low, high: ends of the interval; NaN if so few differences have none at this level.
    """

    p_value: float
    typical: float
    low: float
    high: float

    @property
    def direction(self) -> int:
        """1 or -1 if the interval is above or below 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def signed_rank(differences: Array, error_rate: float = ERROR_RATE) -> SignedRank:
    """Test differences, and invert the test.

    The rank sum of the positive differences is the number of positive averages of two differences,
    each also paired with itself. An average of 0 counts for both signs, so equal pairs and ties
    speak against a difference. p is exact for up to 200 differences without ties, too large with
    ties, and the normal approximation for more. Source: Hollander, Wolfe and Chicken,
    Nonparametric Statistical Methods, 2014, chapter 3.

    Args:
        differences: (N,), without NaN. They may be infinite; then so may the interval.
        error_rate: 1 - level of the interval.
    """
    num = len(differences)
    known, num_unknown = _averages(differences)
    typical = _middle(known)
    if num < MIN_CASES:
        return SignedRank(math.nan, typical, math.nan, math.nan)
    not_positive = num_unknown + int(np.searchsorted(known, 0.0, side="right"))
    not_negative = num_unknown + len(known) - int(np.searchsorted(known, 0.0, side="left"))
    p_value = _two_sided(num, min(not_positive, not_negative))
    critical = _critical(num, error_rate)
    if critical < 0:
        return SignedRank(p_value, typical, math.nan, math.nan)
    inside = critical - num_unknown
    low, high = (known[inside], known[-1 - inside]) if inside >= 0 else (-np.inf, np.inf)
    return SignedRank(p_value, typical, float(low), float(high))


def _averages(differences: Array) -> tuple[Array, int]:
    """Sorted averages of every two differences, each also with itself; how many are unknown.

    Unknown is the average of inf and -inf. It counts for both signs, as an average of 0.
    """
    if len(differences) == 0:
        return differences, 0
    with np.errstate(invalid="ignore"):
        averages = np.concatenate([(d + differences[i:]) / 2 for i, d in enumerate(differences)])
    averages.sort()
    unknown = int(np.isnan(averages).sum())
    return averages[: len(averages) - unknown], unknown


def _middle(known: Array) -> float:
    """The median of sorted values, of which some may be infinite."""
    if len(known) == 0:
        return math.nan
    low, high = float(known[(len(known) - 1) // 2]), float(known[len(known) // 2])
    if low == high or math.isinf(low) or math.isinf(high):
        return low if abs(low) <= abs(high) else high
    return (low + high) / 2


def _critical(num: int, error_rate: float) -> int:
    """The largest rank sum of one sign that is significant, or -1."""
    low, high = -1, num * (num + 1) // 2
    while high - low > 1:
        middle = (low + high) // 2
        if _two_sided(num, middle) <= error_rate:
            low = middle
        else:
            high = middle
    return low


def _two_sided(num: int, rank_sum: int) -> float:
    """Probability that the rank sum of one of the signs is at most this."""
    if num <= _MAX_EXACT:
        return min(1.0, 2 * float(_cumulative(num)[rank_sum]))
    mean = num * (num + 1) / 4
    deviation = math.sqrt(mean * (2 * num + 1) / 6)
    return min(1.0, 2 * float(scipy.special.ndtr((rank_sum + 0.5 - mean) / deviation)))


@functools.lru_cache(maxsize=64)
def _cumulative(num: int) -> Array:
    """Probability that the rank sum of the positive signs is at most 0, 1, ..., if signs are coins.

    All 2^num ways to give signs to the ranks 1 to num count alike.
    """
    ways = np.zeros(num * (num + 1) // 2 + 1)
    ways[0] = 1.0
    for rank in range(1, num + 1):
        ways[rank:] += ways[:-rank].copy()
        ways /= 2
    return np.cumsum(ways)


def bonferroni(p_values: Sequence[float]) -> list[float]:
    """p values multiplied by the number of tests; NaN does not count as a test."""
    tests = sum(not math.isnan(p) for p in p_values)
    return [min(1.0, tests * p) if not math.isnan(p) else p for p in p_values]


def by_patient(differences: Array, groups: Groups) -> Array:
    """Mean difference of every patient, of differences (N,) without NaN.

    A patient with infinite differences of both signs has 0.
    """
    _, patients = np.unique(groups, return_inverse=True)
    with np.errstate(invalid="ignore"):
        means = np.bincount(patients, weights=differences) / np.bincount(patients)
    result: Array = np.where(np.isnan(means), 0.0, means)
    return result


def value_range(values: Array) -> tuple[float, float]:
    """The smallest and the largest finite value; NaN without one."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (math.nan, math.nan)


def shown_digits(values: Sequence[float], at_least: int) -> int:
    """Digits behind the point with which no value but 0 is printed as 0; six at most."""
    small = [abs(v) for v in values if v != 0 and math.isfinite(v)]
    digits = (d for d in range(at_least, 6) if all(round(v, d) > 0 for v in small))
    return next(digits, max(at_least, 6))
