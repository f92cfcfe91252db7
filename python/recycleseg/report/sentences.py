"""The sentences of a report: what the scores say, and not more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recycleseg.evaluation.statistics import (
    MIN_CASES,
    Groups,
    by_patient,
    shown_digits,
    signed_rank,
    value_range,
)
from recycleseg.metrics.aggregate import finite_mean
from recycleseg.metrics.scores import Scores
from recycleseg.report.columns import Array, format_number, sizes
from recycleseg.report.intervals import Mean, case_means, overall_mean

# With less overlap a prediction has hardly found the structure.
HARDLY = 0.1
_NAMED = 3


@dataclass(frozen=True)
class Presence:
    """Which cases have which structures.

    Attributes:
        missed: (B, C), only the reference has the structure.
        hardly: (B, C), both have it, but Dice is below HARDLY.
        extra: (B, C), only the prediction has it.
        absent: (B, C), neither has it.
    """

    missed: NDArray[np.bool_]
    hardly: NDArray[np.bool_]
    extra: NDArray[np.bool_]
    absent: NDArray[np.bool_]

    @classmethod
    def of(cls, scores: Scores) -> Presence:
        """Presence in all cases of `scores`."""
        pred, ref, _ = sizes(scores.table)
        both = (pred > 0) & (ref > 0)
        return cls(
            (pred == 0) & (ref > 0),
            both & (scores.table["dice"] < HARDLY),
            (pred > 0) & (ref == 0),
            (pred == 0) & (ref == 0),
        )


def headline(scores: Scores, case_ids: Sequence[str], groups: Groups) -> str:
    """What the evaluation shows, in a few sentences.

    Args:
        scores: of B cases.
        case_ids: names of the cases.
        groups: (B,), the patient of each case.
    """
    cases = cases_in_words(groups)
    dice = scores.table["dice"]
    mean = overall_mean(dice, groups)
    if math.isnan(mean.value):
        return f"No structure is in the reference or the prediction of {cases}."
    presence = Presence.of(scores)
    sentences = [
        f"Mean Dice {format_number(mean.value, 3)}{_spread(mean)} over "
        f"{_with_value(mean, scores, cases)}",
        _lowest(dice, scores.labels, case_ids),
    ]
    words = [
        _in_words(scores.labels, where, what)
        for where, what in (
            (presence.missed, "was missed in"),
            (presence.hardly, f"has Dice below {HARDLY} in"),
            (presence.extra, "was predicted without a reference in"),
            (presence.absent, "is in neither map of"),
        )
    ]
    sentences += [", ".join(filter(None, words))]
    if (patients := len(np.unique(groups))) < MIN_CASES:
        who = _counted(patients, "case" if patients == len(groups) else "patient")
        sentences.append(
            f"{who} {'is' if patients == 1 else 'are'} too few for conclusions about others"
        )
    return " ".join(f"{sentence}." for sentence in sentences if sentence)


@dataclass(frozen=True)
class Trend:
    """How Dice changes from the first sampling step to the last, as sentence and one word.

    The word is "improves", "declines", "unclear" (no change is shown) or "unknown" (too few).
    """

    sentence: str
    verdict: str


def trend(first: Array, last: Array, groups: Groups) -> Trend:
    """The trend of Dice.

    Args:
        first, last: Dice (B, C) after the first and the last sampling step.
        groups: (B,), the patient of each case.
    """
    change = case_means(last - first)
    known = np.isfinite(change)
    changes = np.round(by_patient(change[known], groups[known]), 12)
    if len(changes) == 0:
        return Trend("No case has Dice after the first and the last step.", "unknown")
    low, high = value_range(changes)
    mean, test = float(finite_mean(changes)), signed_rank(changes)
    digits = shown_digits((mean, low, high, test.typical, test.low, test.high), 3)
    low_text, high_text, mean_text = (
        format_number(value, digits, signed=True) for value in (low, high, mean)
    )
    cases = cases_in_words(groups[known])
    if low == high:
        by = "does not change" if low == 0 else f"changes by {low_text}"
        sentence = f"From the first sampling step to the last, Dice {by} in each of {cases}"
    else:
        sentence = (
            f"From the first sampling step to the last, Dice changes by {mean_text} in the mean of "
            f"{cases}, from {low_text} to {high_text}"
        )
    if lost := int((np.isnan(first) != np.isnan(last)).sum()):
        sentence += f" ({_counted(lost, 'value')} of one of the two steps alone left out)"
    if len(changes) < MIN_CASES:
        return Trend(f"{sentence}. This is too few to say whether it changes.", "unknown")
    if test.direction == 0 or test.direction * mean < 0:
        return Trend(f"{sentence}. This shows no change in one direction.", "unclear")
    verdict = "improves" if test.direction > 0 else "declines"
    interval = (
        ""
        if test.low == test.high
        else f"; typical change {format_number(test.typical, digits, signed=True)}, 95 % interval "
        f"{format_number(test.low, digits, signed=True)} to "
        f"{format_number(test.high, digits, signed=True)}"
    )
    return Trend(f"Dice {verdict} while sampling. {sentence}{interval}.", verdict)


def cases_in_words(groups: Groups) -> str:
    """Number of cases, and of patients if there are fewer."""
    patients = len(np.unique(groups))
    cases = _counted(len(groups), "case")
    return cases if patients == len(groups) else f"{cases} of {_counted(patients, 'patient')}"


def _spread(mean: Mean) -> str:
    """The interval of a mean, or else the range of the values."""
    if not math.isnan(mean.low):
        low, high = (format_number(end, 3) for end in (mean.low, mean.high))
        return f" (95 % interval {low} to {high})"
    if mean.smallest == mean.largest:
        return ""
    low, high = (format_number(end, 3) for end in (mean.smallest, mean.largest))
    return f" (cases from {low} to {high})"


def _with_value(mean: Mean, scores: Scores, cases: str) -> str:
    """The cases that a mean is over."""
    number = len(scores.labels)
    known = int(np.isfinite(scores.table["dice"]).any(0).sum())
    several = number > 1
    structures = f"{known} of {number} structures of " if several else ""
    if known == number:
        structures = structures.removeprefix(f"{known} of ")
    if mean.num == (scores.num_cases, scores.num_cases):
        return f"{structures}{cases}"
    fewest, most = mean.num
    numbers = f"{most}" if fewest == most else f"{fewest} to {most}"
    each = " each" if several else ""
    return f"{structures}{numbers} of {cases}{each}, where it has a value"


def _lowest(dice: Array, labels: Sequence[str], case_ids: Sequence[str]) -> str:
    """The lowest Dice, where some are higher."""
    low, high = value_range(dice)
    number = int((dice == low).sum())
    if low == high:
        return f"All {number} values are equal" if number > 1 else ""
    b, c = np.argwhere(dice == low)[0]
    where = f"{labels[c]} in {case_ids[b]}" if len(labels) > 1 else case_ids[b]
    others = f" and {number - 1} more" if number > 1 else ""
    return f"The lowest is {format_number(low, 3)} ({where}{others})"


def _in_words(labels: tuple[str, ...], where: NDArray[np.bool_], what: str) -> str:
    """Words for the structures of which `where` (B, C) is true most often; empty without any."""
    counts = where.sum(0)
    order = [int(c) for c in np.argsort(-counts, kind="stable") if counts[c]]
    words = [f"{labels[c]} {what} {_counted(int(counts[c]), 'case')}" for c in order[:_NAMED]]
    if len(order) > _NAMED:
        others = _counted(len(order) - _NAMED, "other structure")
        words.append(f"and so {'was' if len(order) == _NAMED + 1 else 'were'} {others}")
    return ", ".join(words)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
