"""What an evaluation prints on a terminal."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from recycleseg.evaluation.compare import Comparison, ComparisonRow, headline_metrics
from recycleseg.evaluation.folder import FolderScores
from recycleseg.evaluation.statistics import MIN_CASES
from recycleseg.metrics.aggregate import Summary
from recycleseg.names import printable


def scores_table(scores: FolderScores) -> Group:
    """Means of the final predictions per label, each with the number of its cases."""
    final = scores.by_step[-1]
    metrics = headline_metrics(final)
    title = (
        f"means of {_cases(scores)}; n: cases with a value; distances in {final.unit}{_few(scores)}"
    )
    table = _table()
    table.add_column("label", overflow="fold")
    for metric in metrics:
        table.add_column(metric, justify="right", overflow="fold")
    for label, of_label in final.aggregate().items():
        table.add_row(label, *(_mean_and_counts(of_label[metric]) for metric in metrics))
    return _titled(title, table)


def steps_table(scores: FolderScores) -> Group:
    """Mean Dice after every sampling step, per label and over all labels."""
    title = f"mean Dice after each sampling step; n: cases with a value{_few(scores)}"
    table = _table()
    table.add_column("step", justify="right")
    for name in (*scores.labels, "foreground"):
        table.add_column(name, justify="right")
    for step, (of_step, mean) in enumerate(
        zip(scores.by_step, scores.mean_dice_by_step(), strict=True), 1
    ):
        dice = of_step.table["dice"]
        of_labels = (
            _mean_and_counts(of_label["dice"]) for of_label in of_step.aggregate().values()
        )
        overall = f"{_number(mean)} (n={int(np.isfinite(dice).any(1).sum())})"
        table.add_row(str(step), *of_labels, overall)
    return _titled(title, table)


def comparison_table(comparison: Comparison) -> Group:
    """One row per label and metric."""
    a, b = comparison.name_a, comparison.name_b
    title = f"A: {a}, B: {b}; {comparison.cases} that both have; n: pairs with two finite values"
    table = _table()
    for name in ("label", "metric"):
        table.add_column(name)
    for name in ("A", "B", "A - B (n)", "typical [interval]", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    short = dataclasses.replace(comparison, name_a="A", name_b="B")
    for row in comparison.rows:
        table.add_row(
            row.label,
            row.metric + (f" ({row.num_nan} pairs without a value)" if row.num_nan else ""),
            _number(row.mean_a, ".3f") + (f" ({row.num_inf_a} inf)" if row.num_inf_a else ""),
            _number(row.mean_b, ".3f") + (f" ({row.num_inf_b} inf)" if row.num_inf_b else ""),
            f"{_number(row.difference, '+.3f')} ({row.num_finite})",
            _interval(row),
            "-" if math.isnan(row.p_adjusted) else f"{row.p_adjusted:.2g}",
            short.verdict(row),
        )
    return _titled(title, table, Text(_ABOUT_INTERVALS, style="dim"))


_ABOUT_INTERVALS = (
    "p and intervals are adjusted for all tests of the table; comparison.json tells the method. "
    "Where there are too few pairs for an interval, the smallest and the largest difference stand "
    "there."
)


def _interval(row: ComparisonRow) -> str:
    """The typical difference with its interval, or the range of the differences."""
    if math.isnan(row.ci_low):
        low, high = (_number(end, "+.3f") for end in (row.range_low, row.range_high))
        if row.num_finite < 2:
            return "-"
        return f"all {low}" if low == high else f"range {low} to {high}"
    form = f"+.{row.digits(3)}f"
    typical, low, high = (_number(v, form) for v in (row.typical, row.ci_low, row.ci_high))
    return f"{typical} [{low}, {high}]"


def _cases(scores: FolderScores) -> str:
    """How many cases were evaluated, of how many patients, and how many were not."""
    number, patients = len(scores.case_ids), len(np.unique(scores.groups()))
    words = f"{number} case{'s' * (number != 1)}"
    if patients < number:
        words += f" of {patients} patient{'s' * (patients != 1)}"
    if scores.failed:
        words += f" ({len(scores.failed)} more could not be evaluated)"
    return words


def _few(scores: FolderScores) -> str:
    few = len(np.unique(scores.groups())) < MIN_CASES
    return "; too few for conclusions" if few else ""


def _mean_and_counts(summary: Summary) -> str:
    counts = [
        f"{num} {name}" for name, num in (("inf", summary.num_inf), ("nan", summary.num_nan)) if num
    ]
    return f"{_number(summary.mean)} ({', '.join([f'n={summary.num_finite}', *counts])})"


def _number(value: float, form: str = ".4f") -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"


def _table() -> Table:
    return Table(box=None, pad_edge=False)


def _titled(title: str, table: Table, *below: Text) -> Group:
    return Group("", Text(printable(title), style="bold"), table, *below)
