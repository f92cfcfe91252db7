"""Pictures of a case: outlines of prediction and reference, errors, uncertainty."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from contourpy import contour_generator
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from recycleseg.classes import Labels
from recycleseg.data.geometry import Orientation
from recycleseg.data.regrid import on_grid
from recycleseg.data.volumes import PixelSize, Volume, read_image, read_label, read_volume, sized
from recycleseg.files import FileError
from recycleseg.report.figures import PALETTE, grey_range
from recycleseg.report.planes import VIEWS_2D, VIEWS_3D, View, as_viewed, busiest_slice, slice_of
from recycleseg.units import Unit, steps, unit_of

Map = NDArray[Any]

# Side of a picture in its own units. mm would not do, because coordinates are rounded to 0.1 and
# fields of view differ too much in size.
SIDE = 200.0
_MARGIN = 1.25
_MIN_VOXELS = 16
_MAX_PIXELS = 384
_LOSSLESS_PIXELS = 128
MISSED, EXTRA, CONFUSED = "#F0E442", "#CC79A7", "#0072B2"
UNCERTAINTY_COLOURS = 64
_COLOURMAP = colormaps["magma"].resampled(UNCERTAINTY_COLOURS)


@dataclass(frozen=True)
class Plane:
    """A slice through a case, turned as radiologists view it.

    Attributes:
        name: "axial", "coronal", "sagittal", or empty for 2D.
        edges: letters at left, right, top and bottom; empty for 2D.
        picture, errors, uncertainty: pictures as data URIs, or empty.
        box: x, y, width and height of the pictures; the slice has the side SIDE.
        outlines: colour, whether it is the reference's, SVG path.
    """

    name: str
    edges: tuple[str, str, str, str]
    picture: str
    errors: str
    uncertainty: str
    box: tuple[float, float, float, float]
    outlines: list[tuple[str, bool, str]]


@dataclass(frozen=True)
class Overlay:
    """The pictures of a case.

    Attributes:
        planes: three slices, or one of a 2D case.
        bar: length of the scale bar in `unit`, and in units of SIDE.
        unit: "mm", or "pixels" if the pixel size is unknown.
        note: what is not shown and why, else empty.
    """

    planes: list[Plane]
    bar: tuple[float, float]
    unit: Unit
    note: str


@dataclass(frozen=True)
class _Case:
    """The arrays of a case, with axes turned so that slices of them are pictures.

    Attributes:
        pred, ref: label maps.
        image: intensities, or None.
        entropy: as a fraction of the greatest possible value, or None.
        spacing: length of a voxel along each axis.
        unit: of lengths.
    """

    pred: Map
    ref: Map
    image: Map | None
    entropy: Map | None
    spacing: tuple[float, ...]
    unit: Unit


def draw_overlay(
    prediction: Path,
    reference: Path,
    labels: Labels,
    *,
    pixel_size: PixelSize = "auto",
    ignore_label: int | None = None,
    images: Sequence[Path] = (),
    entropy: Path | None = None,
    max_entropy: float = 1.0,
) -> Overlay:
    """Draw a case in three planes, or a 2D case in one, each at the slice with the most errors.

    If an image or the entropy cannot be shown, the note of the overlay says why.

    Args:
        prediction, reference: label maps on the same grid.
        labels: name -> value, or values of a region.
        pixel_size: which voxel sizes of the label maps count; see `sized`.
        ignore_label: where the reference has this value, neither map is shown.
        images: one file per channel; the first is shown. Without it the outlines are on black.
        entropy: file of the entropy in nats; in 2D, 65535 stands for the greatest value.
        max_entropy: greatest possible entropy in nats.

    Raises:
        FileError: a label map cannot be read.
    """
    case, note = _read_case(prediction, reference, pixel_size, images, entropy, max_entropy)
    if ignore_label is not None:
        known = case.ref != ignore_label
        case = replace(case, pred=case.pred * known, ref=case.ref * known)
    centre, side = _field_of_view(case, labels)
    wrong = _any_label(case.pred, case.ref, labels)
    grey = _grey_range(case, centre, side)
    planes = [
        _draw_plane(case, labels, plane, centre, side, wrong, grey)
        for plane in (VIEWS_3D if case.pred.ndim == 3 else VIEWS_2D)
    ]
    bar = max(n for n in _BARS if n <= max(0.4 * side, _BARS[0]))
    return Overlay(planes, (bar, bar * SIDE / side), case.unit, note)


_BARS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)


def uncertainty_scale() -> str:
    """Colours of the uncertainty maps from 0 to the greatest value, for a CSS gradient."""
    colours = (_COLOURMAP(np.linspace(0, 1, 9))[:, :3] * 255).round().astype(int)
    return ", ".join("#" + "".join(f"{part:02x}" for part in colour) for colour in colours)


def _read_case(
    prediction: Path,
    reference: Path,
    pixel_size: PixelSize,
    images: Sequence[Path],
    entropy: Path | None,
    max_entropy: float,
) -> tuple[_Case, str]:
    volume = sized(read_label(prediction), pixel_size)
    shape, dims = volume.array.shape, volume.array.ndim
    orientation = Orientation.of(volume.affine, dims)
    notes = []

    def read(path: Path, what: str, reader: Callable[[Path], Volume]) -> Map | None:
        try:
            array = on_grid(reader(path), volume).array
        except FileError as error:
            notes.append(f"{what} not shown: {error}")
            return None
        if array.shape != shape:
            notes.append(f"{what} not shown: {path.name} has shape {array.shape}, not {shape}")
            return None
        return as_viewed(orientation.canonical(array))

    ref = sized(on_grid(read_label(reference), volume), pixel_size)
    image = read(images[0], "image", lambda path: read_image([path])[0]) if images else None
    uncertain = read(entropy, "uncertainty", read_volume) if entropy is not None else None
    if uncertain is not None:
        greatest = 65535.0 if dims == 2 else max_entropy
        uncertain = np.clip(uncertain / greatest, 0.0, 1.0)
    known = ref.spacing or volume.spacing
    case = _Case(
        pred=as_viewed(orientation.canonical(volume.array)),
        ref=as_viewed(orientation.canonical(ref.array)),
        image=image,
        entropy=uncertain,
        spacing=orientation.sizes(steps(known, dims)),
        unit=unit_of(known),
    )
    return case, "; ".join(notes)


def inside(label_map: Map, entry: int | tuple[int, ...]) -> NDArray[np.bool_]:
    """The voxels of a label value, or of the values of a region."""
    return label_map == entry if isinstance(entry, int) else np.isin(label_map, entry)


def _any_label(pred: Map, ref: Map, labels: Labels) -> NDArray[np.bool_]:
    """Where the maps differ in any label; without a difference, where the reference has a label."""
    # zeros_like keeps the order of axes in memory; this is many times faster for large volumes.
    wrong, present = (np.zeros_like(pred, dtype=np.bool_) for _ in range(2))
    for entry in labels.values():
        in_ref = inside(ref, entry)
        wrong |= inside(pred, entry) != in_ref
        present |= in_ref
    return wrong if wrong.any() else present


def _field_of_view(case: _Case, labels: Labels) -> tuple[tuple[float, ...], float]:
    """Centre and side of a square or cube around all structures, with a margin."""
    present = (case.pred > 0) | (case.ref > 0)
    size, low, high = np.array(case.spacing), [], []
    for axis in range(present.ndim):
        others = tuple(a for a in range(present.ndim) if a != axis)
        found = np.flatnonzero(present.any(others))
        low.append(found[0] if len(found) else 0)
        high.append(found[-1] + 1 if len(found) else present.shape[axis])
    ends = np.array([low, high]) * size
    side = max(float((ends[1] - ends[0]).max()) * _MARGIN, float(size.min()) * _MIN_VOXELS)
    return tuple(ends.mean(0).tolist()), side


def _grey_range(case: _Case, centre: tuple[float, ...], side: float) -> tuple[float, float]:
    """The `grey_range` of what is in view."""
    if case.image is None:
        return 0.0, 1.0
    box = tuple(
        slice(*_crop(n, s, c, side))
        for n, s, c in zip(case.image.shape, case.spacing, centre, strict=True)
    )
    return grey_range(case.image[box])


def _crop(size: int, spacing: float, centre: float, side: float) -> tuple[int, int]:
    """The first voxel of an axis in the field of view, and the one after the last."""
    first = math.floor((centre - side / 2) / spacing)
    last = math.ceil((centre + side / 2) / spacing)
    return max(first, 0), min(last, size)


def _draw_plane(
    case: _Case,
    labels: Labels,
    plane: View,
    centre: tuple[float, ...],
    side: float,
    wrong: NDArray[np.bool_],
    grey: tuple[float, float],
) -> Plane:
    name, across, down, _, edges = plane
    crops = [_crop(case.pred.shape[a], case.spacing[a], centre[a], side) for a in (down, across)]
    unit = SIDE / side
    steps = [case.spacing[a] * unit for a in (down, across)]
    starts = [
        (first * case.spacing[a] - centre[a] + side / 2) * unit
        for (first, _), a in zip(crops, (down, across), strict=True)
    ]
    index = busiest_slice(wrong, plane)

    def cut(array: Map | None) -> Map | None:
        if array is None:
            return None
        return slice_of(array, plane, index)[tuple(slice(*crop) for crop in crops)]

    pred, ref = cut(case.pred), cut(case.ref)
    assert pred is not None and ref is not None
    outlines = []
    for c, entry in enumerate(labels.values()):
        colour = PALETTE[c % len(PALETTE)]
        for is_reference, label_map in ((False, pred), (True, ref)):
            path = _outline(inside(label_map, entry), starts, steps)
            if path:
                outlines.append((colour, is_reference, path))
    height, width = (n * s for n, s in zip(pred.shape, steps, strict=True))
    return Plane(
        name=name,
        edges=edges,
        picture=_grey_picture(cut(case.image), grey),
        errors=_error_picture(pred, ref, labels),
        uncertainty=_uncertainty_picture(cut(case.entropy)),
        box=(round(starts[1], 2), round(starts[0], 2), round(width, 2), round(height, 2)),
        outlines=outlines,
    )


def _outline(mask: NDArray[np.bool_], starts: Sequence[float], steps: Sequence[float]) -> str:
    """SVG path around a mask, half-way between voxel centres inside and outside."""
    if not mask.any():
        return ""
    padded = np.pad(mask, 1).astype(np.float64)
    y, x = (
        s + (np.arange(n) - 0.5) * d for n, s, d in zip(padded.shape, starts, steps, strict=True)
    )
    pieces = []
    for line in contour_generator(x, y, padded).lines(0.5):
        points = np.asarray(line)[:-1]  # the last point repeats the first
        ahead, behind = np.roll(points, -1, 0) - points, points - np.roll(points, 1, 0)
        turns = np.abs(ahead[:, 0] * behind[:, 1] - ahead[:, 1] * behind[:, 0]) > 1e-9
        pieces.append("M" + " ".join(f"{px:.1f},{py:.1f}" for px, py in points[turns]) + "Z")
    return "".join(pieces)


def _grey_picture(image: Map | None, grey: tuple[float, float]) -> str:
    if image is None:
        return ""
    values = np.nan_to_num(image.astype(np.float64), nan=grey[0])
    shade = np.clip((values - grey[0]) / (grey[1] - grey[0]), 0.0, 1.0)
    picture = _shrunk(Image.fromarray((shade * 255).round().astype(np.uint8)), smooth=True)
    if max(picture.size) <= _LOSSLESS_PIXELS:
        return _data_uri(picture, "PNG", optimize=True)
    return _data_uri(picture, "JPEG", quality=85)


def _error_picture(pred: Map, ref: Map, labels: Labels) -> str:
    """A picture of the errors, transparent where prediction and reference agree."""
    missed, extra = (np.zeros(pred.shape, dtype=np.bool_) for _ in range(2))
    for entry in labels.values():
        in_pred, in_ref = inside(pred, entry), inside(ref, entry)
        missed |= in_ref & ~in_pred
        extra |= in_pred & ~in_ref
    kinds = np.select([missed & extra, missed, extra], [3, 1, 2], 0).astype(np.uint8)
    if not kinds.any():
        return ""
    picture = Image.fromarray(kinds)
    picture.putpalette(
        [0, 0, 0, *(b for c in (MISSED, EXTRA, CONFUSED) for b in bytes.fromhex(c[1:]))]
    )
    return _data_uri(_shrunk(picture), "PNG", optimize=True, transparency=0)


def _uncertainty_picture(entropy: Map | None) -> str:
    """A picture of the entropy, given as a fraction of its greatest value."""
    if entropy is None:
        return ""
    values = np.nan_to_num(entropy.astype(np.float64))
    picture = Image.fromarray((values * (UNCERTAINTY_COLOURS - 1)).round().astype(np.uint8))
    colours = (_COLOURMAP(np.arange(UNCERTAINTY_COLOURS))[:, :3] * 255).round().astype(np.uint8)
    picture.putpalette(colours.ravel().tolist())
    return _data_uri(_shrunk(picture), "PNG", optimize=True)


def _shrunk(picture: Image.Image, *, smooth: bool = False) -> Image.Image:
    """Shrink to at most _MAX_PIXELS; only `smooth` averages, which labels do not allow."""
    factor = _MAX_PIXELS / max(picture.size)
    if factor >= 1:
        return picture
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    way = Image.Resampling.BOX if smooth else Image.Resampling.NEAREST
    return picture.resize(size, way)


def _data_uri(picture: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{content}"
