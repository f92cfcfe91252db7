"""The report of an evaluation: one HTML file that needs no other file."""

from __future__ import annotations

import base64
import datetime
import hashlib
import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import get_args

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from recycleseg.classes import max_entropy, parse_labels
from recycleseg.data.volumes import map_name
from recycleseg.evaluation import Comparison, FolderScores
from recycleseg.evaluation.compare import METHOD
from recycleseg.evaluation.labels import predicted_labels
from recycleseg.evaluation.statistics import MIN_CASES, Groups
from recycleseg.files import FileError, write_text
from recycleseg.metrics.scores import Scores
from recycleseg.names import printable
from recycleseg.report import charts, overlays
from recycleseg.report.case_table import CaseTable
from recycleseg.report.columns import (
    DASH,
    Column,
    format_number,
    shown_columns,
    size_columns,
)
from recycleseg.report.figures import PALETTE
from recycleseg.report.intervals import Mean, case_means, label_means, overall_mean
from recycleseg.report.sentences import HARDLY, Presence, Trend, cases_in_words, headline, trend
from recycleseg.units import Unit

WORST, BEST = 4, 2
# The rows that a reader without scripts has.
STATIC_ROWS = 200


@dataclass(frozen=True)
class SummaryRow:
    """One row of the summary.

    Attributes:
        name: name of the label, or "Mean of all".
        overall: whether the row is the mean of all labels.
        means: one per column.
        cases: number of cases.
        missed: how often only the reference has the structure.
        hardly: how often both have it, but hardly overlap.
        extra: how often only the prediction has it.
        absent: how often neither has it.
    """

    name: str
    overall: bool
    means: list[Mean]
    cases: int
    missed: int
    hardly: int
    extra: int
    absent: int


@dataclass(frozen=True)
class CaseCard:
    """A case that is shown in pictures.

    Attributes:
        number: index of the case.
        case_id: name of the case.
        rank: "worst" or "best"; empty if all cases have the same Dice.
        dice: mean Dice as printed.
        by_label: label and Dice as printed.
        overlay: the pictures; None if they cannot be drawn.
        note: why something is not shown, else empty.
    """

    number: int
    case_id: str
    rank: str
    dice: str
    by_label: list[tuple[str, str]]
    overlay: overlays.Overlay | None
    note: str


@dataclass(frozen=True)
class StepsSection:
    """Dice by sampling step: a chart, a table (steps, labels and last all), and a sentence."""

    chart: charts.StepsChart
    table: list[list[Mean]]
    trend: Trend


def write_report(
    path: Path,
    scores: FolderScores,
    *,
    title: str,
    images: Mapping[str, Sequence[Path]],
    comparison: Comparison | None = None,
    details: Mapping[str, str] | None = None,
) -> None:
    """Write an evaluation as one HTML file that loads nothing from elsewhere.

    Args:
        path: of the file.
        scores: what to report. If a folder `entropy` beside the predictions has files with
            their names, the report shows them as uncertainty (nats).
        title: of the page.
        images: case_id -> one file per channel; the report shows the first. A case that is not
            listed is drawn on black.
        comparison: with other predictions.
        details: name -> value of what else to print about the evaluation.
    """
    final = scores.by_step[-1]
    columns = shown_columns(final)
    case_columns = [*columns, *size_columns(final)]
    greatest = _max_entropy(scores)
    script = template_text("report.js")
    page = template("report.html.j2").render(
        title=title,
        details=dict(details or {}),
        scores=scores,
        headline=headline(final, scores.case_ids, scores.groups()),
        cases=cases_in_words(scores.groups()),
        columns=columns,
        summary=(summary := _summary_rows(final, columns, scores.groups())),
        has_intervals=any(not math.isnan(mean.low) for row in summary for mean in row.means),
        min_cases=MIN_CASES,
        hardly=HARDLY,
        box_plots=[
            (number, charts.box_plot(columns[number], final.labels)) for number in _plotted(columns)
        ],
        steps=_steps_section(scores) if len(scores.by_step) > 1 else None,
        cards=(cards := _case_cards(scores, images, greatest)),
        case_columns=case_columns,
        case_table=CaseTable.of(scores, case_columns, [card.number for card in cards]),
        static_rows=STATIC_ROWS,
        comparison=comparison,
        comparison_headings={c.key: c for c in columns},
        method=METHOD,
        conditions=_conditions(final),
        palette=PALETTE,
        error_colours=(overlays.MISSED, overlays.EXTRA, overlays.CONFUSED),
        uncertainty_scale=overlays.uncertainty_scale(),
        max_entropy=f"{greatest:.2f}",
        side=overlays.SIDE,
        version=importlib.metadata.version("recycleseg"),
        date=datetime.date.today().isoformat(),
        style=template_text("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        has_uncertainty=any(card.overlay and card.overlay.planes[0].uncertainty for card in cards),
        is_3d=any(card.overlay and len(card.overlay.planes) == 3 for card in cards),
    )
    write_text(path, page)


def template(name: str) -> Template:
    """A template, and the functions that it calls."""
    environment = Environment(
        loader=PackageLoader("recycleseg.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_shown,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    functions = {"number": format_number, "p_value": _p_value, "zip": zip}
    return environment.get_template(name, globals=functions)


def _shown(value: object) -> object:
    """What a template prints of a value; style, script and macros are HTML already."""
    is_text = isinstance(value, str) and not hasattr(value, "__html__")
    return printable(str(value)) if is_text else value


def template_text(name: str) -> str:
    """The text of a file beside the templates."""
    return (resources.files("recycleseg.report") / "templates" / name).read_text(encoding="utf-8")


def _max_entropy(scores: FolderScores) -> float:
    """Greatest possible entropy in nats, from the labels of predict.json if there are any.

    The evaluated labels may be only some of them, so they may not show that regions overlap.
    """
    try:
        labels = predicted_labels(scores.prediction_roots[0])
        parse_labels(labels, "predict.json")
    except FileError:
        labels = scores.labels
    return max_entropy(labels)


def _summary_rows(scores: Scores, columns: Sequence[Column], groups: Groups) -> list[SummaryRow]:
    presence = Presence.of(scores)
    counted = (presence.missed, presence.hardly, presence.extra, presence.absent)
    missed, hardly, extra, absent = (where.sum(0) for where in counted)
    of_labels = [label_means(column.values, groups) for column in columns]
    rows = [
        SummaryRow(
            name=name,
            overall=False,
            means=[means[c] for means in of_labels],
            cases=scores.num_cases,
            missed=int(missed[c]),
            hardly=int(hardly[c]),
            extra=int(extra[c]),
            absent=int(absent[c]),
        )
        for c, name in enumerate(scores.labels)
    ]
    if len(scores.labels) == 1:
        return rows
    means = [overall_mean(column.values, groups) for column in columns]
    sums = (int(where.sum()) for where in counted)
    return [*rows, SummaryRow("Mean of all", True, means, scores.num_cases, *sums)]


def _plotted(columns: Sequence[Column]) -> list[int]:
    """Dice, the Hausdorff percentile and surface Dice at the first tolerance, by their numbers."""
    shares = [number for number, column in enumerate(columns) if not column.unit]
    distances = [number for number, column in enumerate(columns) if column.unit in get_args(Unit)]
    return [shares[0], distances[0], *shares[1:2]]


def _steps_section(scores: FolderScores) -> StepsSection:
    dice, groups = [step.table["dice"] for step in scores.by_step], scores.groups()
    means = [[*label_means(values, groups), overall_mean(values, groups)] for values in dice]
    chart = charts.steps_chart(scores.by_step[0].labels, means)
    return StepsSection(chart, means, trend(dice[0], dice[-1], groups))


def _case_cards(
    scores: FolderScores, images: Mapping[str, Sequence[Path]], greatest: float
) -> list[CaseCard]:
    """The worst and the best cases by mean Dice, worst first."""
    table = scores.by_step[-1].table["dice"]
    means = case_means(table)
    order = [int(b) for b in np.argsort(means, kind="stable") if not math.isnan(means[b])]
    worst = order[: min(WORST, round(len(order) * WORST / (WORST + BEST)) or 1)]
    best = order[len(worst) :][-BEST:]
    equal = len(order) > 0 and means[order[0]] == means[order[-1]]
    cards = []
    for number in (*worst, *best):
        case_id = scores.case_ids[number]
        prediction = scores.prediction_files[case_id]
        entropy = prediction.parent / "entropy" / map_name(prediction.name)
        overlay, note = None, ""
        try:
            overlay = overlays.draw_overlay(
                prediction,
                scores.reference_files[case_id],
                scores.labels,
                pixel_size=scores.pixel_size,
                ignore_label=scores.ignore_label,
                images=images.get(case_id, ()),
                entropy=entropy if entropy.is_file() else None,
                max_entropy=greatest,
            )
            note = overlay.note
        except ValueError as error:
            note = f"cannot be drawn: {error}"
        by_label = [
            (name, format_number(float(table[number, c]), 3))
            for c, name in enumerate(scores.labels)
        ]
        rank = "" if equal else "worst" if number in worst else "best"
        dice = format_number(float(means[number]), 3)
        cards.append(CaseCard(number, case_id, rank, dice, by_label, overlay, note))
    return cards


def _conditions(scores: Scores) -> str:
    border = "outside" if scores.border_is_outside else "inside"
    if scores.unit == "pixels":
        spacing = "The size of the pixels is unknown, so all lengths are in pixels"
    elif scores.spacing:
        spacing = f"Spacing {' × '.join(f'{s:.3g}' for s in scores.spacing)} mm"
    else:
        spacing = "Spacing differs between cases"
    return (
        f"{spacing}. The surface is all voxels of a structure with a face neighbour outside it; "
        f"the space beyond the border of the image counts as {border}."
    )


def _p_value(p: float) -> str:
    if math.isnan(p):
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
