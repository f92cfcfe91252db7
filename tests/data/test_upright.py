"""Scans with axes turned against the world axes: sampled on world grids, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from recycleseg.classes import Classes
from recycleseg.data.cache import prepare_dataset
from recycleseg.data.intensity import ChannelIntensity
from recycleseg.data.layout import read_dataset
from recycleseg.data.preprocess import (
    Plan,
    PreprocessConfig,
    preprocess_image,
    preprocess_label,
    restore,
)
from recycleseg.data.upright import UprightGrid, is_upright
from recycleseg.data.volumes import Volume, write_volume

MakeDataset = Callable[..., Path]
PLAN = Plan(
    channel_names=("MRI",),
    classes=Classes(("background", "organ")),
    spatial_dims=3,
    spacing=(1.0, 1.0, 1.0),
    shape=None,
    intensities=(ChannelIntensity("none"),),
    upright=True,
)
# The upright original: centre of its first voxel in mm, and its shape (1 mm voxels).
CORNER, SHAPE = np.array([3.0, -7.0, 11.0]), (30, 36, 28)


def turned_affine(
    degrees: Sequence[float], spacing: Sequence[float], shape: Sequence[int]
) -> np.ndarray:
    """Affine of a grid around the centre of the original, with axes turned by these angles."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * spacing
    centre = CORNER + (np.array(SHAPE) - 1) / 2
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def scene(affine: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Image and label of a grid: smooth intensities, zero outside the original, and a blob."""
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    at = voxels @ affine[:3, :3].T + affine[:3, 3] - CORNER
    waves = 10 + np.sin(at[..., 0] / 4) + np.cos(at[..., 1] / 5) * np.sin(at[..., 2] / 3)
    seen = ((at > -1e-6) & (at < np.array(SHAPE) - 1 + 1e-6)).all(-1)
    blob = (((at - np.array([14, 19, 12])) / np.array([8, 11, 7])) ** 2).sum(-1) < 1
    return np.where(seen, waves, 0).astype(np.float32), blob.astype(np.uint8)


def volume_of(array: np.ndarray, affine: np.ndarray) -> Volume:
    spacing = tuple(nib.affines.voxel_sizes(affine).tolist())
    return Volume(array, spacing, affine, Path("scan.nii.gz"))


def turned(
    degrees: Sequence[float] = (12, -20, 25),
    spacing: Sequence[float] = (0.9, 1.0, 1.1),
    shape: Sequence[int] = (62, 60, 54),
) -> tuple[Volume, Volume]:
    """Image and label of the scene on a turned grid that covers all of it."""
    affine = turned_affine(degrees, spacing, shape)
    image, label = scene(affine, shape)
    return volume_of(image, affine), volume_of(label, affine)


def dice(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(2 * (a * b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize(
    ("degrees", "upright"),
    [((0, 0, 0), True), ((0.7, 0, -0.7), True), ((0, 1.2, 0), False), ((90, 180, -90), True)],
)
def test_a_degree_is_upright(degrees: Sequence[float], upright: bool) -> None:
    assert is_upright(turned_affine(degrees, (0.5, 1.0, 3.0), SHAPE)) is upright


@pytest.mark.parametrize("degrees", [(10, 0, 0), (12, -20, 25), (0, 40, 0), (100, 5, 185)])
def test_a_turned_scan_is_prepared_as_its_original(degrees: Sequence[float]) -> None:
    original, label = scene(turned_affine((0, 0, 0), (1, 1, 1), SHAPE), SHAPE)
    image, turned_label = turned(degrees)
    case = preprocess_image([image], PLAN)
    assert case.image.shape[1:] == SHAPE
    assert case.spacing == (1.0, 1.0, 1.0)
    # With samples 1 mm apart, splines miss waves of 19 mm by about a thousandth. The step from 10
    # to 0 at the border also causes an error; it falls to a quarter with every voxel inwards, and
    # a voxel is less than 1 mm along an axis.
    inner = (slice(8, -8),) * 3
    difference = case.image[0][inner] - torch.from_numpy(original[inner])
    assert difference.abs().max() < 0.01
    found = preprocess_label(turned_label, case, PLAN)
    assert found.dtype == torch.uint8
    # 1000 of about 2600 voxels are at the surface of the blob, where rounding decides.
    assert dice(found, torch.from_numpy(label)) > 0.97


def test_the_way_back_ends_on_the_files_grid() -> None:
    image, label = turned()
    case = preprocess_image([image], PLAN)
    organ = preprocess_label(label, case, PLAN).float()
    probs = restore(torch.stack([1 - organ, organ]), case)
    assert probs.shape == (2, *image.array.shape)
    torch.testing.assert_close(probs.sum(0), torch.ones(image.array.shape))
    assert dice(probs.argmax(0), torch.from_numpy(label.array)) > 0.96
    background = probs[0][torch.from_numpy(image.array == 0)]
    assert background.min() == 1
    uncertainty = restore(torch.ones(1, *case.image.shape[1:]), case)
    assert uncertainty[0, 0, 0, 0] == 0  # outside the grid


def test_restored_rows_are_those_of_the_whole() -> None:
    image, _ = turned()
    case = preprocess_image([image], PLAN)
    torch.manual_seed(0)
    probs = torch.rand(2, *case.image.shape[1:]).softmax(0)
    parts = [restore(probs, case, slice(start, start + 25)) for start in range(0, 62, 25)]
    # Coordinates are float64 sums in another order.
    torch.testing.assert_close(torch.cat(parts, dim=1), restore(probs, case), rtol=0, atol=1e-6)


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0)], ids=["native", "resampled"])
def test_thick_slices_reach_halfway_to_the_next(spacing: tuple[float, ...] | None) -> None:
    """This also holds for the first and the last slice, and for a single slice."""
    for slices in (6, 1):
        shape = (32, 32, slices)
        affine = turned_affine((20, 0, 0), (1, 1, 6), shape)
        image = volume_of(np.ones(shape, np.float32), affine)
        organ = np.zeros(shape, np.uint8)
        organ[10:22, 10:22] = 1
        case = preprocess_image([image], replace(PLAN, spacing=spacing))
        label = preprocess_label(volume_of(organ, affine), case, PLAN).float()
        found = restore(torch.stack([1 - label, label]), case)[1] > 0.5
        # 12 x 12 voxels; the turn may add or remove a row at both edges that it moves.
        per_slice = found.sum((0, 1)).tolist()
        assert all(10 * 12 <= voxels <= 14 * 12 for voxels in per_slice), per_slice


@pytest.mark.parametrize("degrees", [5.3, -12.0, 33.0])
def test_no_border_is_lost_to_rounding(degrees: float) -> None:
    """The turn is about one axis; along it, centres are on the grid except for rounding."""
    shape = (12, 20, 20)
    affine = turned_affine((degrees, 0, 0), (0.7, 0.7, 0.7), shape)
    affine[0, 3] = -77.7
    affine = affine.astype(np.float32).astype(np.float64)
    plan = replace(PLAN, spacing=(0.7, 0.7, 0.7))
    case = preprocess_image([volume_of(np.full(shape, 5, np.float32), affine)], plan)
    assert case.image.shape[1] == 12
    middle = case.image[0, :, case.image.shape[2] // 2, case.image.shape[3] // 2]
    torch.testing.assert_close(middle, torch.full((12,), 5.0), rtol=0, atol=1e-4)
    back = restore(torch.ones(1, *case.image.shape[1:]), case)
    # A voxel may be up to a hundredth beyond the grid, and fades a little.
    assert back[0, :, 10, 10].min() > 0.98


def test_voxels_of_equal_size_are_not_blurred() -> None:
    shape, length = (40, 40, 40), 4.0
    affine = turned_affine((12, 12, 12), (1, 1, 1), shape)

    def waves(at: np.ndarray) -> np.ndarray:
        return np.sin(2 * np.pi * at[..., 0] / length).astype(np.float32)

    def places(voxels_of: np.ndarray, extents: Sequence[int]) -> np.ndarray:
        voxels = np.stack(np.meshgrid(*map(np.arange, extents), indexing="ij"), axis=-1)
        return voxels @ voxels_of[:3, :3].T + voxels_of[:3, 3]

    case = preprocess_image([volume_of(10 + waves(places(affine, shape)), affine)], PLAN)
    assert case.upright is not None
    to_world = affine @ np.vstack([case.upright.to_file, [0, 0, 0, 1]])
    expected = 10 + waves(places(to_world, case.upright.shape))
    inner = tuple(slice(n // 2 - 8, n // 2 + 8) for n in expected.shape)
    error = case.image[0][inner].numpy() - expected[inner]
    # A cubic spline changes waves of four samples by 2 %; shrinking first would change them by 9 %.
    assert np.sqrt((error**2).mean()) < 0.02


def test_each_channel_is_turned_alike() -> None:
    image, _ = turned()
    twice = replace(image, array=2 * image.array)
    plan = replace(PLAN, channel_names=("T1", "T2"), intensities=PLAN.intensities * 2)
    case = preprocess_image([image, twice], plan)
    torch.testing.assert_close(case.image[1], 2 * case.image[0])


def test_overlapping_regions_are_absent_beyond_the_grid() -> None:
    plan = replace(PLAN, classes=Classes(("whole", "core"), ((1, 2), (2,))))
    case = preprocess_image([turned()[0]], plan)
    probs = restore(torch.ones(2, *case.image.shape[1:]), case)
    assert probs[:, 0, 0, 0].tolist() == [0, 0]
    torch.testing.assert_close(probs[:, 31, 30, 27], torch.ones(2))
    assert probs.max() <= 1 + 1e-6


def test_fine_voxels_are_averaged() -> None:
    """Interpolation alone would turn stripes of one voxel into stripes again."""
    shape, affine = (60, 60, 60), turned_affine((0, 0, 5), (0.5, 0.5, 0.5), (60, 60, 60))
    stripes = np.broadcast_to(1.0 + np.arange(60)[:, None, None] % 2, shape).astype(np.float32)
    case = preprocess_image([volume_of(stripes, affine)], PLAN)
    inner = case.image[0, 6:-6, 6:-6, 6:-6]
    # The linear kernel is two voxels wide and takes half of each stripe.
    plain = preprocess_image([volume_of(stripes, affine)], replace(PLAN, kernel="linear"))
    assert (plain.image[0, 6:-6, 6:-6, 6:-6] - 1.5).abs().max() < 1e-3
    assert (inner - 1.5).abs().max() < 0.1


def test_an_empty_scan_keeps_its_field_of_view() -> None:
    affine = turned_affine((0, 0, 30), (1, 1, 1), (10, 10, 10))
    case = preprocess_image([volume_of(np.zeros((10, 10, 10), np.float32), affine)], PLAN)
    # 9 mm along each of two axes, turned by 30 degrees, and the voxels around the ends.
    assert case.image.shape == (1, 14, 14, 10)
    assert not case.image.any()


@pytest.mark.parametrize("case_is_turned", [True, False])
def test_plan_is_upright_where_the_training_cases_are(
    make_dataset: MakeDataset, tmp_path: Path, case_is_turned: bool
) -> None:
    split = {"train": ["c0", "c1"], "val": ["c2"], "test": ["c3", "c4"]}
    root = make_dataset(split=split)
    affine = turned_affine((0, 0, 20), (1, 1, 1), (6, 7, 5))
    turned_case = "c0" if case_is_turned else "c2"
    for path in (f"imagesTr/{turned_case}_0000.nii.gz", f"labelsTr/{turned_case}.nii.gz"):
        array = np.asarray(nib.load(root / path).dataobj).astype(np.uint8)
        write_volume(root / path, array, spacing=None, affine=affine)
    config = PreprocessConfig(spacing=(1.0, 1.0, 1.0))
    prepared = prepare_dataset(read_dataset(root), config, tmp_path / "cache")
    assert prepared.plan.upright is not case_is_turned
    case = prepared.case(turned_case)
    assert (case.upright is None) is case_is_turned
    if case.upright is not None:
        assert case.upright == UprightGrid.from_dict(json.loads(json.dumps(asdict(case.upright))))
        assert case.image.shape[1:] == case.label.shape == case.upright.shape
        assert restore(torch.ones(1, *case.upright.shape), case).shape == (1, 6, 7, 5)
    assert not prepare_dataset(
        read_dataset(root), PreprocessConfig(shape=(6, 6, 6)), tmp_path / "cache"
    ).plan.upright
