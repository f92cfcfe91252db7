"""The contact sheet shows the right slice, turned as radiologists view it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recycleseg.data.volumes import Volume
from recycleseg.report.contact_sheet import Panel, panel_of, save_contact_sheet
from recycleseg.report.figures import PALETTE

RAS = np.diag([1.0, 1.0, 1.0, 1.0])
# Axes of the file: towards superior, left and posterior.
SLP = np.array([[0, -1.0, 0, 0], [0, 0, -1.0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])


def panel(affine: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Panel:
    """Of a volume whose foreground is largest at the superior end, with a bright voxel.

    Canonical axes are 6 x 7 x 5 voxels. The bright voxel is at the right and anterior end.
    """
    image, label = np.zeros((6, 7, 5)), np.zeros((6, 7, 5), np.uint8)
    image[5, 6, 4] = 100.0
    label[1:3, 1:4, 1] = 1
    label[1:4, 1:5, 4] = 2
    if affine is SLP:
        image, label = (array.transpose(2, 0, 1)[:, ::-1, ::-1] for array in (image, label))
    return panel_of(
        "c1",
        Volume(image, spacing, affine, Path("image")),
        Volume(label, spacing, affine, Path("label")),
        {"first": 1, "second": 2},
    )


@pytest.mark.parametrize("affine", [RAS, SLP], ids=["RAS", "SLP"])
def test_right_is_at_the_left_and_anterior_at_the_top(affine: np.ndarray) -> None:
    drawn = panel(affine)
    assert drawn.title == "c1, axial"
    assert drawn.edges == ("R", "A")
    assert drawn.image.shape == (7, 6)
    assert drawn.image[0, 0] == 100.0
    rows, columns = np.nonzero(drawn.label == 2)
    # 4 rows in the middle of 7, 3 columns beginning two from the left of 6.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 5, 2, 4)
    assert not (drawn.label == 1).any()


def test_thick_slices_are_shown_as_they_were_taken() -> None:
    drawn = panel(RAS, (1.0, 4.0, 0.5))
    assert drawn.title == "c1, coronal"
    assert drawn.edges == ("R", "S")
    assert drawn.image.shape == (5, 6)
    assert drawn.aspect == 0.5
    assert panel(RAS, (1.0, 1.5, 0.9)).title == "c1, axial"


def test_a_case_without_foreground_shows_its_middle() -> None:
    image = np.arange(6.0).reshape(1, 2, 3) * np.ones((4, 1, 1))
    empty = np.zeros(image.shape, np.uint8)
    volumes = (Volume(array, (1.0,) * 3, RAS, Path("x")) for array in (image, empty))
    drawn = panel_of("c2", *volumes, {"a": 1})
    assert drawn.title == "c2, no foreground"
    assert (drawn.image == image[0, 0, 1]).sum() == 4  # the column y = 0, z = 1


def test_2d_stays_as_it_is() -> None:
    image = np.arange(20, dtype=np.uint8).reshape(4, 5)
    volumes = (Volume(array, (0.5, 0.25), None, Path("x")) for array in (image, image > 5))
    drawn = panel_of("c3", *volumes, {"a": 1, "b": (1, 2)})
    np.testing.assert_array_equal(drawn.image, image)
    assert (drawn.title, drawn.edges, drawn.aspect) == ("c3", ("", ""), 2.0)


def has_colour(picture: np.ndarray, colour: str) -> bool:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(picture.astype(int) - wanted).max(axis=-1) < 8).any())


def test_the_picture_has_outlines_and_a_legend(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    panels = [panel(RAS)] * 5
    save_contact_sheet(path, panels, {"first": 1, "second": 2, "both": (1, 2)})
    assert [file.name for file in tmp_path.iterdir()] == ["sheet.png"]
    picture = np.asarray(Image.open(path).convert("RGB"))
    height, width, _ = picture.shape
    in_panels, in_legend = picture[: int(0.8 * height)], picture[int(0.9 * height) :]
    # Class 1 is not in these slices; the outline of the last region covers that of class 2.
    assert has_colour(in_panels, PALETTE[2]) and not has_colour(in_panels, PALETTE[0])
    assert all(has_colour(in_legend, PALETTE[index]) for index in range(3))


def test_a_constant_slice_can_be_drawn(tmp_path: Path) -> None:
    flat = Panel("c", np.full((8, 9), 7.0), np.zeros((8, 9), np.uint8), 1.0, ("", ""))
    save_contact_sheet(tmp_path / "sheet.png", [flat], {"a": 1})
    assert (tmp_path / "sheet.png").stat().st_size > 1000
