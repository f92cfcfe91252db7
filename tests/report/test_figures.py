"""The picture of a prediction at every sampling step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from recycleseg.report.figures import PALETTE, StepsRow, colour_of, save_steps_figure


def row(case_id: str, shape: tuple[int, ...], steps: int) -> StepsRow:
    truth = torch.zeros(shape, dtype=torch.uint8)
    middle = tuple(slice(n // 4, n // 2) for n in shape)
    truth[middle] = 1
    spacing = (1.0,) * len(shape)
    return StepsRow(case_id, torch.zeros(shape), truth, [truth] * steps, [1.0] * steps, spacing)


def letters(ax: Axes) -> dict[str, tuple[float, float]]:
    return {text.get_text(): text.get_position() for text in ax.texts}


@pytest.mark.parametrize("shape", [(20, 16), (20, 16, 8)])
def test_picture_has_a_column_per_step(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "steps.png"
    save_steps_figure(path, [row("a", shape, 5), row("b", shape, 5)], ["lobe"])
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    colour = np.array([int(PALETTE[0][i : i + 2], 16) for i in (1, 3, 5)]) // 2
    tinted = (np.abs(pixels - colour) <= 1).all(-1)
    # Truth and five steps are blocks of tinted pixels; the column of the image has none.
    columns = tinted.any(0).astype(int)
    assert (np.diff(columns) == 1).sum() == 6


@pytest.mark.parametrize(
    ("spacing", "voxel", "place", "edges"),
    [
        # voxel near the right, anterior, superior corner; letters at left, right, top, bottom
        ((1.0, 1.0, 1.0), (9, 7, 5), (0, 0), "RLAP"),
        ((1.0, 1.0, 5.0), (1, 7, 5), (0, 8), "RLAP"),
        ((1.0, 5.0, 1.0), (9, 7, 5), (0, 0), "RLSI"),
        ((5.0, 1.0, 1.0), (9, 1, 5), (0, 6), "APSI"),
        ((1.5, 1.0, 1.0), (9, 1, 5), (6, 0), "RLAP"),
    ],
    ids=["axial", "thick axial", "coronal", "sagittal", "nearly isotropic"],
)
def test_slices_stand_as_radiologists_look(
    tmp_path: Path,
    drawn: list[Figure],
    spacing: tuple[float, ...],
    voxel: tuple[int, ...],
    place: tuple[int, int],
    edges: str,
) -> None:
    truth = torch.zeros(10, 8, 6, dtype=torch.uint8)
    truth[voxel] = 1
    case = StepsRow("a", torch.zeros(10, 8, 6), truth, [truth], [1.0], spacing)
    save_steps_figure(tmp_path / "steps.png", [case], ["lobe"])
    _, of_truth, of_step = drawn[0].axes
    for ax in (of_truth, of_step):
        colours = np.asarray(ax.images[0].get_array())
        assert np.argwhere(colours.any(-1)).tolist() == [list(place)]
        left, right, top, bottom = (letters(ax)[letter] for letter in edges)
        assert left[0] < 0.1 and right[0] > 0.9 and top[1] > 0.9 and bottom[1] < 0.1


def test_a_2d_image_stays_as_it_is_without_letters(tmp_path: Path, drawn: list[Figure]) -> None:
    truth = torch.zeros(10, 8, dtype=torch.uint8)
    truth[1, 6] = 1
    case = StepsRow("a", torch.zeros(10, 8), truth, [truth], [1.0], (2.0, 1.0))
    save_steps_figure(tmp_path / "steps.png", [case], ["lobe"])
    ax = drawn[0].axes[1]
    assert np.argwhere(np.asarray(ax.images[0].get_array()).any(-1)).tolist() == [[1, 6]]
    assert set(letters(ax)) == {""}
    assert ax.get_aspect() == 2.0


def test_words_tell_classes_and_numbers(tmp_path: Path, drawn: list[Figure]) -> None:
    names = ["_left$", "right$", "third"]
    case = row("patient_$1_with_a_name_that_is_far_too_long$", (20, 16), 2)
    save_steps_figure(tmp_path / "steps.png", [case], names)
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == names
    assert [patch.get_facecolor()[:3] for patch in legend.get_patches()] == [
        pytest.approx([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        for colour in PALETTE[:3]
    ]
    titles = [ax.get_title() for ax in drawn[0].axes]
    assert titles[0].startswith("patient_$1_with") and len(titles[0]) < 30
    assert titles[1:] == ["truth", "step 1: Dice 1.000", "step 2: Dice 1.000"]


def test_cases_of_several_shapes_share_a_picture(tmp_path: Path) -> None:
    cases = [row("flat", (40, 10, 4), 3), row("tall", (10, 40, 4), 2), row("thin", (2, 200, 4), 3)]
    save_steps_figure(tmp_path / "steps.png", cases, [str(n) for n in range(20)])
    with Image.open(tmp_path / "steps.png") as picture:
        assert picture.width == 1000


def test_constant_image_and_nothing_labelled(tmp_path: Path, drawn: list[Figure]) -> None:
    nothing = torch.zeros(6, 6, dtype=torch.uint8)
    empty = StepsRow("empty", torch.ones(6, 6), nothing, [nothing], [float("nan")], (1.0, 1.0))
    save_steps_figure(tmp_path / "steps.png", [empty], ["lobe"])
    assert drawn[0].axes[2].get_title() == "step 1: no Dice"


def test_twenty_classes_have_twenty_colours() -> None:
    assert len({colour_of(number) for number in range(1, 21)}) == 20
    assert colour_of(1) == PALETTE[0]
