"""The picture that a run saves of its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from torch import Tensor

# The palette of Okabe and Ito, because colour-blind readers can tell its colours apart; the first
# is that of class 1.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


@dataclass(frozen=True)
class StepsRow:
    """One case of the picture.

    Attributes:
        case_id: name of the case.
        image: (*S).
        truth: labels (*S).
        predictions: labels (*S) at each of K sampling steps.
        dice: Dice at each of the K steps.
    """

    case_id: str
    image: Tensor
    truth: Tensor
    predictions: Sequence[Tensor]
    dice: Sequence[float]


def save_steps_figure(path: Path, rows: Sequence[StepsRow], aspect: float = 1.0) -> None:
    """Save a PNG: image, truth and the prediction at every sampling step, side by side.

    A 3D case shows the slice along its last axis that has the most labelled voxels.

    Args:
        path: of the PNG.
        rows: one per case.
        aspect: height of a pixel divided by its width, from the spacing.
    """
    # Imported here, because this takes half a second that most users of the package do not need.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = max(len(row.predictions) for row in rows)
    height, width = _plane(rows[0].image, 0).shape
    row_height = 2.0 * aspect * height / width + 0.25  # inches; a quarter for the titles
    figure = Figure(figsize=(2.0 * (steps + 2), row_height * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), steps + 2, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for row, row_axes in zip(rows, axes, strict=True):
        index = _busiest_slice(row.truth)
        image = _plane(row.image, index)
        panels = [np.zeros_like(image, dtype=np.int64), _plane(row.truth, index)]
        panels += [_plane(p, index) for p in row.predictions]
        titles = [row.case_id, "truth"]
        titles += [f"step {k + 1}: {d:.3f}" for k, d in enumerate(row.dice)]
        for ax, labels, title in zip(row_axes, panels, titles, strict=False):
            ax.imshow(_overlay(image, labels), aspect=aspect, interpolation="nearest")
            ax.set_title(title, fontsize=8)
    figure.savefig(path, dpi=100)


def _busiest_slice(truth: Tensor) -> int:
    if truth.ndim == 2:
        return 0
    return int((truth > 0).flatten(0, -2).sum(0).argmax())


def _plane(volume: Tensor, index: int) -> NDArray[np.float64] | NDArray[np.int64]:
    plane = volume if volume.ndim == 2 else volume[..., index]
    # The first axis of a medical array is x; in a picture x runs to the right.
    array = plane.cpu().numpy()
    return array[:, ::-1].T if volume.ndim == 3 else array


def _overlay(
    image: NDArray[np.float64] | NDArray[np.int64],
    labels: NDArray[np.float64] | NDArray[np.int64],
) -> NDArray[np.float64]:
    low, high = np.percentile(image, (0.5, 99.5))
    grey = np.clip((image - low) / max(high - low, 1e-12), 0.0, 1.0)
    rgb = colormaps["gray"](grey)[..., :3]
    for value in np.unique(labels[labels > 0]):
        colour = PALETTE[(int(value) - 1) % len(PALETTE)]
        tint = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255.0
        where = labels == value
        rgb[where] = 0.5 * rgb[where] + 0.5 * tint
    return np.asarray(rgb)
