"""Where the marks of box plots and line charts go; templates/charts.svg.j2 draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.cbook import boxplot_stats
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from recycleseg.report.columns import Column
from recycleseg.report.figures import PALETTE
from recycleseg.report.intervals import Mean

Array = NDArray[np.float64]
Place = Callable[[float], float]

# In px at a phone's width, so that text is never scaled down.
WIDTH = 350
ROW = 48
_LEFT, _RIGHT = 18, 36
_BOX_AT, _JITTER = 31, 8.0
# With fewer cases quartiles say nothing that their dots do not.
_MIN_FOR_BOX = 5
# More lines than this have no room for their intervals, which the table has.
_MAX_INTERVALS = 4
MARKERS = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Dot:
    """A case of a label, at px; `text` names it."""

    x: float
    y: float
    case: int
    label: int
    text: str


@dataclass(frozen=True)
class Box:
    """Whiskers (at most 1.5 times the quartiles' distance from them), quartiles and median, px."""

    low: float
    q1: float
    median: float
    q3: float
    high: float


@dataclass(frozen=True)
class BoxRow:
    name: str
    colour: str
    y: float
    box: Box | None
    dots: list[Dot]
    infinite: list[Dot]
    note: str


@dataclass(frozen=True)
class BoxPlot:
    """One metric, a row per label. height: px. left, right: ends of the axis; edge: of all."""

    title: str
    height: float
    left: float
    right: float
    edge: float
    ticks: list[Tick]
    rows: list[BoxRow]


def box_plot(column: Column, labels: Sequence[str], case_ids: Sequence[str]) -> BoxPlot:
    """The distribution of a metric over cases, with every case as a dot."""
    finite = column.values[np.isfinite(column.values)]
    if column.unit:  # a distance, from 0 on; the others are shares, up to 1
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
        dots: list[Dot] = []
        infinite: list[Dot] = []
        for b, value in enumerate(values.tolist()):
            if not math.isnan(value):
                x = place(value) if math.isfinite(value) else right + 12
                text = f"{case_ids[b]}: {column.text(value)}"
                dot = Dot(x, y + float(jitter[b]), b, c, text)
                (dots if math.isfinite(value) else infinite).append(dot)
        colour = PALETTE[c % len(PALETTE)]
        box = _box(values[np.isfinite(values)], place)
        note = "" if dots or infinite else "not applicable in any case"
        rows.append(BoxRow(name, colour, y, box, dots, infinite, note))
    marks = [Tick(place(tick), f"{tick:g}") for tick in ticks]
    return BoxPlot(column.title, len(rows) * ROW + 44, left, right, WIDTH, marks, rows)


def _box(values: Array, place: Place) -> Box | None:
    if len(values) < _MIN_FOR_BOX:
        return None
    (stats,) = boxplot_stats(values)
    at = (stats["whislo"], stats["q1"], stats["med"], stats["q3"], stats["whishi"])
    return Box(*(place(float(value)) for value in at))


def _ticks(low: float, high: float, *, top: float) -> list[float]:
    """Round numbers around a range of positive numbers, but none above `top`."""
    if high - low < 1e-9:
        low, high = max(low - 0.05, 0.0), min(high + 0.05, top)
    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [round(float(tick), 10) for tick in ticks if 0 <= tick <= top + 1e-9]


@dataclass(frozen=True)
class Line:
    """Means of a label, or of all, at every sampling step; low, high: ends of the interval, px."""

    name: str
    colour: str
    marker: str
    overall: bool
    points: list[tuple[float, float]]
    intervals: list[tuple[float, float, float]]


@dataclass(frozen=True)
class StepsChart:
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


def steps_chart(labels: Sequence[str], means: Sequence[Sequence[Mean]]) -> StepsChart:
    """Dice by sampling step. means: of every step, of each label and, last, of all."""
    width, height, left, right, top, bottom = WIDTH, 270.0, 40.0, WIDTH - 4.0, 12.0, 222.0
    columns = list(zip(*means, strict=True))
    several = len(labels) > 1
    shown = columns if several else columns[-1:]
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
        overall = c == len(shown) - 1
        # Beside each other, so that their intervals are told apart.
        shift = gap * (c - (len(shown) - 1) / 2)
        points, intervals = [], []
        for k, m in enumerate(column):
            if not math.isnan(m.value):
                points.append((x_of(k) + shift, y_of(m.value)))
            if not math.isnan(m.low) and (overall or not crowded):
                intervals.append((x_of(k) + shift, y_of(m.low), y_of(m.high)))
        name = "mean of all" if overall and several else labels[min(c, len(labels) - 1)]
        colour = "currentColor" if overall else PALETTE[c % len(PALETTE)]
        marker = "circle" if overall else MARKERS[(c + 1) % len(MARKERS)]
        lines.append(Line(name, colour, marker, overall, points, intervals))
    overall_ends = lines[-1].intervals
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
