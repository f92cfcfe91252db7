"""Slices of a case: their orientation, their scale, outlines, errors and uncertainty."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.pixel_sizes import write_png

from recycleseg.data.volumes import PixelSize, write_volume
from recycleseg.report.overlays import CONFUSED, EXTRA, MISSED, SIDE, draw_overlay

SHAPE = (10, 14, 12)
# Orientations of the axes of a file, as columns: to right, anterior, superior; to left, posterior,
# superior; and to superior, right, anterior.
AFFINES = {
    "RAS": np.diag([1.0, 2.0, 1.5, 1.0]),
    "LPS": np.diag([-1.0, -2.0, 1.5, 1.0]),
    "SRA": np.array([[0, 1.0, 0, 0], [0, 0, 2.0, 0], [1.5, 0, 0, 0], [0, 0, 0, 1]]),
}


def stored(canonical: np.ndarray, name: str) -> np.ndarray:
    """A canonical array (right, anterior, superior) in the axes of a file named in AFFINES."""
    if name == "LPS":
        return canonical[::-1, ::-1]
    return canonical.transpose(2, 0, 1) if name == "SRA" else canonical


def pixels(uri: str) -> np.ndarray:
    content = base64.b64decode(uri.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))


def extent(path: str) -> tuple[float, float, float, float]:
    """Left, right, top and bottom of an outline."""
    points = np.array(re.findall(r"(-?[\d.]+),(-?[\d.]+)", path), dtype=float)
    return (*np.sort(points[:, 0])[[0, -1]], *np.sort(points[:, 1])[[0, -1]])


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


@pytest.mark.parametrize("name", AFFINES)
def test_all_orientations_look_the_same(tmp_path: Path, name: str) -> None:
    label = np.zeros(SHAPE, np.uint8)
    label[3:8, 3:11, 3:9] = 1
    image = np.full(SHAPE, 20.0, np.float32)
    image[7, 10, 8] = 90  # the corner of the structure at right, anterior, superior
    pred = label.copy()
    pred[7, 10, 8] = 0
    for file, array in (("p", pred), ("r", label), ("i", image)):
        volume = np.ascontiguousarray(stored(array, name))
        write_volume(tmp_path / f"{file}.nii.gz", volume, spacing=(1, 1, 1), affine=AFFINES[name])
    paths = [tmp_path / f"{file}.nii.gz" for file in "pri"]
    overlay = draw_overlay(paths[0], paths[1], {"box": 1}, images=paths[2:])
    assert overlay.note == ""
    edges = [plane.edges for plane in overlay.planes]
    assert edges == [("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I")]
    sizes = ((5, 16), (5, 9), (16, 9))  # mm across and down: 5x8x6 voxels of 1x2x1.5 mm
    unit = SIDE / 20  # the longest side is 16 mm; the margin adds a quarter
    for plane, (across, down) in zip(overlay.planes, sizes, strict=True):
        _, reference = plane.outlines
        left, right, top, bottom = extent(reference[2])
        # The outline is where the voxels end, half-way between centres; rounded to 0.1.
        assert right - left == pytest.approx(across * unit, abs=0.11)
        assert bottom - top == pytest.approx(down * unit, abs=0.11)
        assert (left + right) / 2 == pytest.approx(SIDE / 2, abs=0.11)
        # The bright voxel is also the error; it is at the upper left of the structure.
        bright = np.argwhere(pixels(plane.picture)[..., 0] > 200)
        wrong = np.argwhere(pixels(plane.errors)[..., 3])
        np.testing.assert_array_equal(bright, wrong)
        (row, column), x, y, width, height = bright[0], *plane.box
        rows, columns = pixels(plane.picture).shape[:2]
        assert x + width * (column + 0.5) / columns == pytest.approx(
            left + 0.5 * width / columns, abs=0.11
        )
        assert y + height * (row + 0.5) / rows == pytest.approx(top + 0.5 * height / rows, abs=0.11)


def test_errors_have_a_colour_each(tmp_path: Path) -> None:
    ref = np.zeros((20, 30), np.uint8)
    ref[5:15, 5:15], ref[5:15, 15:25] = 1, 2
    pred = ref.copy()
    pred[5:15, 5:7], pred[3:5, 5:15], pred[5:15, 15:18] = 0, 1, 1
    for name, label in (("p", pred), ("r", ref)):
        write_volume(tmp_path / f"{name}.png", label, spacing=(0.5, 0.25))
    overlay = draw_overlay(tmp_path / "p.png", tmp_path / "r.png", {"a": 1, "b": 2})
    (plane,) = overlay.planes
    assert plane.picture == "" and plane.uncertainty == "" and plane.edges[0] == ""
    errors = pixels(plane.errors)
    seen = [tuple(colour) for colour in errors[errors[..., 3] > 0][:, :3]]
    assert {c: seen.count(rgb(c)) for c in (MISSED, EXTRA, CONFUSED)} == {
        MISSED: 20,
        EXTRA: 20,
        CONFUSED: 30,
    }
    assert [(reference, colour) for colour, reference, _ in plane.outlines] == [
        (False, "#E69F00"),
        (True, "#E69F00"),
        (False, "#56B4E9"),
        (True, "#56B4E9"),
    ]
    x, y, width, height = plane.box
    assert height / width == pytest.approx(errors.shape[0] * 0.5 / (errors.shape[1] * 0.25), 0.01)


def test_ignored_voxels_are_not_shown(tmp_path: Path) -> None:
    ref = np.zeros((24, 24), np.uint8)
    ref[4:20, 4:20] = 1
    pred = ref.copy()
    pred[6:8, 6:8], pred[15:19, 15:19] = 0, 0
    ref[12:] = 2
    for name, label in (("p", pred), ("r", ref)):
        write_volume(tmp_path / f"{name}.png", label, spacing=(1.0, 1.0))
    paths = tmp_path / "p.png", tmp_path / "r.png"
    (plane,) = draw_overlay(*paths, {"a": 1}, ignore_label=2).planes
    errors = pixels(plane.errors)
    assert [tuple(c) for c in errors[errors[..., 3] > 0][:, :3]] == [rgb(MISSED)] * 4
    assert [reference for _, reference, _ in plane.outlines] == [False, True]


def test_hole_and_border_are_outlined(tmp_path: Path) -> None:
    label = np.zeros((24, 24), np.uint8)
    label[0:12, 0:12] = 1
    label[4:8, 4:8] = 0
    write_volume(tmp_path / "p.png", label, spacing=(1.0, 1.0))
    (plane,) = draw_overlay(tmp_path / "p.png", tmp_path / "p.png", {"box": 1}).planes
    assert plane.errors == ""
    _, _, path = plane.outlines[0]
    assert path.count("M") == path.count("Z") == 2
    # Two octagons, because only corners are kept.
    assert path.count(",") == 16


def test_uncertainty_is_a_fraction_of_the_greatest(tmp_path: Path) -> None:
    label = np.zeros((20, 20), np.uint8)
    label[4:16, 4:16] = 1
    entropy = np.zeros((20, 20), np.uint16)
    entropy[8:12, 8:12] = 65535
    write_volume(tmp_path / "p.png", label, spacing=(1.0, 1.0))
    write_volume(tmp_path / "e.png", entropy, spacing=(1.0, 1.0))
    (plane,) = draw_overlay(
        tmp_path / "p.png", tmp_path / "p.png", {"a": 1}, entropy=tmp_path / "e.png"
    ).planes
    colours = pixels(plane.uncertainty)[..., :3].reshape(-1, 3)
    # The two ends of the colour map magma.
    assert {tuple(c) for c in colours.tolist()} == {(0, 0, 4), (252, 253, 191)}


def test_large_pictures_shrink_and_missing_ones_are_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = np.zeros((900, 1200), np.uint8)
    label[100:800, 100:1100] = 1
    write_volume(tmp_path / "p.png", label, spacing=(0.1, 0.1))
    image = rng.integers(0, 255, label.shape).astype(np.uint8)
    write_volume(tmp_path / "i.png", image, spacing=(0.1, 0.1))
    paths = (tmp_path / "p.png", tmp_path / "p.png", {"a": 1})
    overlay = draw_overlay(*paths, images=[tmp_path / "i.png"])
    assert overlay.planes[0].picture.startswith("data:image/jpeg")
    assert max(pixels(overlay.planes[0].picture).shape) == 384
    write_volume(tmp_path / "i.png", image[:-1], spacing=(0.1, 0.1))
    overlay = draw_overlay(*paths, images=[tmp_path / "i.png"], entropy=tmp_path / "none.png")
    assert overlay.planes[0].picture == ""
    assert "i.png has shape (899, 1200), not (900, 1200)" in overlay.note
    assert "uncertainty not shown" in overlay.note


@pytest.mark.parametrize(
    ("dpi", "pixel_size", "unit", "bar"),
    [
        (None, "auto", "pixels", 5.0),
        (72, "auto", "pixels", 5.0),
        (72, "file", "mm", 2.0),  # of a field of view of 16 pixels, 0.35 mm each
        (300, "auto", "mm", 0.5),
        (300, "ignore", "pixels", 5.0),
    ],
)
def test_scale_bar_has_the_unit_that_the_files_give(
    tmp_path: Path, dpi: float | None, pixel_size: PixelSize, unit: str, bar: float
) -> None:
    label = np.zeros((20, 20), np.uint8)
    label[6:12, 6:12] = 1
    paths = [tmp_path / "p.png", tmp_path / "r.png"]
    for path, dots in zip(paths, (None, dpi), strict=True):  # either file may give the size
        write_png(path, label, dots)
    overlay = draw_overlay(*paths, {"a": 1}, pixel_size=pixel_size)
    assert (overlay.unit, overlay.bar[0]) == (unit, bar)


def test_nothing_labelled_shows_the_whole(tmp_path: Path) -> None:
    empty = np.zeros(SHAPE, np.uint8)
    write_volume(tmp_path / "p.nii.gz", empty, spacing=(1.0, 1.0, 1.0))
    overlay = draw_overlay(tmp_path / "p.nii.gz", tmp_path / "p.nii.gz", {"box": 1})
    assert len(overlay.planes) == 3
    assert all(plane.outlines == [] for plane in overlay.planes)
    width = max(plane.box[2] for plane in overlay.planes)
    assert width == pytest.approx(SIDE * 14 / 17.5, abs=0.01)
