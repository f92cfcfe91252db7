"""From a run folder and image files to label maps on the files' own grids."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from recycleseg.classes import Classes
from recycleseg.data.intensity import ChannelIntensity
from recycleseg.data.preprocess import Plan, preprocess_image, restore
from recycleseg.data.volumes import read_volume, write_volume
from recycleseg.prediction.model import Model
from recycleseg.prediction.predictor import Predictor, case_id_of
from recycleseg.run import factory
from recycleseg.run.checkpoint import Checkpoint, save_checkpoint
from recycleseg.run.config import TrainConfig
from recycleseg.run.options import (
    ModelConfig,
    RuntimeConfig,
    SamplingConfig,
)
from recycleseg.sampling import memory
from recycleseg.sampling.samples import case_generator

# as for brain tumours: whole tumour, core, enhancing core
NESTED = ((1, 2, 3), (2, 3), (3,))
PATCH = (8, 8, 8)


def plan_of(
    regions: tuple[tuple[int, ...], ...] | None = None,
    spacing: tuple[float, ...] | None = None,
) -> Plan:
    names = ("background", "a") if regions is None else tuple("abc"[: len(regions)])
    return Plan(
        channel_names=("MRI",),
        classes=Classes(names, regions),
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


class VoxelSampler:
    """Stands in for a VolumeSampler: each step's probabilities are a function of the image."""

    diffusion = "its noise differs between samples"

    def __init__(
        self, plan: Plan, *functions: Callable[[Tensor], Tensor], noise: float = 0
    ) -> None:
        self.exclusive = plan.classes.exclusive
        self.functions = functions
        self.noise = noise

    def state_dtype(self, shape: torch.Size, device: torch.device) -> torch.dtype:
        return memory.state_dtype(shape.numel(), device)

    def __call__(self, image: Tensor, generator: torch.Generator, progress: Any = None) -> Tensor:
        *_, last = self.steps(image, generator, progress)
        return last

    def steps(
        self, image: Tensor, generator: torch.Generator, progress: Any = None
    ) -> Iterator[Tensor]:
        for function in self.functions:
            probs = function(image)
            noise = self.noise * torch.randn(probs.shape, generator=generator)
            yield (probs + noise).softmax(0) if self.noise else probs
        if progress is not None:
            progress(7, 7)


def model_with(
    plan: Plan, *functions: Callable[[Tensor], Tensor], samples: int = 1, noise: float = 0
) -> Model:
    config = replace(config_of(), sampling=SamplingConfig(samples=samples))
    model = Model(config, plan, PATCH, weights_of(plan), name=f"of {plan.spacing}")
    model.sampler = VoxelSampler(plan, *functions, noise=noise)  # type: ignore[assignment]
    return model


def predictor_with(plan: Plan, *functions: Callable[[Tensor], Tensor], **options: Any) -> Predictor:
    """A predictor whose network is a function of the image's voxels."""
    return Predictor([model_with(plan, *functions, **options)])


def bright(image: Tensor) -> Tensor:
    return torch.cat([1 - image, image])


def tilted(image: Tensor) -> Tensor:
    return torch.cat([image, 2 * image])


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
    """Off centre along every axis, so that every flip and every permutation moves it."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radii = zip(axes, (0.3, -0.2, 0.25), (0.6, 0.45, 0.7), strict=True)
    return (sum(((x - c) / r) ** 2 for x, c, r in radii) < 1).astype(np.uint8)


@pytest.mark.parametrize(
    ("spacing", "upright"),
    [(None, False), ((1.0, 1.0, 1.0), False), ((1.0, 1.0, 1.0), True)],
    ids=["native", "resampled", "upright"],
)
def test_result_is_on_the_grid_of_the_file(
    tmp_path: Path, spacing: tuple[float, ...] | None, upright: bool
) -> None:
    truth = ellipsoid((20, 24, 18))
    affine = rotated_and_flipped()
    nib.save(nib.Nifti1Image(truth.astype(np.float32), affine), tmp_path / "scan.nii.gz")
    plan = replace(plan_of(spacing=spacing), upright=upright)
    prediction = predictor_with(plan, bright)(tmp_path / "scan.nii.gz")
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

    def by_threshold(image: Tensor) -> Tensor:
        return torch.cat([(image >= lowest).float() for lowest in (1, 2, 3)])

    predictor = predictor_with(plan_of(NESTED), by_threshold)
    prediction = predictor(tmp_path / "scan.nii.gz", return_probs=True)
    assert prediction.probs is not None and prediction.probs.shape == (3, 8, 9, 10)
    prediction.save(tmp_path / "label.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "label.nii.gz").array, truth)


def test_a_run_from_a_gpu_loads_here(tmp_path: Path) -> None:
    plan = plan_of()
    run = write_run(tmp_path / "run", plan, device="cuda:7")
    write_volume(tmp_path / "scan.nii.gz", ellipsoid((9, 8, 10)), spacing=(1.0, 1.0, 1.0))
    here = Predictor.load(run).models[0]
    assert here.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    predictor = Predictor.load(run, device="cpu")
    assert predictor.models[0].device.type == "cpu"
    prediction = predictor(tmp_path / "scan.nii.gz", return_probs=True)
    assert prediction.label.shape == (9, 8, 10)
    again = predictor([tmp_path / "scan.nii.gz"], return_probs=True)
    assert prediction.probs is not None and again.probs is not None
    assert torch.equal(again.probs, prediction.probs)
    assert prediction.entropy is prediction.disagreement is None
    assert prediction.steps == ()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", plan_of(), device="cpu")
    with pytest.raises(ValueError, match="runtime.device: expected .* got 'tpu'"):
        Predictor.load(run, device="tpu")
    for name in ("checkpoints/best.safetensors", "dataset.json", "config.yaml"):
        (run / name).unlink()
        check_message(run, name)
    check_message(tmp_path / "none", "")


def check_message(run: Path, name: str) -> None:
    """One line that names the file."""
    with pytest.raises(ValueError) as error:
        Predictor.load(run)
    message = str(error.value)
    assert re.match(rf"{re.escape(str(run / name))}: (line \d+: )?expected", message), message
    assert "\n" not in message


def without(path: Path, key: str) -> None:
    values = json.loads(path.read_text())
    del values[key]
    path.write_text(json.dumps(values))


def of_another_network(path: Path) -> None:
    save_checkpoint(path, Checkpoint({"network/weight": torch.ones(2)}, {"step": 1}))


DAMAGE: list[tuple[str, Callable[[Path], Any]]] = [
    ("config.yaml", lambda path: path.write_text("")),
    ("config.yaml", lambda path: path.write_text("model: {channels: [8, 16}\n")),
    ("config.yaml", lambda path: path.write_bytes(b"\x00\xff\xfe")),
    ("config.yaml", lambda path: path.write_text("sampling: {samples: 0}")),
    ("dataset.json", lambda path: path.write_text("")),
    ("dataset.json", lambda path: path.write_text("[]")),
    ("dataset.json", lambda path: path.write_bytes(b"\xff\xfe")),
    ("dataset.json", lambda path: path.write_text(path.read_text()[:-20])),
    ("dataset.json", lambda path: without(path, "patch_size")),
    ("dataset.json", lambda path: without(path, "intensities")),
    ("checkpoints/best.safetensors", lambda path: path.write_bytes(b"")),
    ("checkpoints/best.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-9])),
    ("checkpoints/best.safetensors", lambda path: path.write_bytes(b"\x01" * 500)),
    ("checkpoints/best.safetensors", lambda path: save_file({"a": torch.ones(1)}, path)),
    ("checkpoints/best.safetensors", of_another_network),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE)
def test_what_is_damaged_is_named(tmp_path: Path, name: str, damage: Callable[[Path], Any]) -> None:
    run = write_run(tmp_path / "run", plan_of(), device="cpu")
    damage(run / name)
    check_message(run, name)


def test_options_override_those_of_the_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", plan_of(), device="cpu")
    options: dict[str, Any] = {"samples": 3, "window_batch": 5, "overlap": 0.25, "seed": 9}
    model = Predictor.load(run, device="cpu", **options).models[0]
    assert (model.config.sampling.samples, model.config.seed) == (3, 9)
    assert (model.sampler.window_batch, model.sampler.overlap) == (5, 0.25)
    for wrong, message in (
        ({"samples": 0}, "sampling.samples: expected at least 1, got 0"),
        ({"overlap": 1.0}, "patch.overlap: expected 0 to below 1, got 1.0"),
        ({"sample": 2}, "sampling: expected options sampler, .*, got 'sample'"),
        ({"fusion": "both"}, "sampling.fusion: expected one of trajectory, step, got 'both'"),
    ):
        with pytest.raises(ValueError, match=message):
            Predictor.load(run, device="cpu", **wrong)


def scan(tmp_path: Path) -> Path:
    """Values between 0 and 1 on a grid that is flipped, permuted and not isotropic."""
    values = np.random.default_rng(0).random((7, 6, 9), np.float32)
    path = tmp_path / "scan_0000.nii.gz"
    nib.save(nib.Nifti1Image(values, rotated_and_flipped()), path)
    return path


@pytest.mark.parametrize("spacing", [None, (0.8, 1.3, 1.1)], ids=["native", "resampled"])
@pytest.mark.parametrize("exclusive", [True, False])
def test_slabs_are_the_whole(
    tmp_path: Path,
    spacing: tuple[float, ...] | None,
    exclusive: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = plan_of(None if exclusive else ((1, 2), (2,)), spacing)
    predictor = predictor_with(plan, bright, tilted, bright, samples=2, noise=1.0)
    options = {"return_probs": True, "return_uncertainty": True, "return_steps": True}
    whole = predictor(scan(tmp_path), **options)
    for elements in (1, 2 * 3 * 54):
        monkeypatch.setattr(memory, "SLAB_ELEMENTS", elements)
        slabs = predictor(scan(tmp_path), **options)
        assert len(slabs.steps) == 3 and torch.equal(slabs.steps[-1], slabs.label)
        for name in ("label", "probs", "entropy", "disagreement"):
            assert torch.equal(getattr(slabs, name), getattr(whole, name)), name
        assert all(map(torch.equal, slabs.steps, whole.steps))


@pytest.mark.parametrize("exclusive", [True, False])
def test_uncertainty_is_that_of_the_formulas(tmp_path: Path, exclusive: bool) -> None:
    """Two models of three samples each, on the file's own grid."""
    plan = plan_of(None if exclusive else ((1, 2), (2,)))
    models = [model_with(plan, function, samples=3, noise=2.0) for function in (bright, tilted)]
    prediction = Predictor(models)(
        scan(tmp_path), case_id="case", return_probs=True, return_uncertainty=True
    )
    volume = read_volume(scan(tmp_path))
    case = preprocess_image([volume], plan)
    members = torch.stack(
        [
            restore(model.sampler(case.image, case_generator(0, "case", k)), case)
            for model in models
            for k in range(3)
        ]
    ).double()

    def entropy(p: Tensor) -> Tensor:
        of_class = -p * p.log()
        return (of_class if exclusive else of_class - (1 - p) * (1 - p).log()).sum(-4)

    mean = members.mean(0)
    assert prediction.probs is not None
    # float32 sums of six members; entropies of one third to one half lose a digit in the difference
    torch.testing.assert_close(prediction.probs.double(), mean, rtol=1e-6, atol=1e-6)
    expected = entropy(mean)
    assert prediction.entropy is not None and prediction.disagreement is not None
    torch.testing.assert_close(prediction.entropy.double(), expected, rtol=1e-5, atol=1e-6)
    expected = expected - entropy(members).mean(0)
    assert expected.max() > 0.1
    torch.testing.assert_close(prediction.disagreement.double(), expected, rtol=1e-5, atol=2e-6)


def test_one_sample_of_one_model_agrees_with_itself(tmp_path: Path) -> None:
    predictor = predictor_with(plan_of(spacing=(0.8, 1.3, 1.1)), bright)
    prediction = predictor(scan(tmp_path), return_uncertainty=True)
    assert prediction.disagreement is not None and not prediction.disagreement.any()
    assert prediction.entropy is not None and prediction.entropy.max() > 0.6


def test_models_of_different_spacing_are_averaged_on_the_files_grid(tmp_path: Path) -> None:
    plans = [plan_of(), plan_of(spacing=(0.8, 1.3, 1.1))]
    functions = [bright, lambda image: bright(image).flip(0)]
    together = Predictor([model_with(*pair) for pair in zip(plans, functions, strict=True)])
    done: list[tuple[int, int]] = []
    prediction = together(
        scan(tmp_path), return_probs=True, progress=lambda *told: done.append(told)
    )
    alone = [
        predictor_with(*pair)(scan(tmp_path), return_probs=True).probs
        for pair in zip(plans, functions, strict=True)
    ]
    mean = torch.stack([probs for probs in alone if probs is not None]).mean(0)
    assert prediction.probs is not None
    assert torch.equal(prediction.probs, mean)
    assert torch.equal(prediction.label, mean.argmax(0).to(torch.uint8))
    assert [part / total for part, total in done] == [0.5, 1.0]
    with pytest.raises(ValueError, match="return_steps: expected one model, got 2"):
        together(scan(tmp_path), return_steps=True)


def test_models_of_different_tasks_are_refused() -> None:
    first = model_with(plan_of(), bright)
    other = model_with(replace(plan_of(spacing=(1.0, 1.0, 1.0)), channel_names=("CT",)), bright)
    message = r"of \(1.0, .*: expected channel_names \('MRI',\) as in of None, got \('CT',\)"
    with pytest.raises(ValueError, match=message):
        Predictor([first, other])
    other = model_with(plan_of(NESTED), bright)
    with pytest.raises(
        ValueError,
        match=r"classes {'background': 0, 'a': 1} as in .*got {'background': 0, 'a': \[1",
    ):
        Predictor([first, other])
    with pytest.raises(ValueError, match="models: expected at least one, got none"):
        Predictor([])


def test_name_of_a_case() -> None:
    names = ["a/case_7_0000.nii.gz", "case_7_0001.nii", "x/case_7.png", "case_7_00.png"]
    expected = ["case_7", "case_7_0001", "case_7", "case_7_00"]
    assert [case_id_of([Path(name)]) for name in names] == expected
    assert case_id_of([Path("case_7_0001.nii"), Path("case_7_0000.nii")]) == "case_7"
