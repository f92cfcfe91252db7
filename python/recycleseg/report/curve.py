"""The learning curve of a run, drawn from its metrics.jsonl alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recycleseg.report.figures import PALETTE, add_legend, colour_of, save_figure
from recycleseg.run.metrics_log import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

# How many values one smoothed value comes from: a share of the curve, but at least some.
_SMOOTHED_SHARE, _SMOOTHED_MIN = 0.05, 5
_DICE, _OF = "val_dice", "val_dice/"
_NUM = "val_num"
_PATCHES, _PATCHES_OF = "patch_dice", "patch_dice/"
_LEGEND_ROWS = 16
# Colours of PALETTE that follow each other; then it repeats their hues, and the marker changes.
_HUES = 7
_MARKERS = ("o", "s", "^", "D", "v")


def save_learning_curve(path: Path, metrics: Path) -> None:
    """Save a PNG: loss, validation Dice of each class and their mean, learning rate, by step.

    Dashed lines are estimates on patches (`recycleseg.training.patch_dice`). The legend has the
    number of cases of every mean, which runs of earlier versions do not tell.

    Args:
        path: of the PNG.
        metrics: metrics.jsonl of a run.
    """
    # Imported here, because this takes half a second that most users of the package do not need.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read_metrics(metrics)
    names = _names(lines, _OF)
    columns = 1 + len(names) // _LEGEND_ROWS
    figure = Figure(figsize=(7.5 + 1.5 * columns, 8.0), layout="constrained")
    FigureCanvasAgg(figure)
    loss, dice, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    _draw_loss(loss, *_column(lines, "loss"))
    _draw_dice(dice, lines, names, columns)
    rate.plot(*_column(lines, "lr"), color="black", linewidth=1.2)
    rate.set_ylabel("learning rate")
    rate.set_ylim(bottom=0)
    rate.set_xlabel("optimiser step")
    for axes in (loss, dice, rate):
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def _names(lines: list[dict[str, Any]], start: str) -> list[str]:
    """The names of values that begin like this, in their order."""
    names = dict.fromkeys(name for line in lines for name in line)
    return [name for name in names if name.startswith(start)]


def _column(lines: list[dict[str, Any]], name: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Steps and values of the lines that have this value; NaN stands for null."""
    found = [(line["step"], line[name]) for line in lines if name in line]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.array(steps), np.array(values, dtype=np.float64)


def _draw_loss(axes: Axes, steps: NDArray[Any], values: NDArray[np.float64]) -> None:
    from scipy.ndimage import median_filter  # here for the same reason as Matplotlib

    axes.set_ylabel("training loss")
    known = np.isfinite(values)
    steps, values = steps[known], values[known]
    if len(values) == 0:
        return
    # The median, because a mean would follow a single large loss.
    smoothed = median_filter(values, max(round(_SMOOTHED_SHARE * len(values)), _SMOOTHED_MIN))
    axes.plot(steps, values, color=PALETTE[1], alpha=0.6, linewidth=1.0, label="each logged step")
    axes.plot(steps, smoothed, color=PALETTE[4], linewidth=2.0, label="smoothed")
    # Single steps with a large loss would press the curve flat.
    low, high = min(values.min(), smoothed.min()), np.percentile(values, 98)
    margin = 0.05 * (max(high, smoothed.max()) - low) or 0.05
    axes.set_ylim(low - margin, max(high, smoothed.max()) + margin)
    axes.legend(loc="upper right", frameon=False)


def _draw_dice(axes: Axes, lines: list[dict[str, Any]], names: Sequence[str], columns: int) -> None:
    axes.set_ylabel("mean validation Dice")
    axes.set_ylim(0, 1.02)
    drawn = []
    for index, name in enumerate(names):
        marker = _MARKERS[index // _HUES % len(_MARKERS)]
        drawn += axes.plot(
            *_column(lines, name),
            color=colour_of(index + 1),
            marker=marker,
            markersize=4,
            linewidth=1.2,
        )
    keys = [name.removeprefix(_OF) for name in names]
    texts = [key + _cases_in_words(lines, f"{_NUM}/{key}") for key in keys]
    steps, mean = _column(lines, _DICE)
    if len(steps):
        drawn += axes.plot(steps, mean, color="black", marker="o", markersize=4, linewidth=2.2)
        texts.append("mean" + _cases_in_words(lines, _NUM))
    else:
        axes.text(0.5, 0.5, "no validation yet", transform=axes.transAxes, ha="center")
    if len(_column(lines, _PATCHES)[0]):
        drawn.append(_draw_patches(axes, lines))
        texts.append("mean, patches")
    if drawn:
        add_legend(axes, drawn, texts, loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=columns)


def _draw_patches(axes: Axes, lines: list[dict[str, Any]]) -> Line2D:
    """Draw the estimates on patches, in the colours of the classes; the line of their mean."""
    for index, name in enumerate(_names(lines, _PATCHES_OF)):
        colour = colour_of(index + 1)
        axes.plot(*_column(lines, name), color=colour, linestyle="--", linewidth=0.8)
    (mean,) = axes.plot(*_column(lines, _PATCHES), color="black", linestyle="--", linewidth=1.2)
    return mean


def _cases_in_words(lines: list[dict[str, Any]], name: str) -> str:
    """The fewest and the most cases behind the points of a line; empty if they are not known."""
    numbers = _column(lines, name)[1]
    if len(numbers) == 0:
        return ""
    fewest, most = numbers.min(), numbers.max()
    return f" (n={most:g})" if fewest == most else f" (n={fewest:g} to {most:g})"
