"""Data sets and plans of images with a pixel size, without one, and with that of a screen."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.pixel_sizes import set_dpi

from recycleseg.classes import Classes
from recycleseg.data.cache import PreparedDataset, prepare_dataset
from recycleseg.data.check import inspect_dataset
from recycleseg.data.intensity import ChannelIntensity
from recycleseg.data.layout import read_dataset
from recycleseg.data.preprocess import Plan, PreprocessConfig, preprocess_image
from recycleseg.data.volumes import PixelSize, Volume
from recycleseg.files import FileError

Make = Callable[..., Path]
INCH = 25.4


@pytest.fixture
def make(make_dataset: Make) -> Make:
    """A function that writes 2D images, each channel with its dots per inch."""

    def write(dpi: Sequence[float | None], **options: Any) -> Path:
        names = [f"c{case}" for case in range(len(dpi))]
        split = {"train": names[:2], "test": names[2:]}
        root = make_dataset(num_cases=len(dpi), shape=(12, 9), split=split, **options)
        for case, dots in enumerate(dpi):
            for path in sorted(root.glob(f"*Tr/c{case}*.png")):
                set_dpi(path, dots)
        return root

    return write


def prepared(root: Path, **config: Any) -> PreparedDataset:
    return prepare_dataset(read_dataset(root), PreprocessConfig(**config), root / "cache")


@pytest.mark.parametrize(("dpi", "num_screen"), [((None,) * 4, 0), ((None, 72, 96, 72), 3)])
def test_without_sizes_the_unit_is_pixels(
    make: Make, dpi: tuple[float | None, ...], num_screen: int
) -> None:
    data = prepared(make(dpi))
    assert (data.plan.unit, data.plan.spacing, data.plan.upright) == ("pixels", None, False)
    assert (data.spacing, data.num_screen_sizes) == ((1.0, 1.0), num_screen)
    assert set(data.shapes.values()) == {(12, 9)}


def test_real_sizes_are_mm(make: Make) -> None:
    data = prepared(make((300, 300, 150, 300)))
    assert data.plan.unit == "mm"
    assert data.plan.spacing == pytest.approx((INCH / 300,) * 2, rel=1e-4)  # whole pixels per metre
    assert data.shapes["c2"] == (24, 18)


def test_a_screen_is_believed_if_asked(make: Make) -> None:
    data = prepared(make((72, 72, 36, 72)), pixel_size="file")
    assert (data.plan.unit, data.plan.pixel_size) == ("mm", "file")
    assert data.plan.spacing == pytest.approx((INCH / 72,) * 2, rel=1e-3)
    assert data.shapes["c2"] == (24, 18)


def test_shape_works_without_sizes(make: Make) -> None:
    data = prepared(make((None,) * 3), shape=(6, 9))
    assert data.plan.unit == "pixels"
    assert (data.spacing, set(data.shapes.values())) == ((2.0, 1.0), {(6, 9)})


@pytest.mark.parametrize(
    ("dpi", "words"),
    [
        (
            (None, 300, None, 300),
            "got 2 with it, such as c1_0000.png, and 2 without, such as c0_0000.png; write",
        ),
        (
            (300, None, 72, 300),
            r"got 2 with it, such as c0_0000.png, and 2 without, such as c1_0000.png \(1 give 72 "
            "or 96 dots per inch, the resolution of a screen\\); write",
        ),
        ((300, 300, 96, 300), "or believe these with --preprocess.pixel-size file, or count"),
    ],
)
def test_sizes_of_two_kinds_are_refused(
    make: Make, dpi: tuple[float | None, ...], words: str
) -> None:
    root = make(dpi)
    with pytest.raises(FileError, match=f"(?s)1 problem\n.*{words}") as error:
        prepared(root)
    assert "pixel-size ignore" in str(error.value)
    assert prepared(root, pixel_size="ignore").plan.unit == "pixels"


def test_believing_a_screen_helps_only_where_all_others_have_a_size(make: Make) -> None:
    root = make((300, None, 72, 300))
    with pytest.raises(FileError) as error:
        prepared(root)
    assert "pixel-size file" not in str(error.value)


def test_channels_of_a_case_are_of_one_kind(make: Make) -> None:
    root = make((300, 300), channels=("a", "b"))
    set_dpi(root / "imagesTr/c1_0001.png", None)
    problem = "c1_0001.png: expected the size of its pixels, as c1_0000.png gives it, got none"
    with pytest.raises(FileError, match=problem):
        inspect_dataset(read_dataset(root))
    inspect_dataset(read_dataset(root), pixel_size="ignore")


def test_labels_need_no_size(make: Make) -> None:
    root = make((300, 300))
    for path in (root / "labelsTr").iterdir():
        set_dpi(path, None)
    assert prepared(root).plan.unit == "mm"


def test_mm_are_refused_without_sizes(make: Make) -> None:
    root = make((None, 72))
    message = r"preprocess.spacing: expected median or native, .* unknown, got \(0.5, 0.5\) mm"
    with pytest.raises(ValueError, match=message):
        prepared(root, spacing=(0.5, 0.5))
    assert prepared(root, spacing="native").plan.unit == "pixels"


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="pixel_size: expected auto, file, ignore, got 'no'"):
        PreprocessConfig(pixel_size="no")  # type: ignore[arg-type]


def plan_of(spacing: tuple[float, float] | None, pixel_size: PixelSize = "auto") -> Plan:
    return Plan(
        channel_names=("US",),
        classes=Classes(("background", "a")),
        spatial_dims=2,
        spacing=spacing,
        shape=None,
        intensities=(ChannelIntensity("none"),),
        pixel_size=pixel_size,
    )


def image(spacing: tuple[float, float] | None, screen: tuple[float, float] | None = None) -> Volume:
    array = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    return Volume(array, spacing, None, Path("x.png"), screen_spacing=screen)


@pytest.mark.parametrize("spacing", [None, (0.5, 0.25)])
@pytest.mark.parametrize("screen", [None, (0.35, 0.35)])
def test_a_model_of_pixels_takes_every_image_by_its_pixels(spacing: Any, screen: Any) -> None:
    case = preprocess_image([image(spacing, screen)], plan_of(None, "ignore"))
    assert case.spacing == (1.0, 1.0)
    assert torch.equal(case.image[0], torch.from_numpy(image(None).array))


def test_a_model_of_mm_refuses_an_image_without_size() -> None:
    plan = plan_of((0.5, 0.5))
    start = "x.png: expected the size of its pixels, because the model was trained in mm, got "
    with pytest.raises(FileError, match=f"^{start}none; write the real size"):
        preprocess_image([image(None)], plan)
    with pytest.raises(FileError, match=f"^{start}72 or 96 dots per inch, the resolution of a"):
        preprocess_image([image(None, (0.25, 0.25))], plan)
    believing = plan_of((0.5, 0.5), "file")
    assert preprocess_image([image(None, (0.25, 0.25))], believing).image.shape == (1, 6, 4)


def test_a_model_that_does_not_resample_needs_no_size() -> None:
    case = preprocess_image([image(None)], plan_of(None))
    assert (case.spacing, case.image.shape) == (None, (1, 12, 8))


def test_plans_keep_which_sizes_count() -> None:
    for plan in (plan_of(None, "ignore"), plan_of((0.5, 0.5), "file"), plan_of(None)):
        assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize(
    ("spacing", "unit", "kept"),
    [((1.0, 1.0), "pixels", None), ((0.5, 0.5), "mm", (0.5, 0.5)), (None, "mm", None)],
)
def test_plans_of_older_runs(spacing: Any, unit: str, kept: Any) -> None:
    """They took 1 mm for unknown sizes and believed the resolution of a screen."""
    values = plan_of(spacing).to_dict()
    del values["pixel_size"]
    plan = Plan.from_dict(json.loads(json.dumps(values)))
    assert (plan.unit, plan.spacing) == (unit, kept)
    assert plan.pixel_size == ("ignore" if unit == "pixels" else "file")


def test_scans_keep_their_orientation_if_their_sizes_are_ignored(make_dataset: Make) -> None:
    affine = np.diag([-2.0, 3.0, 1.0, 1.0])
    root = make_dataset(affine=affine, split={"train": ["c0"]})
    data = prepared(root, pixel_size="ignore")
    assert (data.plan.unit, data.spacing) == ("pixels", (1.0, 1.0, 1.0))
    assert data.case("c0").orientation.flipped == (0,)
