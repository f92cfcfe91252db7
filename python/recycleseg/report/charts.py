"""Positions of all marks in box plots and line charts; templates/charts.svg.j2 draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.cbook import boxplot_stats
from matplotlib.ticker import MaxNLocator

from recycleseg.evaluation.statistics import MIN_CASES
from recycleseg.report.columns import Array, Column
from recycleseg.report.figures import PALETTE
from recycleseg.report.intervals import Mean

Place = Callable[[float], float]
Point = tuple[float, float]

# In px. A chart is as narrow as a phone, so that no screen makes its text smaller.
WIDTH = 350
ROW = 48
_LEFT, _RIGHT = 18, 36
_BOX_AT, _JITTER = 31, 8.0
# With more labels there is no room for intervals; the table beside the chart has them.
_MAX_INTERVALS = 4
MARKERS = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its position in px, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Box:
    """Positions in px of the ends of the whiskers, the quartiles and the median.

    A whisker is at most 1.5 times as long as the box.
    """

    low: float
    q1: float
    median: float
    q3: float
    high: float


@dataclass(frozen=True)
class BoxRow:
    """One label of a box plot.

    Attributes:
        name: name of the label, and the number of cases with a value.
        colour: of its box and dots.
        y: middle of the row in px.
        box: None if there are too few cases.
        dots: (x, y) in px of the cases with a finite value, in the order of cases.
        infinite: (x, y) in px of the cases with an infinite value, in the order of cases.
        note: what to print if no case has a value, else empty.
    """

    name: str
    colour: str
    y: float
    box: Box | None
    dots: list[Point]
    infinite: list[Point]
    note: str


@dataclass(frozen=True)
class BoxPlot:
    """One metric, with one row per label.

    Attributes:
        title: name and unit of the metric.
        height, edge: height and width of the plot in px.
        left, right: ends of the axis in px.
        ticks: marks on the axis.
        rows: one per label.
    """

    title: str
    height: float
    left: float
    right: float
    edge: float
    ticks: list[Tick]
    rows: list[BoxRow]


def box_plot(column: Column, labels: Sequence[str]) -> BoxPlot:
    """The distribution of a metric over cases, with one dot per case."""
    finite = column.values[np.isfinite(column.values)]
    if column.unit:  # a distance, at least 0; metrics without a unit are shares, at most 1
        ticks = _ticks(0.0, float(finite.max(initial=0.0)) or 1.0, top=math.inf)
    else:
        ticks = _ticks(float(finite.min(initial=1.0)), 1.0, top=1.0)
    left, right = float(_LEFT), float(WIDTH - _RIGHT)

    def place(value: float) -> float:
        return round(left + (right - left) * (value - ticks[0]) / (ticks[-1] - ticks[0]), 1)

    rng = np.random.default_rng(0)
    rows = []
    for c, name in enumerate(labels):
        values = column.values[:, c]
        y = c * ROW + _BOX_AT
        jitter = rng.uniform(-_JITTER, _JITTER, len(values)).round(1)
        dots: list[Point] = []
        infinite: list[Point] = []
        for value, shift in zip(values.tolist(), jitter.tolist(), strict=True):
            at = round(y + shift, 1)
            if math.isfinite(value):
                dots.append((place(value), at))
            elif not math.isnan(value):
                infinite.append((right + 12, at))
        colour = PALETTE[c % len(PALETTE)]
        box = _box(values[np.isfinite(values)], place)
        note = "" if dots or infinite else "not applicable in any case"
        counted = f"{name}, n = {len(dots) + len(infinite)}"
        rows.append(BoxRow(counted, colour, y, box, dots, infinite, note))
    marks = [Tick(place(tick), f"{tick:g}") for tick in ticks]
    return BoxPlot(column.title, len(rows) * ROW + 44, left, right, WIDTH, marks, rows)


def _box(values: Array, place: Place) -> Box | None:
    # With fewer cases the dots alone say as much as quartiles.
    if len(values) < MIN_CASES:
        return None
    (stats,) = boxplot_stats(values)
    at = (stats["whislo"], stats["q1"], stats["med"], stats["q3"], stats["whishi"])
    return Box(*(place(float(value)) for value in at))


def _ticks(low: float, high: float, *, top: float) -> list[float]:
    """Round numbers that cover a range of positive numbers; none is above `top`."""
    if high - low < 1e-9:
        low, high = max(low - 0.05, 0.0), min(high + 0.05, top)
    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [round(float(tick), 10) for tick in ticks if 0 <= tick <= top + 1e-9]


@dataclass(frozen=True)
class Line:
    """Means of one label, or of all labels, at every sampling step.

    Attributes:
        name: name of the label, or "mean of all", and the number of cases at the last step; the
            name alone if there is no mean of all.
        colour, marker: how to draw it.
        overall: whether it is the mean of all labels.
        points: (x, y) in px, one per step that has a mean.
        intervals: (x, low, high) in px.
    """

    name: str
    colour: str
    marker: str
    overall: bool
    points: list[tuple[float, float]]
    intervals: list[tuple[float, float, float]]


@dataclass(frozen=True)
class StepsChart:
    """Mean Dice by sampling step.

    Attributes:
        width, height: size of the chart in px.
        left, right, top, bottom: edges of the plotting area in px.
        x_ticks, y_ticks: marks on the axes.
        lines: one per label, and last the mean of all, if there is one.
        band: points of the polygon that shades the interval of the mean of all.
    """

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    band: str


def steps_chart(
    labels: Sequence[str], means: Sequence[Sequence[Mean]], *, with_overall: bool = True
) -> StepsChart:
    """Place the lines of Dice by sampling step.

    Args:
        labels: names of the lines.
        means: one entry per step: the mean of each line and, last, of all.
        with_overall: whether there is a mean of all.
    """
    width, height, left, right, top, bottom = WIDTH, 270.0, 40.0, WIDTH - 4.0, 12.0, 222.0
    columns = list(zip(*means, strict=True))
    several = len(labels) > 1
    shown = columns if several or not with_overall else columns[-1:]
    known = [m for column in shown for m in column if not math.isnan(m.value)]
    ends = [end for m in known for end in (m.value, m.low, m.high) if not math.isnan(end)]
    ticks = _ticks(min(ends, default=0.0), max(ends, default=1.0), top=1.0)

    def x_of(step: int) -> float:
        return round(left + 28 + (right - left - 56) * step / max(len(means) - 1, 1), 1)

    def y_of(value: float) -> float:
        return round(bottom - (bottom - top) * (value - ticks[0]) / (ticks[-1] - ticks[0]), 1)

    crowded = len(labels) > _MAX_INTERVALS
    gap = 0.0 if crowded else 8.0
    lines = []
    for c, column in enumerate(shown):
        overall = with_overall and c == len(shown) - 1
        # Lines stand beside each other, so that the reader can tell their intervals apart.
        shift = gap * (c - (len(shown) - 1) / 2)
        points, intervals = [], []
        for k, m in enumerate(column):
            if not math.isnan(m.value):
                points.append((x_of(k) + shift, y_of(m.value)))
            if not math.isnan(m.low) and (overall or not crowded):
                intervals.append((x_of(k) + shift, y_of(m.low), y_of(m.high)))
        name = "mean of all" if overall and several else labels[min(c, len(labels) - 1)]
        name = f"{name}, {column[-1].count}" if with_overall else name
        colour = "currentColor" if overall else PALETTE[c % len(PALETTE)]
        marker = "circle" if overall else MARKERS[(c + 1) % len(MARKERS)]
        lines.append(Line(name, colour, marker, overall, points, intervals))
    overall_ends = lines[-1].intervals if with_overall else []
    upper = [f"{x},{high}" for x, _, high in overall_ends]
    lower = [f"{x},{low}" for x, low, _ in reversed(overall_ends)]
    return StepsChart(
        width,
        height,
        left,
        right,
        top,
        bottom,
        [Tick(x_of(k), str(k + 1)) for k in range(len(means))],
        [Tick(y_of(tick), f"{tick:g}") for tick in ticks],
        lines,
        " ".join([*upper, *lower]),
    )
