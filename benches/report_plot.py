"""The picture of a report: how many times faster than plain PyTorch each provider is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

# Okabe & Ito's palette, distinguishable with any colour vision, with a marker each besides.
STYLES = {
    "fused": ("#D55E00", "D"),
    "ours": ("#D55E00", "D"),
    "compiled": ("#0072B2", "s"),
    "reference": ("#000000", "|"),
    "plain": ("#000000", "|"),
}
OTHERS = (("#009E73", "^"), ("#CC79A7", "v"), ("#E69F00", "o"), ("#56B4E9", "P"))


def save_plot(path: Path, groups: Mapping[str, Mapping[str, float]], title: str) -> None:
    """Save a PNG with a line for each group and a marker for each provider's speed.

    Args:
        path: of the PNG.
        groups: group -> provider -> how many times faster than the reference. Groups of one
            operation, which are named alike up to the first comma, share axes.
        title: of the picture.
    """
    panels: dict[str, dict[str, Mapping[str, float]]] = {}
    for group, speeds in groups.items():
        operation, _, shape = group.partition(", ")
        panels.setdefault(operation, {})[shape or operation] = speeds
    heights = [len(lines) + 1.5 for lines in panels.values()] or [2.0]
    figure = Figure(figsize=(9, 0.3 * sum(heights) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(
        len(heights), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    styles = _styles(groups)
    for ax, (operation, lines) in zip(axes, panels.items(), strict=False):
        _draw(ax, operation, lines, styles)
    axes[-1].set_xlabel("times faster than plain PyTorch (the same time: 1)")
    shown = {label: artist for ax in axes for label, artist in _legend(ax).items()}
    if shown:
        handles, labels = list(shown.values()), list(shown)
        figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(shown)))
    figure.savefig(path, dpi=120)


def _styles(groups: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[str, str]]:
    names = dict.fromkeys(name for speeds in groups.values() for name in speeds)
    others = [name for name in names if name not in STYLES]
    further = {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(others)}
    return {name: STYLES.get(name) or further[name] for name in names}


def _draw(
    ax: Axes,
    operation: str,
    lines: Mapping[str, Mapping[str, float]],
    styles: Mapping[str, tuple[str, str]],
) -> None:
    ax.set_title(operation, fontsize=10, loc="left")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.axvline(1, color="#888888", linewidth=1)
    ax.grid(axis="x", color="#DDDDDD")
    ax.set_axisbelow(True)
    for height, speeds in enumerate(lines.values()):
        ax.hlines(height, min(speeds.values()), max(speeds.values()), color="#BBBBBB", zorder=1)
    for provider, (color, marker) in styles.items():
        heights = [i for i, speeds in enumerate(lines.values()) if provider in speeds]
        if heights:
            x = [list(lines.values())[height][provider] for height in heights]
            ax.scatter(x, heights, s=45, color=color, marker=marker, label=provider, zorder=2)
    ax.set_yticks(range(len(lines)), list(lines), fontsize=8)
    ax.set_ylim(len(lines) - 0.4, -0.6)


def _legend(ax: Axes) -> dict[str, Artist]:
    handles, labels = ax.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))
