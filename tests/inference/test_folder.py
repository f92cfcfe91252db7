"""Predicting cases into a folder: what is written, what is gone on with, what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny_runs import write_tiny_run

from recycleseg.config import load_config
from recycleseg.data.layout import Case
from recycleseg.data.preprocess import Plan
from recycleseg.data.volumes import DatasetError, read_volume, write_volume
from recycleseg.inference.folder import Extras, PredictionFolder, predict_cases
from recycleseg.inference.record import make_record

SHAPE = (4, 5, 6)
EXCLUSIVE = {"background": 0, "a": 1, "b": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}
EVERYTHING = Extras(probabilities=True, uncertainty=True, steps=True)


def record(labels: Mapping[str, Any] = EXCLUSIVE, sha256: str = "1", **options: Any) -> dict:
    return {
        "models": [{"run": "/runs/first", "sha256": sha256}],
        "options": {"num_steps": 5, "device": "cpu", **options},
        "dataset": {"labels": dict(labels), "channel_names": {"0": "MRI"}, "file_ending": ".nii"},
        "environment": {},
    }


def write_images(root: Path, *names: str) -> list[Case]:
    root.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        shape = SHAPE[1:] if name.endswith(".png") else SHAPE
        array = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
        write_volume(root / name, array, spacing=(1.0,) * len(shape))
    return [Case(name.split(".")[0], (root / name,), None) for name in names]


class Stub:
    """Predicts a function of the voxels, or raises what is in `errors` for the case."""

    def __init__(self) -> None:
        self.errors: dict[str, BaseException] = {}
        self.asked: list[str] = []

    def __call__(
        self,
        images: tuple[Path, ...],
        *,
        case_id: str,
        return_probs: bool = False,
        return_uncertainty: bool = False,
        return_steps: bool = False,
        progress: Any = None,
    ) -> SimpleNamespace:
        self.asked.append(case_id)
        if case_id in self.errors:
            raise self.errors[case_id]
        if progress is not None:
            progress(1, 1)
        volume = read_volume(images[0])
        array = torch.from_numpy(volume.array)
        label = array % 3
        probs = torch.stack([array / 1000, array / 500, 1 - array / 1000 - array / 500])
        return SimpleNamespace(
            label=label,
            probs=probs if return_probs else None,
            entropy=array / 255 * math.log(3) if return_uncertainty else None,
            disagreement=array / 1000 if return_uncertainty else None,
            steps=(array % 2, label) if return_steps else (),
            volume=volume,
        )


def predict(
    root: Path,
    cases: list[Case],
    stub: Stub,
    extras: Extras = Extras(),  # noqa: B008
    overwrite: bool = False,
    **options: Any,
) -> list[tuple[str, str | None]]:
    folder = PredictionFolder(root, record(**options))
    left = folder.open(cases, overwrite=overwrite)
    return [(o.case_id, o.failure) for o in predict_cases(stub, left, folder, extras)]  # type: ignore[arg-type]


def files_in(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def saved_record(root: Path) -> dict[str, Any]:
    return json.loads((root / "predict.json").read_text())  # type: ignore[no-any-return]


def test_files_of_a_volume(tmp_path: Path) -> None:
    (case,) = write_images(tmp_path / "images", "x.nii.gz")
    out = tmp_path / "deep" / "out"
    assert predict(out, [case], Stub(), EVERYTHING) == [("x", None)]
    assert files_in(out) == [
        "disagreement/x.nii.gz",
        "entropy/x.nii.gz",
        "predict.json",
        "steps/step_1/x.nii.gz",
        "steps/step_2/x.nii.gz",
        "x.nii.gz",
        "x.npz",
    ]
    array = read_volume(case.image_paths[0]).array
    label = read_volume(out / "x.nii.gz").array
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, array % 3)
    np.testing.assert_array_equal(read_volume(out / "steps/step_1/x.nii.gz").array, array % 2)
    np.testing.assert_array_equal(read_volume(out / "steps/step_2/x.nii.gz").array, label)
    entropy = read_volume(out / "entropy/x.nii.gz").array
    assert entropy.dtype == np.float32
    np.testing.assert_allclose(entropy, array / 255 * math.log(3), rtol=1e-6)  # float32
    with np.load(out / "x.npz") as saved:
        probs = saved["probabilities"]
    assert probs.dtype == np.float32 and probs.shape == (3, 6, 5, 4)
    np.testing.assert_allclose(probs[1].T, array / 500, rtol=1e-6)  # float32
    known = saved_record(out)
    assert known["images"] == {"x": [str(case.image_paths[0])]}
    assert known["seconds"]["x"] >= 0 and known["failed"] == {}
    assert {key: known[key] for key in record()} == record()


@pytest.mark.parametrize(
    ("labels", "largest"), [(EXCLUSIVE, math.log(3)), (REGIONS, 2 * math.log(2))]
)
def test_files_of_an_image(tmp_path: Path, labels: dict[str, Any], largest: float) -> None:
    (case,) = write_images(tmp_path / "images", "x.png")
    predict(tmp_path / "out", [case], Stub(), EVERYTHING, labels=labels)
    array = read_volume(case.image_paths[0]).array
    label = read_volume(tmp_path / "out/x.png").array
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, array % 3)
    entropy = read_volume(tmp_path / "out/entropy/x.png").array
    exact = array / 255 * math.log(3) / largest * 65535
    np.testing.assert_allclose(entropy, exact, atol=0.51)  # rounded to integers
    with np.load(tmp_path / "out/x.npz") as saved:
        assert saved["probabilities"].shape == (3, 1, 5, 6)


def test_only_what_was_asked_for_is_written(tmp_path: Path) -> None:
    (case,) = write_images(tmp_path / "images", "x.nii")
    predict(tmp_path / "out", [case], Stub())
    assert files_in(tmp_path / "out") == ["predict.json", "x.nii"]


def test_failures_are_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    cases = write_images(tmp_path / "images", *(f"{name}.nii" for name in "abcdefg"))
    stub = Stub()
    stub.errors = {
        "a": DatasetError("a.nii: expected this, got that"),
        "b": MemoryError(),
        "c": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 99 bytes"),
        "d": torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate"),
        "e": ZeroDivisionError("division\nby zero"),
        "f": KeyError("weights"),
    }
    memory = "expected memory for its prediction, got none left"
    expected = {
        "a": "a.nii: expected this, got that",
        "b": f"b: {memory} ()",
        "c": f"c: {memory} (DefaultCPUAllocator: can't allocate memory: you tried 99 bytes)",
        "d": f"d: {memory} (CUDA out of memory. Tried to allocate)",
        "e": "e: ZeroDivisionError: division by zero",
        "f": "f: KeyError: 'weights'",
    }
    out = tmp_path / "out"
    assert predict(out, cases, stub) == [*expected.items(), ("g", None)]
    assert saved_record(out)["failed"] == expected
    assert files_in(out) == ["g.nii", "predict.json"]
    stub.errors, stub.asked = {"b": ValueError("still")}, []
    predict(out, cases, stub)
    assert stub.asked == list("abcdef")
    assert saved_record(out)["failed"] == {"b": "b: ValueError: still"}
    assert list(saved_record(out)["images"]) == list("gacdef")


def test_interruption_leaves_whole_files_and_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = write_images(tmp_path / "images", "a.nii", "b.nii", "c.nii")
    out, stub = tmp_path / "out", Stub()
    stub.errors = {"b": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        predict(out, cases, stub, EVERYTHING, save=True)
    assert list(saved_record(out)["images"]) == ["a"]

    def killed(self: Path, target: Path) -> Path:
        if target == out / "b.nii":
            raise KeyboardInterrupt
        return rename(self, target)

    stub.errors, rename = {}, Path.replace
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        predict(out, cases, stub, EVERYTHING, save=True)
    assert (out / "b.npz").is_file() and not (out / "b.nii").exists()
    assert [name for name in files_in(out) if ".part" in name] == []
    stub.asked = []
    predict(out, cases, stub, EVERYTHING, save=True)
    assert stub.asked == ["b", "c"]
    assert list(saved_record(out)["images"]) == ["a", "b", "c"]


def test_label_whose_record_was_lost_is_done(tmp_path: Path) -> None:
    cases = write_images(tmp_path / "images", "a.nii", "b.nii")
    out, stub = tmp_path / "out", Stub()
    predict(out, cases[:1], stub)
    (out / "b.nii").write_bytes((out / "a.nii").read_bytes())
    assert predict(out, cases, stub) == []
    assert list(saved_record(out)["images"]) == ["a", "b"]


def test_further_cases_by_the_same_options(tmp_path: Path) -> None:
    first, second = write_images(tmp_path / "images", "a.nii", "b.nii")
    out, stub = tmp_path / "out", Stub()
    predict(out, [first], stub)
    assert predict(out, [second], stub, device="cuda", threads=3) == [("b", None)]
    assert list(saved_record(out)["images"]) == ["a", "b"]


def refusal(root: Path, cases: list[Case], overwrite: bool = False, **options: Any) -> str:
    before = {name: (root / name).read_bytes() for name in files_in(root)}
    with pytest.raises(ValueError, match="^--o") as error:
        PredictionFolder(root, record(**options)).open(cases, overwrite=overwrite)
    assert {name: (root / name).read_bytes() for name in files_in(root)} == before
    return str(error.value)


def test_other_options_and_models_need_overwrite(tmp_path: Path) -> None:
    cases = write_images(tmp_path / "images", "a.nii", "b.nii")
    out, stub = tmp_path / "out", Stub()
    predict(out, cases, stub, EVERYTHING)
    (out / "notes.txt").write_text("precious")
    for name in ("entropy/a.nii", "steps/step_1/a.nii"):
        assert (out / name).is_file()
    said = refusal(out, cases, num_steps=4, samples=3)
    assert "num_steps was 5, is 4; samples was None, is 3. Use --overwrite" in said
    assert "weights of ['/runs/first'] have changed" in refusal(out, cases, sha256="2")
    assert "with 1 more such as b, predicted otherwise" in refusal(
        out, cases[:1], overwrite=True, num_steps=4
    )
    stub.asked = []
    predict(out, cases, stub, overwrite=True, num_steps=4)
    assert stub.asked == ["a", "b"]
    assert files_in(out) == ["a.nii", "b.nii", "notes.txt", "predict.json"]
    assert saved_record(out)["options"]["num_steps"] == 4


def test_overwrite_of_some_cases_keeps_the_others(tmp_path: Path) -> None:
    cases = write_images(tmp_path / "images", "a.nii", "b.nii")
    out, stub = tmp_path / "out", Stub()
    predict(out, cases, stub)
    before = (out / "b.nii").stat().st_mtime_ns
    stub.asked = []
    predict(out, cases[:1], stub, overwrite=True)
    assert stub.asked == ["a"] and (out / "b.nii").stat().st_mtime_ns == before
    assert list(saved_record(out)["images"]) == ["b", "a"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_others_are_left_alone(tmp_path: Path, overwrite: bool) -> None:
    (case,) = write_images(tmp_path / "images", "a.nii")
    labels = tmp_path / "labelsTr"
    write_images(labels, "a.nii")
    assert refusal(labels, [case], overwrite) == (
        f"--out: expected a new folder or one with predict.json, got {labels}, where a.nii is "
        "already"
    )
    said = refusal(tmp_path / "images", [case], overwrite)
    assert said.startswith("--out: expected another folder than the images'")


def test_the_same_case_of_other_images(tmp_path: Path) -> None:
    cases = write_images(tmp_path / "left", "a.nii")
    others = write_images(tmp_path / "right", "a.nii")
    predict(tmp_path / "out", cases, Stub())
    said = refusal(tmp_path / "out", others)
    assert f"holds case a predicted from {tmp_path}/left/a.nii, not {tmp_path}/right/a.nii" in said
    assert predict(tmp_path / "out", others, Stub(), overwrite=True) == [("a", None)]


@pytest.mark.parametrize("content", ["", "[]", '{"images": {}}', '{"images": 1}'])
def test_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    (case,) = write_images(tmp_path / "images", "a.nii")
    (tmp_path / "predict.json").write_text(content)
    with pytest.raises(ValueError, match=r"predict.json: expected a record of recycle-predict"):
        PredictionFolder(tmp_path, record()).open([case], overwrite=False)


def test_record_of_runs(tmp_path: Path) -> None:
    runs = [write_tiny_run(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    configs = [load_config(run / "config.yaml") for run in runs]
    description = json.loads((runs[0] / "dataset.json").read_text())
    made = make_record(
        runs,
        configs,
        Plan.from_dict(description),
        ".nii",
        options={"save_steps": False},
        environment={"python": "3"},
    )
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert [model["run"] for model in made["models"]] == [str(run) for run in runs]
    assert made["models"][0]["sha256"] != made["models"][1]["sha256"]
    assert (made["options"]["num_steps"], made["options"]["seed"]) == (2, [0, 1])
    assert made["options"]["save_steps"] is False
    assert made["dataset"] == {
        "labels": {"background": 0, "a": 1, "b": 2},
        "channel_names": {"0": "MRI"},
        "file_ending": ".nii",
    }
    description |= {"class_names": ["whole", "core"], "regions": [[1, 2], [2]]}
    plan = Plan.from_dict(description)
    made = make_record(runs, configs, plan, ".nii", options={}, environment={})
    assert made["dataset"]["labels"] == REGIONS
