"""Positions of marks in charts."""

from __future__ import annotations

import numpy as np
import pytest

from recycleseg.report.charts import WIDTH, box_plot, steps_chart
from recycleseg.report.columns import Column
from recycleseg.report.intervals import Mean, label_means, overall_mean


def column(values: np.ndarray, unit: str = "") -> Column:
    return Column("dice", "Dice", unit, 3, False, values, "")


def means_of(dice: list[np.ndarray]) -> list[list[Mean]]:
    groups = np.arange(len(dice[0]))
    return [[*label_means(values, groups), overall_mean(values, groups)] for values in dice]


def test_dots_and_boxes_are_on_the_scale_of_the_ticks() -> None:
    values = np.array([[0.5], [0.6], [0.7], [0.75], [0.8], [0.9]])
    plot = box_plot(column(values), ["a"])
    ticks = {float(tick.text): tick.at for tick in plot.ticks}
    assert min(ticks) <= 0.5 and max(ticks) == 1.0
    (row,) = plot.rows
    expected = np.interp(values[:, 0], [*ticks], [*ticks.values()])
    # px are rounded to 0.1
    assert [x for x, _ in row.dots] == pytest.approx(expected, abs=0.06)
    assert row.box is not None
    box = [row.box.low, row.box.q1, row.box.median, row.box.q3, row.box.high]
    quartiles = [0.5, *np.quantile(values, (0.25, 0.5, 0.75)), 0.9]
    assert box == pytest.approx(np.interp(quartiles, [*ticks], [*ticks.values()]), abs=0.06)
    assert row.name == "a, n = 6"
    again = box_plot(column(values), ["a"])
    assert again == plot
    assert box_plot(column(values[:5]), ["a"]).rows[0].box is None


def test_infinite_cases_are_at_the_edge_and_missing_ones_nowhere() -> None:
    values = np.array([[1.0, np.nan], [np.inf, np.nan], [np.nan, np.nan]])
    plot = box_plot(column(values, "mm"), ["a", "b"])
    a, b = plot.rows
    assert (a.name, b.name) == ("a, n = 2", "b, n = 0")
    assert len(a.dots) == len(a.infinite) == 1
    assert plot.right < a.infinite[0][0] < WIDTH
    assert a.box is None and a.note == ""
    assert (b.dots, b.infinite, b.note) == ([], [], "not applicable in any case")


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan, np.inf, 7.25])
@pytest.mark.parametrize("unit", ["", "mm"])
def test_any_values_have_an_axis(value: float, unit: str) -> None:
    if not unit and value > 1:
        pytest.skip("no share is above 1")
    plot = box_plot(column(np.full((6, 1), value), unit), ["a"])
    assert len(plot.ticks) > 1
    positions = [tick.at for tick in plot.ticks]
    assert positions == sorted(positions)
    assert all(plot.left <= x <= plot.right for x, _ in plot.rows[0].dots)


@pytest.mark.parametrize("num_labels", [1, 2, 9])
def test_steps_have_a_line_per_label_and_one_of_all(num_labels: int) -> None:
    rng = np.random.default_rng(0)
    dice = [rng.uniform(0.8, 0.9, (6, num_labels)) for _ in range(4)]
    means = means_of(dice)
    chart = steps_chart([f"s{c}" for c in range(num_labels)], means)
    assert len(chart.lines) == (1 if num_labels == 1 else num_labels + 1)
    assert chart.lines[-1].overall and all(line.name.endswith(", n = 6") for line in chart.lines)
    for line in chart.lines:
        assert len(line.points) == 4
        assert all(chart.left < x < chart.right for x, _ in line.points)
        assert len(line.intervals) == (4 if line.overall or num_labels < 5 else 0)
        for (_, y), (_, low, high) in zip(line.points, line.intervals, strict=False):
            assert chart.top <= high <= y <= low <= chart.bottom
    assert [tick.text for tick in chart.x_ticks] == ["1", "2", "3", "4"]


def test_steps_where_nothing_applies() -> None:
    dice = [np.full((3, 1), np.nan)] * 2
    chart = steps_chart(["a"], means_of(dice))
    assert chart.lines[0].points == [] and chart.band == ""
