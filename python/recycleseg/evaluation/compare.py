"""Whether one set of predictions is better than another, on the cases that both have."""

from __future__ import annotations

import dataclasses
import filecmp
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recycleseg.evaluation.folder import FolderScores
from recycleseg.evaluation.statistics import (
    ERROR_RATE,
    MIN_CASES,
    Groups,
    SignedRank,
    bonferroni,
    by_patient,
    number_of,
    shown_digits,
    signed_rank,
    value_range,
)
from recycleseg.evaluation.summary import plain
from recycleseg.metrics.aggregate import finite_mean
from recycleseg.metrics.scores import Scores
from recycleseg.metrics.surface import tolerance_names

METHOD = (
    "A pair is left out if the metric of either case is NaN (not applicable). The means and their "
    "difference A - B use the pairs in which both values are finite; their number stands beside "
    "them. The test is the two-sided Wilcoxon signed-rank test of all pairs, where equal pairs "
    "speak against a difference. If only one set misses a structure (an infinite distance), this "
    "is the largest difference and counts against that set; if both miss it, the difference is "
    "zero. Several cases of a patient count as one pair, the mean of their differences. The "
    "typical difference is the median of the averages of every two differences (Hodges and "
    "Lehmann). Its interval is the inversion of the test, so that the two always agree. With m "
    "tests in the table, p is multiplied by m and each interval has the level 1 - 0.05 / m "
    "(Bonferroni): with 95 %, all intervals hold together. p is exact for up to 200 pairs without "
    "ties; for more it is the normal approximation. Fewer than 6 pairs are not tested. One set is "
    "better if the interval excludes 0, the mean difference has the same sign, and this set does "
    "not miss more structures than the other."
)


@dataclass(frozen=True)
class ComparisonRow:
    """Two sets of predictions, a and b, compared by one metric of one label.

    Attributes:
        label: name of the label.
        metric: name of the metric.
        mean_a, mean_b: means over the pairs in which both values are finite; NaN without such
            pairs.
        difference: mean of a - b over the same pairs.
        range_low, range_high: the smallest and the largest a - b of the same pairs.
        typical: median of the averages of every two differences of patients.
        ci_low, ci_high: simultaneous 95 % interval of `typical`; NaN if there are too few patients.
        p_value: of the signed-rank test; NaN with fewer than six patients.
        p_adjusted: `p_value` adjusted for all tests of the table.
        num_pairs: pairs in which neither value is NaN, equal ones included.
        num_patients: patients of these pairs.
        num_finite: pairs in which both values are finite.
        num_inf_a, num_inf_b: how many values of these pairs are infinite.
        num_nan: pairs left out because the metric does not apply.
    """

    label: str
    metric: str
    mean_a: float
    mean_b: float
    difference: float
    range_low: float
    range_high: float
    typical: float
    ci_low: float
    ci_high: float
    p_value: float
    p_adjusted: float
    num_pairs: int
    num_patients: int
    num_finite: int
    num_inf_a: int
    num_inf_b: int
    num_nan: int

    @property
    def higher(self) -> str | None:
        """The set with the higher values, "a" or "b", or None if the interval has 0 inside."""
        return "a" if self.ci_low > 0 else "b" if self.ci_high < 0 else None

    def digits(self, at_least: int) -> int:
        """Digits behind the point with which the interval shows on which side of 0 it is."""
        return shown_digits((self.typical, self.ci_low, self.ci_high), at_least)

    @property
    def means_disagree(self) -> bool:
        """Whether the mean difference has the other sign than the interval."""
        return self.difference < 0 if self.higher == "a" else self.difference > 0

    @property
    def candidate(self) -> str | None:
        """The set that has the better values, although it may miss more structures."""
        if self.higher is None or higher_is_better(self.metric):
            return self.higher
        return "b" if self.higher == "a" else "a"

    @property
    def misses_more(self) -> bool:
        """Whether `candidate` misses more structures than the other set."""
        num_a, num_b = self.num_inf_a, self.num_inf_b
        return num_a > num_b if self.candidate == "a" else num_b > num_a

    @property
    def better(self) -> str | None:
        """The better set, "a" or "b", or None if no set is shown to be better."""
        return None if self.means_disagree or self.misses_more else self.candidate


@dataclass(frozen=True)
class Comparison:
    """Two sets of predictions, a and b, compared by every label and metric; see METHOD.

    Attributes:
        name_a, name_b: what the two sets are called.
        rows: one per label and metric.
        case_ids: the cases that both sets have.
        num_patients: their patients.
        num_only_a, num_only_b: how many cases only one set has.
    """

    name_a: str
    name_b: str
    rows: tuple[ComparisonRow, ...]
    case_ids: tuple[str, ...]
    num_patients: int
    num_only_a: int
    num_only_b: int

    @property
    def num_tests(self) -> int:
        """How many rows are tested."""
        return sum(not math.isnan(row.p_value) for row in self.rows)

    @property
    def cases(self) -> str:
        """The number of cases in words."""
        return f"{len(self.case_ids)} case{'s' * (len(self.case_ids) != 1)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN and inf become None."""
        rows = []
        for row in self.rows:
            values = dataclasses.asdict(row)
            numbers = {k: v if isinstance(v, str) else plain(v) for k, v in values.items()}
            rows.append({**numbers, "verdict": self.verdict(row)})
        return {
            "a": self.name_a,
            "b": self.name_b,
            "method": METHOD,
            "num_cases": len(self.case_ids),
            "num_patients": self.num_patients,
            "num_tests": self.num_tests,
            "num_only_a": self.num_only_a,
            "num_only_b": self.num_only_b,
            "rows": rows,
            "case_ids": list(self.case_ids),
        }

    def verdict(self, row: ComparisonRow) -> str:
        """The result of one row in words."""
        unit = "pairs" if row.num_patients == row.num_pairs else "patients"
        if row.num_patients < MIN_CASES:
            return f"too few {unit} ({row.num_patients})"
        if math.isnan(row.ci_low):
            return f"too few {unit} ({row.num_patients}) for {self.num_tests} tests"
        if row.higher is None:
            return "no difference shown"
        name = self.name_a if row.candidate == "a" else self.name_b
        if row.misses_more:
            return f"no verdict: {name} misses more structures"
        if row.means_disagree:
            return "no verdict: mean and typical difference disagree"
        return f"{name} better"

    def notes(self) -> list[str]:
        """What a reader must know beside the table, one line each."""
        notes = []
        if self.num_patients < len(self.case_ids):
            notes.append(
                f"the {self.cases} are of {self.num_patients} patient"
                f"{'s' * (self.num_patients != 1)}; each patient counts once"
            )
        for name, other, num in (
            (self.name_a, self.name_b, self.num_only_a),
            (self.name_b, self.name_a, self.num_only_b),
        ):
            if num:
                cases, are = ("case", "is") if num == 1 else ("cases", "are")
                notes.append(
                    f"{num} {cases} that only {name} has {are} not compared: nothing here says how "
                    f"{other} does there"
                )
        return notes


def higher_is_better(metric: str) -> bool:
    """Whether higher values of a metric are better: it is an overlap, not a distance."""
    name = metric.removeprefix("surfel_")
    return name.startswith("nsd") or name in ("dice", "iou", "precision", "recall")


def headline_metrics(scores: Scores) -> tuple[str, ...]:
    """Dice, surface Dice, Hausdorff percentile and average surface distance of each definition."""
    single = "nsd" in scores.table or "surfel_nsd" in scores.table
    nsd = tuple(tolerance_names(scores.tolerances_mm, single=single, unit=scores.unit))
    names = ["dice"]
    for definition in scores.definitions:
        prefix = "" if definition == "voxel" else f"{definition}_"
        names += [prefix + name for name in (*nsd, f"hd{scores.percentile:g}", "assd")]
    return tuple(names)


def compare(
    a: FolderScores,
    b: FolderScores,
    *,
    names: tuple[str, str] | None = None,
    metrics: tuple[str, ...] | None = None,
) -> Comparison:
    """Paired statistics of the final predictions of two sets, over the cases that both have.

    Args:
        a, b: scores of the two sets.
        names: what to call the sets; None takes the names of their folders.
        metrics: names of the metrics; None takes `headline_metrics`.

    Raises:
        ValueError: the sets differ in labels, settings or the reference of a case, or they have
            no case in common.
    """
    if a.labels != b.labels:
        raise ValueError(f"compare: expected the same labels, got {a.labels} and {b.labels}")
    if a.settings() != b.settings():
        raise ValueError(
            f"compare: expected the same settings, got {a.settings()} and {b.settings()}"
        )
    case_ids = tuple(case_id for case_id in a.case_ids if case_id in set(b.case_ids))
    if not case_ids:
        raise ValueError(
            f"compare: expected cases that both have, got {a.case_ids[0]}, ... and "
            f"{b.case_ids[0]}, ..."
        )
    _check_references(a, b, case_ids)
    metrics = headline_metrics(a.by_step[-1]) if metrics is None else metrics
    of_a, of_b = (_values(scores, case_ids, metrics) for scores in (a, b))
    groups = a.groups(case_ids)
    rows = _rows(of_a, of_b, tuple(a.labels), metrics, groups)
    name_a, name_b = _distinct_names(a, b) if names is None else names
    return Comparison(
        name_a=name_a,
        name_b=name_b,
        rows=rows,
        case_ids=case_ids,
        num_patients=len(np.unique(groups)),
        num_only_a=len(a.case_ids) - len(case_ids),
        num_only_b=len(b.case_ids) - len(case_ids),
    )


def _check_references(a: FolderScores, b: FolderScores, case_ids: tuple[str, ...]) -> None:
    for case_id in case_ids:
        of_a, of_b = (scores.reference_files[case_id] for scores in (a, b))
        hash_a, hash_b = (scores.reference_hashes.get(case_id) for scores in (a, b))
        known = hash_a is not None and hash_b is not None
        if hash_a != hash_b if known else not _same_files(of_a, of_b):
            there = "; it has changed between the evaluations" if of_a == of_b else ""
            raise ValueError(
                f"compare: expected the same reference of case {case_id} for both, got {of_a} and "
                f"{of_b}{there}"
            )


def _same_files(of_a: Path, of_b: Path) -> bool:
    """Whether two references are the same, for evaluations that do not know their contents."""
    if of_a.resolve() == of_b.resolve():
        return True
    # The references may be deleted after the evaluation; then only their names are known.
    unknown = not (of_a.is_file() and of_b.is_file())
    return of_a.name == of_b.name and (unknown or filecmp.cmp(of_a, of_b, shallow=False))


def _values(
    scores: FolderScores, case_ids: tuple[str, ...], metrics: tuple[str, ...]
) -> NDArray[np.float64]:
    """Values (N, labels * metrics) of the final predictions of N cases."""
    position = {case_id: i for i, case_id in enumerate(scores.case_ids)}
    table = scores.by_step[-1].table
    at = [position[case_id] for case_id in case_ids]
    return np.stack([table[metric][at] for metric in metrics], axis=-1).reshape(len(at), -1)


def _rows(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    labels: tuple[str, ...],
    metrics: tuple[str, ...],
    groups: Groups,
) -> tuple[ComparisonRow, ...]:
    """One row per label and metric, from values a and b (N, labels * metrics)."""
    names = [(label, metric) for label in labels for metric in metrics]
    applies = ~np.isnan(a) & ~np.isnan(b)
    patients = [number_of(groups, column) for column in applies.T]
    num_tests = sum(number >= MIN_CASES for number in patients)
    tests = [
        _test(a[where, i], b[where, i], groups[where], num_tests)
        for i, where in enumerate(applies.T)
    ]
    adjusted = bonferroni([test.p_value for test in tests])
    rows = []
    for i, (label, metric) in enumerate(names):
        finite = np.isfinite(a[:, i]) & np.isfinite(b[:, i])
        differences = a[finite, i] - b[finite, i]
        low, high = value_range(differences)
        rows.append(
            ComparisonRow(
                label=label,
                metric=metric,
                mean_a=float(finite_mean(a[finite, i])),
                mean_b=float(finite_mean(b[finite, i])),
                difference=float(finite_mean(differences)),
                range_low=low,
                range_high=high,
                typical=tests[i].typical,
                ci_low=tests[i].low,
                ci_high=tests[i].high,
                p_value=tests[i].p_value,
                p_adjusted=adjusted[i],
                num_pairs=int(applies[:, i].sum()),
                num_patients=patients[i],
                num_finite=int(finite.sum()),
                num_inf_a=int(np.isinf(a[applies[:, i], i]).sum()),
                num_inf_b=int(np.isinf(b[applies[:, i], i]).sum()),
                num_nan=int((~applies[:, i]).sum()),
            )
        )
    return tuple(rows)


def _test(
    a: NDArray[np.float64], b: NDArray[np.float64], groups: Groups, num_tests: int
) -> SignedRank:
    """The test of pairs without NaN, at its share of the error rate."""
    differences = np.zeros(len(a))
    # Where both miss a structure the difference stays 0, because inf - inf would be NaN.
    np.subtract(a, b, out=differences, where=a != b)
    # Differences that are equal except for rounding must be equal.
    differences = np.round(by_patient(differences, groups), 12)
    return signed_rank(differences, ERROR_RATE / max(num_tests, 1))


def _distinct_names(a: FolderScores, b: FolderScores) -> tuple[str, str]:
    """The names of the two folders, with as many parent folders as make them differ."""
    # Several folders have the name of the first.
    parts = [scores.prediction_roots[0].resolve().parts for scores in (a, b)]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if names[0] != names[1]:
            return names[0], names[1]
    return "A", "B"
