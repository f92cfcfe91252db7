"""From a run folder and image files to label maps on the files' own grids."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from recycleseg import factory
from recycleseg.checkpoint import Checkpoint, save_checkpoint
from recycleseg.config import ModelConfig, RuntimeConfig, TrainConfig
from recycleseg.data.preprocess import ChannelIntensity, Plan, region_masks
from recycleseg.data.volumes import read_volume, write_volume
from recycleseg.inference.predictor import Predictor, paint_regions

# as of brain tumours: whole tumour, core, enhancing core
NESTED = ((1, 2, 3), (2, 3), (3,))
PATCH = (8, 8, 8)


def plan_of(
    regions: tuple[tuple[int, ...], ...] | None = None,
    spacing: tuple[float, ...] | None = None,
) -> Plan:
    names = ("background", "a") if regions is None else tuple("abc"[: len(regions)])
    return Plan(
        channel_names=("MRI",),
        class_names=names,
        regions=regions,
        label_values=(0, 1, 2, 3),
        spatial_dims=3,
        spacing=spacing,
        shape=None,
        intensities=(ChannelIntensity("none"),),
    )


def config_of(device: str = "cpu") -> TrainConfig:
    return TrainConfig(
        strategy="supervised",
        model=ModelConfig(channels=(8, 16), num_res_blocks=1, num_heads=2),
        runtime=RuntimeConfig(device=device, precision="float32"),
    )


def weights_of(plan: Plan) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(factory.make_network(config_of(), plan).state_dict())


def predictor_with(plan: Plan, probabilities: object) -> Predictor:
    """A predictor whose network is a function of the image's voxels."""
    predictor = Predictor(config_of(), plan, PATCH, weights_of(plan))
    predictor.sampler = probabilities  # type: ignore[assignment]
    return predictor


def write_run(root: Path, plan: Plan, device: str) -> Path:
    (root / "checkpoints").mkdir(parents=True)
    config = json.loads(json.dumps(asdict(config_of(device))))
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    (root / "dataset.json").write_text(json.dumps({**plan.to_dict(), "patch_size": PATCH}))
    tensors = {f"network/{name}": tensor for name, tensor in weights_of(plan).items()}
    save_checkpoint(root / "checkpoints" / "best.safetensors", Checkpoint(tensors, {"step": 1}))
    return root


def rotated_and_flipped() -> np.ndarray:
    """Axes (posterior, left, superior), tilted by 20 degrees, with unequal voxel sizes."""
    angle = np.radians(20)
    tilt = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = tilt @ np.array([[0, -1.5, 0], [-1, 0, 0], [0, 0, 2.0]])
    affine[:3, 3] = [30, -20, 5]
    return affine


def ellipsoid(shape: tuple[int, ...]) -> np.ndarray:
    """Off centre in every axis, so that no flip and no permutation leaves it where it is."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radii = zip(axes, (0.3, -0.2, 0.25), (0.6, 0.45, 0.7), strict=True)
    return (sum(((x - c) / r) ** 2 for x, c, r in radii) < 1).astype(np.uint8)


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0)], ids=["native", "resampled"])
def test_result_is_on_the_grid_of_the_file(
    tmp_path: Path, spacing: tuple[float, ...] | None
) -> None:
    truth = ellipsoid((20, 24, 18))
    affine = rotated_and_flipped()
    nib.save(nib.Nifti1Image(truth.astype(np.float32), affine), tmp_path / "scan.nii.gz")

    def bright(image: Tensor, generator: torch.Generator) -> Tensor:
        return torch.cat([1 - image, image])[None]

    prediction = predictor_with(plan_of(spacing=spacing), bright)(tmp_path / "scan.nii.gz")
    assert prediction.label.dtype == torch.uint8
    prediction.save(tmp_path / "label.nii.gz")
    written = nib.load(tmp_path / "label.nii.gz")
    np.testing.assert_allclose(written.affine, affine, atol=1e-5)  # float32 in the file
    label = np.asarray(written.dataobj)
    assert label.dtype == np.uint8
    if spacing is None:
        np.testing.assert_array_equal(label, truth)
    else:
        # linear interpolation there and back moves the edge by less than half a voxel
        dice = 2 * (label & truth).sum() / (label.sum() + truth.sum())
        assert dice > 0.95


def test_overlapping_classes_are_saved_as_label_values(tmp_path: Path) -> None:
    truth = np.zeros((8, 9, 10), np.uint8)
    truth[1:7, 1:8, 1:9] = 1
    truth[2:6, 2:7, 2:8] = 2
    truth[3:5, 3:5, 3:5] = 3
    write_volume(tmp_path / "scan.nii.gz", truth.astype(np.float32), spacing=(1.0, 1.0, 1.0))

    def by_threshold(image: Tensor, generator: torch.Generator) -> Tensor:
        return torch.cat([(image >= lowest).float() for lowest in (1, 2, 3)])[None]

    prediction = predictor_with(plan_of(NESTED), by_threshold)(tmp_path / "scan.nii.gz")
    assert prediction.probs.shape == (3, 8, 9, 10)
    prediction.save(tmp_path / "label.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "label.nii.gz").array, truth)


@pytest.mark.parametrize("regions", [NESTED, NESTED[::-1], ((1, 2, 4, 7), (4, 7), (7,))], ids=str)
def test_nested_regions_survive_painting(regions: tuple[tuple[int, ...], ...]) -> None:
    masks = region_masks(torch.tensor([[0, 1, 2], [3, 4, 7]], dtype=torch.uint8), regions)
    assert torch.equal(region_masks(paint_regions(masks.bool(), regions), regions), masks)


def test_specific_regions_are_painted_over_general_ones() -> None:
    # one voxel per set of masks: none, whole alone, enhancing alone, whole and enhancing, all
    masks = torch.tensor([[0, 1, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 1, 1, 1]]).bool()
    assert paint_regions(masks, NESTED).tolist() == [0, 1, 3, 3, 3]
    # of as many label values: the later one; and no label value of the whole is its own
    masks = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 1]]).bool()
    assert paint_regions(masks, ((1, 2), (1,), (2,))).tolist() == [1, 1, 2, 2]
    # regions that share a label value: it stands for the voxels that both hold
    masks = torch.tensor([[1, 0, 1], [0, 1, 1]]).bool()
    assert paint_regions(masks, ((1, 3), (2, 3))).tolist() == [1, 2, 3]


def test_a_run_from_a_gpu_loads_here(tmp_path: Path) -> None:
    plan = plan_of()
    run = write_run(tmp_path / "run", plan, device="cuda:7")
    write_volume(tmp_path / "scan.nii.gz", ellipsoid((9, 8, 10)), spacing=(1.0, 1.0, 1.0))
    here = Predictor.load(run)
    assert here.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    predictor = Predictor.load(run, device="cpu")
    assert predictor.device.type == "cpu"
    prediction = predictor(tmp_path / "scan.nii.gz")
    assert prediction.label.shape == (9, 8, 10)
    again = predictor([tmp_path / "scan.nii.gz"])
    assert torch.equal(again.probs, prediction.probs)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", plan_of(), device="cpu")
    with pytest.raises(ValueError, match="runtime.device: expected .* got 'tpu'"):
        Predictor.load(run, device="tpu")
    for name in ("checkpoints/best.safetensors", "dataset.json", "config.yaml"):
        (run / name).unlink()
        with pytest.raises(ValueError, match=f"{Path(name).name}: expected"):
            Predictor.load(run)
