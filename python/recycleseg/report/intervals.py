"""Means over cases and labels with their bootstrap intervals, and sentences about them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recycleseg.evaluation.statistics import RESAMPLES, bootstrap_interval, resampled_means
from recycleseg.metrics.aggregate import finite_mean, mean_of_means
from recycleseg.metrics.scores import Scores
from recycleseg.report.columns import Array, format_number, sizes


@dataclass(frozen=True)
class Mean:
    """Mean over the finite values, its 95 % interval over cases, and counts of other values."""

    value: float
    low: float
    high: float
    num_inf: int
    num_nan: int


def label_means(values: Array) -> list[Mean]:
    """Mean of every label's column of `values` (B, C)."""
    low, high = bootstrap_interval(values)
    means = finite_mean(values)
    return [
        Mean(
            float(means[c]),
            float(low[c]),
            float(high[c]),
            int(np.isinf(values[:, c]).sum()),
            int(np.isnan(values[:, c]).sum()),
        )
        for c in range(values.shape[1])
    ]


def overall_mean(values: Array) -> Mean:
    """The mean over labels of their means, of `values` (B, C); counts are over all B x C values."""
    finite = np.isfinite(values)
    interval = np.full(2, np.nan)
    if (finite.sum(0) > 1).any():
        resampled = resampled_means(np.where(finite, values, 0.0), finite, RESAMPLES, 0)
        means = finite_mean(resampled, axis=1)
        interval = np.quantile(means[np.isfinite(means)], [0.025, 0.975])
    value = mean_of_means(values)
    num_inf, num_nan = int(np.isinf(values).sum()), int(np.isnan(values).sum())
    return Mean(value, float(interval[0]), float(interval[1]), num_inf, num_nan)


def case_means(values: Array) -> Array:
    """Means (B,) over the finite values of each case, of `values` (B, C); NaN without any."""
    return finite_mean(values, axis=1)


@dataclass(frozen=True)
class Presence:
    """Which cases have which structures.

    Attributes:
        missed: (B, C), only the reference has the structure.
        extra: (B, C), only the prediction has it.
        absent: (B, C), neither has it.
    """

    missed: NDArray[np.bool_]
    extra: NDArray[np.bool_]
    absent: NDArray[np.bool_]

    @classmethod
    def of(cls, scores: Scores) -> Presence:
        """Presence in all cases of `scores`."""
        pred, ref, _ = sizes(scores.table)
        return cls((pred == 0) & (ref > 0), (pred > 0) & (ref == 0), (pred == 0) & (ref == 0))


def headline(scores: Scores) -> str:
    """One sentence that sums up the evaluation."""
    cases = _counted(scores.num_cases, "case")
    mean = overall_mean(scores.table["dice"])
    if math.isnan(mean.value):
        return f"No structure is in the reference or the prediction of {cases}."
    presence = Presence.of(scores)
    sentence = f"Mean Dice {format_number(mean.value, 3)}{_interval(mean, 3)} over {cases}; "
    words = _in_words(scores.labels, presence.missed, "was missed in") or "no structure was missed"
    if extra := _in_words(scores.labels, presence.extra, "was predicted without a reference in"):
        words += f", {extra}"
    return f"{sentence}{words}."


@dataclass(frozen=True)
class Trend:
    """How Dice changes from the first sampling step to the last, as sentence and one word.

    The word is "improves", "declines", "holds" or "unknown".
    """

    sentence: str
    verdict: str


def trend(first: Array, last: Array) -> Trend:
    """The trend of Dice.

    Args:
        first, last: Dice (B, C) after the first and the last sampling step.
    """
    change = overall_mean(last - first)
    if math.isnan(change.low):
        return Trend("Too few cases to say whether Dice changes while sampling.", "unknown")
    verdict = "improves" if change.low > 0 else "declines" if change.high < 0 else "holds"
    digits = 3 if abs(change.value) >= 0.0005 else 4
    sentence = (
        f"Dice {verdict} while sampling: from the first step to the last it changes by "
        f"{format_number(change.value, digits, signed=True)}"
        f"{_interval(change, digits, signed=True)}."
    )
    return Trend(sentence, verdict)


def _interval(mean: Mean, digits: int, *, signed: bool = False) -> str:
    if math.isnan(mean.low):
        return ""
    low, high = (format_number(end, digits, signed=signed) for end in (mean.low, mean.high))
    return f" (95 % interval {low} to {high})"


def _in_words(labels: tuple[str, ...], where: NDArray[np.bool_], what: str) -> str:
    """Words for the structures of which `where` (B, C) is true most often; empty without any."""
    counts = where.sum(0)
    order = [int(c) for c in np.argsort(-counts, kind="stable") if counts[c]]
    words = [f"{labels[c]} {what} {_counted(int(counts[c]), 'case')}" for c in order[:3]]
    if len(order) > 3:
        others = _counted(len(order) - 3, "other structure")
        words.append(f"and so {'was' if len(order) == 4 else 'were'} {others}")
    return ", ".join(words)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
