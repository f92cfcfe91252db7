"""One picture of many cases of a data set: a slice of each with the outlines of its label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recycleseg.classes import Labels, values_of
from recycleseg.data.geometry import Orientation
from recycleseg.data.volumes import Volume
from recycleseg.report.figures import (
    MAX_TEXT,
    add_legend,
    colour_of,
    grey_range,
    save_figure,
    short_name,
)
from recycleseg.report.overlays import inside
from recycleseg.report.planes import as_viewed, busiest_slice, slice_of, view_of_scan
from recycleseg.units import steps

_INCHES = 2.4
_TITLE_INCHES = 0.25
# Height of a row of panels, divided by their width.
_TALLEST = 1.5
_LEGEND_COLUMNS = 6
# What the PNG says it was made by, and where it says so.
_SOFTWARE, _FIRST_BYTES = "recycle-data show", 1024


@dataclass(frozen=True)
class Panel:
    """One case of the picture.

    Attributes:
        title: what stands above it.
        image: (rows, columns) intensities.
        label: (rows, columns) label values.
        aspect: height of a pixel divided by its width.
        edges: letters at the left and at the top; empty for 2D.
    """

    title: str
    image: NDArray[Any]
    label: NDArray[Any]
    aspect: float
    edges: tuple[str, str]


def panel_of(case_id: str, image: Volume, label: Volume, labels: Labels) -> Panel:
    """The slice of a case with the most foreground, turned as radiologists view it.

    A 3D case is cut axially, or across its thick slices if they lie in another plane.

    Args:
        case_id: name of the case.
        image: one channel.
        label: on the same grid.
        labels: name -> value, or values of a region.
    """
    dims = image.array.ndim
    orientation = Orientation.of(image.affine, dims)
    spacing = orientation.sizes(steps(image.spacing, dims))
    view = view_of_scan(spacing)
    label_map = as_viewed(orientation.canonical(label.array))
    foreground = inside(label_map, tuple(v for entry in labels.values() for v in values_of(entry)))
    index, title = busiest_slice(foreground, view), case_id
    if not foreground.any():
        title += ", no foreground"
    elif view.name:
        title += f", {view.name}"
    return Panel(
        title=title,
        image=slice_of(as_viewed(orientation.canonical(image.array)), view, index).copy(),
        label=slice_of(label_map, view, index).copy(),
        aspect=spacing[view.down] / spacing[view.across],
        edges=(view.edges[0], view.edges[2]),
    )


def save_contact_sheet(path: Path, panels: Sequence[Panel], labels: Labels) -> None:
    """Save a PNG of all panels with a legend.

    Args:
        path: of the PNG; it appears whole or not at all.
        panels: one per case.
        labels: name -> value, or values of a region.
    """
    # Imported here, because this takes half a second that most users of the package do not need.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    colours = {name: colour_of(number) for number, name in enumerate(labels, 1)}
    columns = math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    tallest = max(panel.aspect * panel.image.shape[0] / panel.image.shape[1] for panel in panels)
    row_height = _INCHES * min(tallest, _TALLEST) + _TITLE_INCHES
    legend = _TITLE_INCHES * (1 + math.ceil(len(labels) / _LEGEND_COLUMNS))
    size = (_INCHES * columns, row_height * rows + legend)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, panel in zip(axes.flat, panels, strict=False):
        _draw(ax, panel, labels, colours)
    marks = [Line2D([], [], color=colour) for colour in colours.values()]
    add_legend(figure, marks, list(colours), loc="outside lower center", ncols=_LEGEND_COLUMNS)
    save_figure(figure, path, dpi=120, software=_SOFTWARE)


def is_contact_sheet(path: Path) -> bool:
    """Whether a file is a picture of `save_contact_sheet`, which says so in its first bytes."""
    try:
        with path.open("rb") as file:
            return not path.is_symlink() and _SOFTWARE.encode() in file.read(_FIRST_BYTES)
    except OSError:
        return False


def _draw(ax: Any, panel: Panel, labels: Labels, colours: Mapping[str, str]) -> None:
    low, high = grey_range(panel.image)
    grey = {"cmap": "gray", "vmin": low, "vmax": high}
    ax.imshow(panel.image.astype(np.float32), aspect=panel.aspect, **grey)
    for name, entry in labels.items():
        mask = inside(panel.label, entry)
        if mask.any():
            # With a border of zeros, so that outlines close at the edge of the picture.
            y, x = (np.arange(-1, size + 1) for size in mask.shape)
            outline = {"levels": [0.5], "colors": [colours[name]], "linewidths": 0.9}
            ax.contour(x, y, np.pad(mask, 1).astype(np.float32), **outline)
    # A structure may reach the edge; the outline outside must not widen the picture.
    rows, columns = panel.image.shape
    ax.set_xlim(-0.5, columns - 0.5)
    ax.set_ylim(rows - 0.5, -0.5)
    ax.set_title(short_name(panel.title, MAX_TEXT), fontsize=7, parse_math=False)
    where = ((0.02, 0.5, "left", "center"), (0.5, 0.98, "center", "top"))
    for letter, (left, up, ha, va) in zip(panel.edges, where, strict=True):
        ax.text(left, up, letter, color="white", fontsize=6, ha=ha, va=va, transform=ax.transAxes)
