"""Intensities, target grids, and the way back to the file's own grid."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recycleseg.classes import Classes
from recycleseg.data.cache import prepare_dataset
from recycleseg.data.facts import CaseFacts
from recycleseg.data.geometry import Kernel, resample
from recycleseg.data.intensity import ChannelIntensity, normalisation_of
from recycleseg.data.layout import read_dataset
from recycleseg.data.preprocess import (
    Plan,
    PreparedCase,
    PreprocessConfig,
    make_plan,
    native_label,
    preprocess_image,
    preprocess_label,
    restore,
)
from recycleseg.data.volumes import Volume, read_volume
from recycleseg.files import FileError

MakeDataset = Callable[..., Path]
# Voxel axes run left, superior, anterior with 0.5, 2 and 1 mm.
LSA = np.array([[-0.5, 0, 0, 9], [0, 0, 1.0, -4], [0, 2.0, 0, 3], [0, 0, 0, 1]])


def plan_with(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "channel_names": ("MRI",),
        "classes": Classes(("background", "a", "b")),
        "spatial_dims": 3,
        "spacing": None,
        "shape": None,
        "intensities": (ChannelIntensity("percentile"),),
    }
    return Plan(**(values | changes))


def facts_of(
    spacing: tuple[float, ...], affine: np.ndarray | None, foreground: np.ndarray
) -> CaseFacts:
    return CaseFacts(
        spacing=spacing,
        affine=affine,
        foreground=foreground,
        shape=(8, 8, 8),
        class_voxels=np.zeros(2, np.int64),
        foreground_box=None,
    )


def volume_of(array: np.ndarray, affine: np.ndarray | None = LSA) -> Volume:
    spacing = (0.5, 2.0, 1.0) if affine is not None else (1.0,) * array.ndim
    return Volume(array, spacing, affine, Path("scan.nii.gz"))


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
def test_images_are_resampled_by_the_plans_kernel(kernel: Kernel) -> None:
    plan = plan_with(spacing=(1.0, 1.0, 1.0), kernel=kernel)
    plan = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    volume = volume_of(random_image())
    case = preprocess_image([volume], plan)
    values = plan.intensities[0].apply(torch.from_numpy(volume.array))
    oriented = case.orientation.apply(values[None])
    expected = resample(oriented, case.image.shape[1:], kernel=kernel)
    assert case.image.shape != oriented.shape
    assert torch.equal(case.image, expected)


def test_plans_without_a_kernel_are_of_runs_with_linear_images() -> None:
    values = plan_with().to_dict()
    assert Plan.from_dict(values).kernel == "cubic"
    del values["kernel"]
    assert Plan.from_dict(values).kernel == "linear"


def random_image(shape: tuple[int, ...] = (8, 5, 6), scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(0).gamma(2.0, scale, shape)).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
@pytest.mark.parametrize("method", ["zscore", "percentile"])
def test_every_image_gets_mean_0_and_variance_1(method: Any, scale: float) -> None:
    image = ChannelIntensity(method).apply(torch.from_numpy(random_image((20, 20, 20), scale)))
    assert image.dtype == torch.float32
    # Computed in float64, rounded to float32 per voxel.
    assert abs(image.double().mean()) < 1e-6
    assert abs(image.double().std(correction=0) - 1) < 1e-6


def test_percentiles_bound_outliers() -> None:
    values = torch.from_numpy(random_image((20, 20, 20)))
    values[0, 0, 0], values[0, 0, 1] = 1e9, -1e9
    image = ChannelIntensity("percentile").apply(values)
    low, high = np.percentile(values.numpy(), (0.5, 99.5))
    inside = values.clamp(float(low), float(high)).double()
    expected = (inside - inside.mean()) / inside.std(correction=0)
    torch.testing.assert_close(image, expected.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 7.25, 1e6])
@pytest.mark.parametrize("method", ["zscore", "percentile"])
def test_constant_image_becomes_zeros(method: Any, value: float) -> None:
    for nonzero in (False, True):
        image = ChannelIntensity(method, nonzero=nonzero).apply(torch.full((3, 4), value))
        assert torch.equal(image, torch.zeros(3, 4))


@pytest.mark.parametrize("method", ["zscore", "percentile"])
def test_zeros_around_a_scan_change_nothing(method: Any) -> None:
    scan = torch.from_numpy(random_image((6, 6, 6))) + 10
    padded = F.pad(scan, (4, 4))
    intensity = ChannelIntensity(method, nonzero=True)
    torch.testing.assert_close(intensity.apply(padded)[..., 4:-4], intensity.apply(scan))
    older = ChannelIntensity(method)  # as in plans of older runs
    assert older.apply(padded)[..., 4:-4].mean() > 0.5


@pytest.mark.parametrize("method", ["zscore", "percentile"])
def test_zeros_count_where_they_alone_tell_something(method: Any) -> None:
    mask = torch.zeros(10, 10)
    mask[3:8] = 5
    image = ChannelIntensity(method, nonzero=True).apply(mask)
    torch.testing.assert_close(image.unique(), torch.tensor([-1.0, 1.0]))


def test_plans_without_upright_leave_turned_scans_as_they_are() -> None:
    values = plan_with(upright=True).to_dict()
    assert Plan.from_dict(values).upright
    del values["upright"]
    for channel in values["intensities"]:
        del channel["nonzero"]
    assert Plan.from_dict(values) == plan_with()


def test_intensity_follows_the_channel_name(make_dataset: MakeDataset) -> None:
    root = make_dataset(channels=("CT", "T1", "noNorm"), split={"train": ["c0", "c1"]})
    rng = np.random.default_rng(0)
    foreground = rng.normal(40.0, 100.0, (3, 5000)).astype(np.float32)
    facts = {f"c{case}": facts_of((1.0,) * 3, None, foreground[:, case::2]) for case in range(2)}
    ct, t1, raw = make_plan(read_dataset(root), PreprocessConfig(), facts).intensities
    low, high = np.percentile(foreground[0], (0.5, 99.5))
    assert ct.method == "ct"
    # float32 samples against float64 accumulation over another order of them.
    np.testing.assert_allclose((ct.lower, ct.upper), (low, high), rtol=1e-6)
    np.testing.assert_allclose((ct.mean, ct.std), (foreground[0].mean(), foreground[0].std()), 1e-5)
    assert (t1.method, raw.method) == ("percentile", "none")
    values = torch.tensor([-1000.0, 40.0, 3000.0])
    expected = (values.clamp(ct.lower, ct.upper) - ct.mean) / ct.std
    assert torch.equal(ct.apply(values), expected)
    assert torch.equal(raw.apply(values), values)


def test_ct_needs_foreground(make_dataset: MakeDataset) -> None:
    dataset = read_dataset(make_dataset(channels=("CT",), split={"train": ["c0"]}))
    facts = {"c0": facts_of((1.0,) * 3, None, np.zeros((1, 0), np.float32))}
    with pytest.raises(FileError, match="channel CT: expected foreground"):
        make_plan(dataset, PreprocessConfig(), facts)


def test_median_spacing_is_that_of_training_cases_in_canonical_order(
    make_dataset: MakeDataset,
) -> None:
    dataset = read_dataset(make_dataset(split={"train": ["c0", "c1", "c2"], "val": ["c3"]}))
    none = np.zeros((1, 1), np.float32)
    facts = {
        "c0": facts_of((1.0, 1.0, 3.0), np.eye(4), none),
        "c1": facts_of((0.5, 2.0, 1.0), LSA, none),
        "c2": facts_of((2.0, 0.7, 4.0), np.eye(4), none),
        "c3": facts_of((9.0, 9.0, 9.0), np.eye(4), none),
    }
    assert make_plan(dataset, PreprocessConfig(), facts).spacing == (1.0, 1.0, 3.0)
    assert make_plan(dataset, PreprocessConfig(spacing="native"), facts).spacing is None
    given = make_plan(dataset, PreprocessConfig(spacing=(1, 2, 3)), facts)
    assert given.spacing == (1.0, 2.0, 3.0)
    shaped = make_plan(dataset, PreprocessConfig(shape=(8, 8, 8)), facts)
    assert (shaped.spacing, shaped.shape) == (None, (8, 8, 8))
    with pytest.raises(ValueError, match="shape: expected 3 values for 3D data, got"):
        make_plan(dataset, PreprocessConfig(shape=(8, 8)), facts)
    with pytest.raises(ValueError, match="spacing: expected 3 values for 3D data, got"):
        make_plan(dataset, PreprocessConfig(spacing=(1.0,)), facts)


def test_image_is_canonical_and_spacing_fills_the_same_field_of_view() -> None:
    array = random_image((8, 5, 6))
    case = preprocess_image([volume_of(array)], plan_with(spacing=(1.0, 1.0, 1.5)), case_id="x")
    # Right, anterior, superior: 8 * 0.5, 6 * 1.0 and 5 * 2.0 mm.
    assert case.image.shape == (1, 4, 6, 7)
    assert case.spacing == (1.0, 1.0, 10 / 7)
    assert case.native_shape == (8, 5, 6)
    unscaled = preprocess_image([volume_of(array)], plan_with(), case_id="x")
    expected = ChannelIntensity("percentile").apply(torch.from_numpy(array))
    assert torch.equal(unscaled.image[0], expected.flip(0).permute(0, 2, 1))
    assert unscaled.image.is_contiguous()


def test_fixed_shape_wins_over_spacing() -> None:
    case = preprocess_image([volume_of(random_image())], plan_with(shape=(4, 4, 4)))
    assert case.image.shape == (1, 4, 4, 4)
    assert case.spacing == (8 * 0.5 / 4, 6 * 1.0 / 4, 5 * 2.0 / 4)


def test_restore_is_exact_without_resampling() -> None:
    label = np.random.default_rng(1).integers(0, 3, (8, 5, 6)).astype(np.uint8)
    case = preprocess_image([volume_of(random_image())], plan_with())
    prepared = preprocess_label(volume_of(label), case, plan_with())
    probs = F.one_hot(prepared.long(), 3).movedim(-1, 0)
    restored = restore(probs, case)
    assert restored.dtype == torch.float32 and restored.is_contiguous()
    expected = F.one_hot(torch.from_numpy(label).long(), 3).movedim(-1, 0).float()
    assert torch.equal(restored, expected)


def test_restore_after_resampling_finds_the_shape_again() -> None:
    shape = (24, 12, 20)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"))
    ellipsoid = (np.linalg.norm(grid - 0.1, axis=0) < 0.7).astype(np.uint8)
    plan = plan_with(spacing=(0.8, 0.9, 1.1))
    case = preprocess_image([volume_of(random_image(shape))], plan)
    label = preprocess_label(volume_of(ellipsoid), case, plan)
    restored = restore(F.one_hot(label.long(), 3).movedim(-1, 0), case)
    assert restored.shape == (3, *shape)
    # Interpolated probabilities still sum to 1, up to float32 rounding.
    torch.testing.assert_close(restored.sum(dim=0), torch.ones(shape), rtol=0, atol=1e-5)
    found = restored.argmax(dim=0).numpy()
    assert 2 * (found * ellipsoid).sum() / (found.sum() + ellipsoid.sum()) > 0.96


def test_restore_names_a_wrong_shape() -> None:
    case = preprocess_image([volume_of(random_image())], plan_with())
    with pytest.raises(ValueError, match=r"probs: expected spatial shape \(8, 6, 5\)"):
        restore(torch.zeros(3, 8, 5, 6), case)


def test_overlapping_regions_become_masks() -> None:
    regions = ((1, 2), (2,))
    label = torch.tensor([[0, 1], [2, 2]], dtype=torch.uint8)
    masks = Classes(("whole", "core"), regions).masks(label)
    assert masks.dtype == torch.uint8
    assert masks.tolist() == [[[0, 1], [1, 1]], [[0, 0], [1, 1]]]
    plan = plan_with(classes=Classes(("whole", "core"), regions), spatial_dims=2)
    case = preprocess_image([volume_of(random_image((2, 2)), None)], plan)
    assert torch.equal(preprocess_label(volume_of(label.numpy(), None), case, plan), masks)


@pytest.mark.parametrize("labels", [None, {"background": 0, "whole": [1, 2], "core": [2]}])
def test_native_label_is_the_file(
    make_dataset: MakeDataset, tmp_path: Path, labels: dict[str, Any] | None
) -> None:
    root = make_dataset(affine=LSA, labels=labels)
    dataset = read_dataset(root)
    prepared = prepare_dataset(dataset, PreprocessConfig(spacing=(1.0, 1.0, 1.0)), tmp_path / "c")
    case = prepared.cases("train")[0]
    stored = torch.from_numpy(read_volume(root / f"labelsTr/{case.case_id}.nii.gz").array)
    expected = stored if labels is None else torch.stack([stored > 0, stored == 2]).to(torch.uint8)
    assert torch.equal(native_label(case), expected)


def test_native_label_needs_a_label() -> None:
    case = preprocess_image([volume_of(random_image())], plan_with(), case_id="scan")
    with pytest.raises(ValueError, match="case: expected a case with a label, got scan without"):
        native_label(case)


def nan_image() -> np.ndarray:
    image = random_image()
    image[0, 0, 0] = math.nan
    return image


@pytest.mark.parametrize(
    ("volumes", "message"),
    [
        ([], r"x: expected channels \('MRI',\), got 0 files"),
        ([volume_of(random_image())] * 2, "got 2 files"),
        ([volume_of(random_image((4, 4)), None)], r"expected 3 axes, got shape \(4, 4\)"),
        ([volume_of(random_image((4, 0, 4)))], "expected voxels, got shape"),
        ([volume_of(nan_image())], "scan.nii.gz: expected finite values, got 1 NaN and 0 Inf"),
    ],
    ids=["none", "too many", "2D", "empty", "NaN"],
)
def test_bad_image(volumes: list[Volume], message: str) -> None:
    with pytest.raises(FileError, match=message):
        preprocess_image(volumes, plan_with(), case_id="x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": "mean"}, "spacing: expected median, native or mm, got 'mean'"),
        ({"spacing": (1.0, 0.0)}, "spacing: expected positive mm"),
        ({"shape": (0, 4)}, "shape: expected positive sizes"),
        ({"intensity": "minmax"}, "intensity: expected auto, zscore, percentile, ct, none"),
    ],
)
def test_bad_config(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreprocessConfig(**options)


@pytest.mark.parametrize("regions", [None, ((1, 2), (2,))])
def test_ignored_voxels_stay_ignored(regions: Any) -> None:
    """Also where the grid changes: there the value with the largest share of a voxel wins."""
    names = ("background", "a", "b") if regions is None else ("whole", "core")
    classes = Classes(names, regions, ignore_label=3)
    label = np.repeat(np.array([[0, 3], [1, 3], [2, 3]], np.uint8), 2, axis=1)
    image = volume_of(random_image((3, 4)), None)
    for width, expected in ((4, [0, 0, 3, 3]), (2, [0, 3]), (8, [0] * 4 + [3] * 4)):
        plan = plan_with(classes=classes, spatial_dims=2, shape=(3, width))
        target = preprocess_label(volume_of(label, None), preprocess_image([image], plan), plan)
        without, known = classes.split(target)
        assert known is not None and known.tolist() == [[e != 3 for e in expected]] * 3
        rows = [[row * (e != 3) for e in expected] for row in range(3)]
        assert classes.label_map(without).tolist() == rows


@pytest.mark.parametrize("regions", [None, ((1, 2), (2,))])
def test_plan_survives_json(regions: Any) -> None:
    plan = plan_with(
        classes=Classes(("a", "b"), regions, None if regions is None else (1, 2), 3),
        spacing=(0.1, 1 / 3, 2.0),
        shape=(4, 5, 6),
        intensities=(ChannelIntensity("ct", -150.3, 250.1, 1 / 7, 31.0),),
    )
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    unbounded = plan_with()
    assert Plan.from_dict(json.loads(json.dumps(unbounded.to_dict()))) == unbounded


def assert_same_case(first: PreparedCase, second: PreparedCase) -> None:
    assert torch.equal(first.image, second.image)
    assert first.spacing == second.spacing
    assert first.native_shape == second.native_shape
    assert first.orientation == second.orientation


@pytest.mark.parametrize("config", [PreprocessConfig(), PreprocessConfig(shape=(7, 6, 9))])
def test_inference_sees_what_training_saw(
    make_dataset: MakeDataset, tmp_path: Path, config: PreprocessConfig
) -> None:
    root = make_dataset(channels=("CT", "T1"), affine=LSA)
    prepared = prepare_dataset(read_dataset(root), config, tmp_path / "cache")
    for case in prepared.cases("test"):
        paths = [root / f"imagesTr/{case.case_id}_{channel:04d}.nii.gz" for channel in range(2)]
        assert_same_case(preprocess_image([read_volume(p) for p in paths], prepared.plan), case)


@pytest.mark.parametrize("affine", [LSA, np.diag([1.0, -1.0, 1.0, 1.0])], ids=["LSA", "RPS"])
@pytest.mark.parametrize("spacing", [None, (0.7, 0.9, 1.4)])
def test_restored_rows_have_the_bits_of_the_whole(affine: np.ndarray, spacing: Any) -> None:
    plan = plan_with(spacing=spacing)
    case = preprocess_image([volume_of(random_image(), affine)], plan)
    probs = torch.rand(3, *case.image.shape[1:], generator=torch.Generator().manual_seed(0))
    whole = restore(probs, case)
    assert whole.shape == (3, 8, 5, 6)
    for rows in (slice(0, 1), slice(2, 7), slice(7, 8), slice(0, 8)):
        assert torch.equal(restore(probs, case, rows), whole[:, rows])


def test_intensity_of_each_channel() -> None:
    assert [normalisation_of(name) for name in ("CT", "noNorm", "MRI")] == [
        "ct",
        "none",
        "percentile",
    ]
    with pytest.raises(ValueError, match="intensity: expected auto, zscore, .* got .*bright"):
        PreprocessConfig(intensity=("zscore", "bright"))  # type: ignore[arg-type]
