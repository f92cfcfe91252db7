"""The picture that a run saves of its predictions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from torch import Tensor

from recycleseg.files import written_whole
from recycleseg.names import printable
from recycleseg.report.planes import as_viewed, busiest_slice, slice_of, view_of_scan

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Map = NDArray[Any]

# The palette of Okabe and Ito, because colour-blind readers can tell its colours apart; the first
# is that of class 1. For more than seven classes it follows once more darker, then lighter.
PALETTE = (
    *("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"),
    *("#7F5700", "#2F6380", "#00573F", "#847D24", "#003F62", "#753400", "#70435C"),
    *("#F4D48C", "#B3DDF5", "#8CD3C0", "#F8F3AA", "#8CC0DC", "#ECB78C", "#E8C3D7"),
)
# In inches.
_PANEL, _TITLE, _LEGEND_ROW = 2.0, 0.3, 0.25
# Height of a panel divided by its width.
_MAX_HEIGHT = 2.0
# In characters, so that neighbouring titles do not meet.
_MAX_NAME = 26
# The same for other texts, which stand alone.
MAX_TEXT = 60
# Places of the letters at left, right, top and bottom, as shares of the panel.
_EDGES = ((0.04, 0.5), (0.96, 0.5), (0.5, 0.95), (0.5, 0.05))
_LETTER: dict[str, Any] = {
    "color": "white",
    "fontsize": 9,  # a smaller L looks like an I
    "fontweight": "bold",
    "ha": "center",
    "va": "center",
    "path_effects": [withStroke(linewidth=1.5, foreground="black")],
}


@dataclass(frozen=True)
class StepsRow:
    """One case of the picture.

    Attributes:
        case_id: name of the case.
        image: (*S) in canonical axes.
        truth: numbers (*S) of the classes: 1 for the first class of the legend, 0 for none.
        predictions: such numbers at each of K sampling steps.
        dice: Dice at each of the K steps.
        spacing: voxel size along each axis.
    """

    case_id: str
    image: Tensor
    truth: Tensor
    predictions: Sequence[Tensor]
    dice: Sequence[float]
    spacing: Sequence[float]


def save_steps_figure(path: Path, rows: Sequence[StepsRow], class_names: Sequence[str]) -> None:
    """Save a PNG: image, truth and the prediction at every sampling step, side by side.

    A 3D case shows the slice with the most labelled voxels, turned as radiologists view it. The
    slice is axial, or along the thick slices of the scan if these are sagittal or coronal.

    Args:
        path: of the PNG.
        rows: one per case.
        class_names: names of the foreground classes, for the legend.
    """
    # Imported here, because this takes half a second that most users of the package do not need.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    columns = 2 + max(len(row.predictions) for row in rows)
    heights = [_PANEL * _height(row) + _TITLE for row in rows]
    legend_rows = math.ceil(len(class_names) / columns)
    height = sum(heights) + _LEGEND_ROW * legend_rows
    figure = Figure(figsize=(_PANEL * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for row, of_row in zip(rows, axes, strict=True):
        _draw_row(of_row, row)
    colours = [Patch(color=colour_of(number)) for number in range(1, len(class_names) + 1)]
    add_legend(figure, colours, class_names, loc="outside lower center", ncols=columns)
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path, dpi: int = 100, software: str | None = None) -> None:
    """Save a figure as PNG, whole or not at all; a letter that the font lacks becomes a box.

    Args:
        figure: what to save.
        path: the PNG file.
        dpi: pixels per inch.
        software: what the file says it was made by; None leaves this to matplotlib.
    """
    metadata = {} if software is None else {"Software": software}
    with warnings.catch_warnings(), written_whole(path) as temporary:
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
        figure.savefig(temporary, dpi=dpi, format="png", metadata=metadata)


def colour_of(number: int) -> str:
    """Colour of the class with this number, from 1."""
    return PALETTE[(number - 1) % len(PALETTE)]


def grey_range(values: Map) -> tuple[float, float]:
    """The intensities to show as black and as white: percentiles 0.5 and 99.5 of finite values."""
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(values, (0.5, 99.5)).astype(float).tolist()
    return low, max(high, low + 1e-12 * max(1.0, abs(low)))


def add_legend(
    owner: Axes | Figure, marks: Sequence[Artist], names: Sequence[str], **options: Any
) -> None:
    """Add a legend with these names, long ones shortened.

    Matplotlib would leave out a name that begins with "_", and read "$" as mathematics.
    """
    legend = owner.legend(marks, [" "] * len(names), frameon=False, fontsize=8, **options)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=short_name(name, MAX_TEXT), parse_math=False)


def short_name(name: str, longest: int) -> str:
    """The printable name, cut to some characters."""
    name = printable(name)
    return name if len(name) <= longest else name[: longest - 1] + "\u2026"


def _height(row: StepsRow) -> float:
    """Height of the slice divided by its width, but at most _MAX_HEIGHT."""
    view = view_of_scan(row.spacing)
    down, across = (row.image.shape[axis] * row.spacing[axis] for axis in (view.down, view.across))
    return min(down / across, _MAX_HEIGHT)


def _draw_row(axes: Sequence[Axes], row: StepsRow) -> None:
    view = view_of_scan(row.spacing)
    truth = as_viewed(row.truth.cpu().numpy())
    index = busiest_slice(truth > 0, view)

    def cut(volume: Tensor) -> Map:
        return slice_of(as_viewed(volume.cpu().numpy()), view, index)

    image = cut(row.image)
    panels = [np.zeros(image.shape, np.uint8), slice_of(truth, view, index)]
    panels += [cut(prediction) for prediction in row.predictions]
    titles = [short_name(row.case_id, _MAX_NAME), "truth"]
    for k, dice in enumerate(row.dice, 1):
        titles.append(f"step {k}: " + ("no Dice" if math.isnan(dice) else f"Dice {dice:.3f}"))
    aspect = row.spacing[view.down] / row.spacing[view.across]
    for ax in axes:
        ax.set_axis_off()
    for ax, panel, title in zip(axes, panels, titles, strict=False):
        ax.imshow(_overlay(image, panel), aspect=aspect, interpolation="nearest")
        ax.set_title(title, fontsize=8, parse_math=False)
        for letter, (x, y) in zip(view.edges, _EDGES, strict=True):
            ax.text(x, y, letter, transform=ax.transAxes, **_LETTER)


def _overlay(image: Map, numbers: Map) -> NDArray[np.float64]:
    low, high = grey_range(image)
    grey = np.clip((image - low) / (high - low), 0.0, 1.0)
    rgb = colormaps["gray"](grey)[..., :3]
    for number in np.unique(numbers[numbers > 0]).tolist():
        where = numbers == number
        rgb[where] = 0.5 * rgb[where] + 0.5 * np.array(to_rgb(colour_of(number)))
    return np.asarray(rgb)
