"""What an evaluation prints on a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import Group
from rich.table import Table
from rich.text import Text

from recycleseg.evaluation.compare import Comparison, headline_metrics
from recycleseg.evaluation.folder import FolderScores
from recycleseg.metrics.aggregate import Summary
from recycleseg.names import printable


def scores_table(scores: FolderScores) -> Group:
    """Means of the final predictions per label, with how many values the means leave out."""
    final = scores.by_step[-1]
    metrics = headline_metrics(final)
    plural = "s" if final.num_cases > 1 else ""
    title = f"mean of {final.num_cases} case{plural}; distances in {final.unit}"
    table = _table()
    table.add_column("label", overflow="fold")
    for metric in metrics:
        table.add_column(metric, justify="right", overflow="fold")
    for label, of_label in final.aggregate().items():
        table.add_row(label, *(_mean_and_counts(of_label[metric]) for metric in metrics))
    return _titled(title, table)


def steps_table(scores: FolderScores) -> Group:
    """Mean Dice after every sampling step, per label and over all labels."""
    title = "mean Dice after each sampling step"
    table = _table()
    table.add_column("step", justify="right")
    for name in (*scores.labels, "foreground"):
        table.add_column(name, justify="right")
    for step, (of_step, mean) in enumerate(
        zip(scores.by_step, scores.mean_dice_by_step(), strict=True), 1
    ):
        dice = [of_label["dice"].mean for of_label in of_step.aggregate().values()]
        table.add_row(str(step), *map(_number, (*dice, mean)))
    return _titled(title, table)


def comparison_table(comparison: Comparison) -> Group:
    """One row per label and metric."""
    a, b = comparison.name_a, comparison.name_b
    title = f"A: {a}, B: {b}; {len(comparison.case_ids)} cases that both have"
    table = _table()
    for name in ("label", "metric"):
        table.add_column(name)
    for name in ("A", "B", "A - B [95 %]", "p Holm"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    verdicts = {"a": "A better", "b": "B better", None: "no difference shown"}
    for row in comparison.rows:
        tested = not math.isnan(row.p_holm)
        interval = f"[{_number(row.ci_low, '.3f')}, {_number(row.ci_high, '.3f')}]"
        table.add_row(
            row.label,
            row.metric + (f" ({row.num_pairs} pairs)" if row.num_nan else ""),
            _number(row.mean_a, ".3f") + (f" ({row.num_inf_a} inf)" if row.num_inf_a else ""),
            _number(row.mean_b, ".3f") + (f" ({row.num_inf_b} inf)" if row.num_inf_b else ""),
            _number(row.difference, "+.3f") + " " + interval,
            f"{row.p_holm:.2g}" if tested else "-",
            verdicts[row.better] if tested else "too few pairs",
        )
    return _titled(title, table)


def comparison_notes(comparison: Comparison) -> Iterator[str]:
    """The cases that a comparison leaves out, one line per set."""
    for name, num in (
        (comparison.name_a, comparison.num_only_a),
        (comparison.name_b, comparison.num_only_b),
    ):
        if num:
            yield f"{num} cases that only {name} has are not compared"


def _mean_and_counts(summary: Summary) -> str:
    counts = [
        f"{num} {name}" for name, num in (("inf", summary.num_inf), ("nan", summary.num_nan)) if num
    ]
    return _number(summary.mean) + (f" ({', '.join(counts)})" if counts else "")


def _number(value: float, form: str = ".4f") -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"


def _table() -> Table:
    return Table(box=None, pad_edge=False)


def _titled(title: str, table: Table) -> Group:
    return Group("", Text(printable(title), style="bold"), table)
