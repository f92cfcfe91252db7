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
    MIN_PAIRS,
    RESAMPLES,
    bootstrap_interval,
    holm,
    signed_rank,
)
from recycleseg.evaluation.summary import plain
from recycleseg.metrics.aggregate import finite_mean
from recycleseg.metrics.scores import Scores
from recycleseg.metrics.surface import tolerance_names

_SIGNIFICANT = 0.05
METHOD = (
    "A pair is left out if the metric of either case is NaN (not applicable). The means, the mean "
    "difference A - B and its 95 % percentile bootstrap interval over cases use the pairs in which "
    "both values are finite. The test is the two-sided Wilcoxon signed-rank test of all pairs. If "
    "only one set misses a structure (an infinite distance), this is the largest difference and "
    "counts against that set; if both miss it, the difference is zero. Zero differences are "
    "dropped. p is exact, also with ties, for up to 50 nonzero differences; for more it is the "
    "normal approximation. If fewer than 6 pairs differ, nothing is tested; if all of at least 6 "
    "pairs are equal, p is 1. p_holm is p adjusted by Holm for all tests of the table. One set is "
    "better if p_holm < 0.05, the ranks and the mean difference agree, and it does not miss more "
    "structures than the other."
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
        ci_low, ci_high: 95 % bootstrap interval of `difference`.
        p_value: of the signed-rank test; NaN if too few pairs differ for a test.
        p_holm: `p_value` adjusted for all tests of the table.
        rank_balance: from -1 (b has the higher value in all pairs) to 1 (a has it).
        num_pairs: pairs in which neither value is NaN, equal ones included.
        num_inf_a, num_inf_b: how many values of these pairs are infinite.
        num_nan: pairs left out because the metric does not apply.
    """

    label: str
    metric: str
    mean_a: float
    mean_b: float
    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    p_holm: float
    rank_balance: float
    num_pairs: int
    num_inf_a: int
    num_inf_b: int
    num_nan: int

    @property
    def better(self) -> str | None:
        """The better set, "a" or "b", or None if no difference is shown."""
        if not self.p_holm < _SIGNIFICANT or self.difference * self.rank_balance < 0:
            return None
        a_is_better = (self.rank_balance > 0) == higher_is_better(self.metric)
        winner, loser = (
            (self.num_inf_a, self.num_inf_b) if a_is_better else (self.num_inf_b, self.num_inf_a)
        )
        return None if winner > loser else "a" if a_is_better else "b"


@dataclass(frozen=True)
class Comparison:
    """Two sets of predictions, a and b, compared by every label and metric; see METHOD.

    Attributes:
        name_a, name_b: what the two sets are called.
        rows: one per label and metric.
        case_ids: the cases that both sets have.
        num_only_a, num_only_b: how many cases only one set has.
    """

    name_a: str
    name_b: str
    rows: tuple[ComparisonRow, ...]
    case_ids: tuple[str, ...]
    num_only_a: int
    num_only_b: int

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
            "num_only_a": self.num_only_a,
            "num_only_b": self.num_only_b,
            "rows": rows,
            "case_ids": list(self.case_ids),
        }

    def verdict(self, row: ComparisonRow) -> str:
        """The result of one row in words."""
        if math.isnan(row.p_value):
            if row.num_pairs < MIN_PAIRS:
                return f"too few pairs ({row.num_pairs})"
            return f"too few of {row.num_pairs} pairs differ"
        if row.better is None:
            return "no difference shown"
        return f"{self.name_a if row.better == 'a' else self.name_b} better"


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
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Paired statistics of the final predictions of two sets, over the cases that both have.

    Args:
        a, b: scores of the two sets.
        names: what to call the sets; None takes the names of their folders.
        metrics: names of the metrics; None takes `headline_metrics`.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

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
    rows = _rows(of_a, of_b, tuple(a.labels), metrics, resamples, seed)
    name_a, name_b = _distinct_names(a, b) if names is None else names
    return Comparison(
        name_a=name_a,
        name_b=name_b,
        rows=rows,
        case_ids=case_ids,
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
    resamples: int,
    seed: int,
) -> tuple[ComparisonRow, ...]:
    """One row per label and metric, from values a and b (N, labels * metrics)."""
    finite = np.isfinite(a) & np.isfinite(b)
    differences = np.full(a.shape, np.nan)
    np.subtract(a, b, out=differences, where=finite)
    interval = bootstrap_interval(differences, resamples=resamples, seed=seed)
    tests = [_test(of_a, of_b) for of_a, of_b in zip(a.T, b.T, strict=True)]
    adjusted = holm([p_value for p_value, _ in tests])
    rows = []
    for i, (label, metric) in enumerate((la, me) for la in labels for me in metrics):
        applies = ~np.isnan(a[:, i]) & ~np.isnan(b[:, i])
        both = finite[:, i]
        rows.append(
            ComparisonRow(
                label=label,
                metric=metric,
                mean_a=float(finite_mean(a[both, i])),
                mean_b=float(finite_mean(b[both, i])),
                difference=float(finite_mean(differences[both, i])),
                ci_low=float(interval[0, i]),
                ci_high=float(interval[1, i]),
                p_value=tests[i][0],
                p_holm=adjusted[i],
                rank_balance=tests[i][1],
                num_pairs=int(applies.sum()),
                num_inf_a=int(np.isinf(a[applies, i]).sum()),
                num_inf_b=int(np.isinf(b[applies, i]).sum()),
                num_nan=int((~applies).sum()),
            )
        )
    return tuple(rows)


def _test(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """p and the balance of ranks, from the pairs in which neither value is NaN."""
    applies = ~np.isnan(a) & ~np.isnan(b)
    a, b = a[applies], b[applies]
    if len(a) < MIN_PAIRS:
        return math.nan, math.nan
    differences = np.zeros(len(a))
    # Where both miss a structure the difference stays 0, because inf - inf would be NaN.
    np.subtract(a, b, out=differences, where=a != b)
    # Differences that are equal except for rounding must share their rank.
    differences = np.round(differences, 12)
    if 0 < np.count_nonzero(differences) < MIN_PAIRS:
        return math.nan, math.nan
    return signed_rank(differences)


def _distinct_names(a: FolderScores, b: FolderScores) -> tuple[str, str]:
    """The names of the two folders, with as many parent folders as make them differ."""
    # Several folders have the name of the first.
    parts = [scores.prediction_roots[0].resolve().parts for scores in (a, b)]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if names[0] != names[1]:
            return names[0], names[1]
    return "A", "B"
