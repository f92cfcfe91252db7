"""Predicting cases into a folder: what is written, continued and refused."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from recycleseg.data.identity import content_hash
from recycleseg.data.layout import Case
from recycleseg.data.volumes import file_ending, read_volume, write_volume
from recycleseg.files import FileError, part_of_file
from recycleseg.prediction.case_records import read_with_cases
from recycleseg.prediction.folder import PredictionFolder
from recycleseg.prediction.process import process_cases

SHAPE = (4, 5, 6)
EXCLUSIVE = {"background": 0, "a": 1, "b": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}
EVERYTHING = {"return_probs": True, "return_uncertainty": True, "return_steps": True}
RECORD = {"options": {}, "dataset": {}, "images": {}, "seconds": {}, "failed": {}}


def record(labels: Mapping[str, Any] = EXCLUSIVE, sha256: str = "1", **options: Any) -> dict:
    return {
        "models": [{"run": "/runs/first", "sha256": sha256}],
        "options": {"num_steps": 5, "device": "cpu", **options},
        "dataset": {"labels": dict(labels), "channel_names": {"0": "MRI"}, "file_ending": ".nii"},
        "environment": {},
    }


def ensemble_record(*members: str, **options: Any) -> dict:
    return {
        "members": [{"folder": folder, "probabilities": True} for folder in members],
        "options": {"method": "mean", **options},
        "dataset": {"labels": EXCLUSIVE, "channel_names": None, "file_ending": ".nii"},
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
    ) -> SimpleNamespace:
        self.asked.append(case_id)
        if case_id in self.errors:
            raise self.errors[case_id]
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
            names=None,
        )


def folder_of(
    root: Path, cases: list[Case], made: Mapping[str, Any], images_known: bool = True
) -> PredictionFolder:
    return PredictionFolder(
        root,
        made,
        endings={case.case_id: file_ending(case.image_paths[0]) for case in cases},
        images={c.case_id: [str(p) for p in c.image_paths] for c in cases if images_known},
        sources=[case.image_paths[0].parent for case in cases],
    )


def process(
    folder: PredictionFolder,
    cases: list[Case],
    stub: Stub,
    extras: Mapping[str, bool] = {},
    overwrite: bool = False,
) -> list[tuple[str, str | None]]:
    images = {case.case_id: case.image_paths for case in cases}
    left = folder.open(overwrite=overwrite)
    outcomes = process_cases(
        left,
        lambda case_id: stub(images[case_id], case_id=case_id, **extras),  # type: ignore[arg-type,return-value]
        folder,
    )
    return [(outcome.case_id, outcome.failure) for outcome in outcomes]


def predict(
    root: Path,
    cases: list[Case],
    stub: Stub,
    extras: Mapping[str, bool] = {},
    overwrite: bool = False,
    **options: Any,
) -> list[tuple[str, str | None]]:
    return process(folder_of(root, cases, record(**options)), cases, stub, extras, overwrite)


def files_in(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def saved_record(root: Path) -> dict[str, Any]:
    return read_with_cases(root / "predict.json")


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


def without_place(failure: str) -> str:
    return re.sub(r", in [\w.]+, line \d+", "", failure)


def test_failures_are_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    cases = write_images(tmp_path / "images", *(f"{name}.nii" for name in "abcdefg"))
    stub = Stub()
    stub.errors = {
        "a": FileError("a.nii: expected this, got that"),
        "b": MemoryError(),
        "c": RuntimeError(of_cpu := "DefaultCPUAllocator: can't allocate memory: you tried 99"),
        "d": torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate"),
        "e": ZeroDivisionError("division\nby zero"),
        "f": KeyError("weights"),
    }
    memory = "expected more free memory, got none left"
    advice = "; close other programs, or choose fewer workers or a smaller batch"
    of_gpu = "; close other programs on this GPU, or choose a smaller batch"
    unknown = (
        "; nobody expected this error; RECYCLESEG_DEBUG=1 shows the traceback for a report of it"
    )
    expected = {
        "a": "a.nii: expected this, got that",
        "b": f"b: {memory}{advice}",
        "c": f"c: {memory} ({of_cpu}){advice}",
        "d": f"d: {memory} (CUDA out of memory. Tried to allocate){of_gpu}",
        "e": f"e: ZeroDivisionError: division by zero{unknown}",
        "f": f"f: KeyError: 'weights'{unknown}",
    }
    out = tmp_path / "out"
    found = predict(out, cases, stub)
    assert found[-1] == ("g", None)
    assert {case_id: without_place(text or "") for case_id, text in found[:-1]} == expected
    assert saved_record(out)["failed"] == dict(found[:-1])
    assert files_in(out) == ["g.nii", "predict.json"]
    stub.errors, stub.asked = {"b": ValueError("still")}, []
    predict(out, cases, stub)
    assert stub.asked == list("abcdef")
    (failed,) = saved_record(out)["failed"].values()
    assert without_place(failed) == f"b: ValueError: still{unknown}"
    assert list(saved_record(out)["images"]) == list("gacdef")


def test_work_continues_after_an_interruption_with_whole_files(
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
    """The program may be killed after the last file of a case and before the record."""
    cases = write_images(tmp_path / "images", "a.nii", "b.nii")
    out, stub = tmp_path / "out", Stub()
    predict(out, cases[:1], stub)
    folder = folder_of(out, cases, record())
    assert folder.open(overwrite=False) == ["b"]
    folder.begin("b")
    (out / "b.nii").write_bytes((out / "a.nii").read_bytes())
    assert predict(out, cases, stub) == []
    assert list(saved_record(out)["images"]) == ["a", "b"]


@pytest.mark.parametrize("name", ["b.nii", "b.npz", "entropy/b.nii", "steps/step_1/b.nii"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_that_the_record_does_not_know_are_kept(
    tmp_path: Path, overwrite: bool, name: str
) -> None:
    """Such as a segmentation by hand, put beside the predictions of other cases."""
    cases = write_images(tmp_path / "images", "a.nii", "b.nii")
    out = tmp_path / "out"
    predict(out, cases[:1], Stub(), EVERYTHING)
    (out / name).write_text("precious")
    assert refusal(out, cases, overwrite) == (
        "--out: expected only files that predict.json knows under the names of these cases, got "
        f"{out / name}; nothing is changed. Move it elsewhere, or choose another --out"
    )
    (out / name).rename(tmp_path / "elsewhere")
    assert predict(out, cases, Stub(), overwrite=overwrite)


def test_what_a_kill_leaves_of_a_case_is_made_again(tmp_path: Path) -> None:
    cases = write_images(tmp_path / "images", "a.nii", "b.nii")
    out, stub = tmp_path / "out", Stub()
    predict(out, cases[:1], stub, EVERYTHING)
    folder = folder_of(out, cases, record())
    folder.open(overwrite=False)
    folder.begin("b")
    (out / "b.npz").write_text("whole, but of a killed process")
    for part in (out / "b.nii", out / "entropy/b.nii", out / "predict.json"):
        part_of_file(part).write_text("half")
    part_of_file(out / "notes.txt").write_text("of another program")
    for overwrite in (False, True):
        stub.asked = []
        predict(out, cases, stub, overwrite=overwrite)
        assert stub.asked == (["a", "b"] if overwrite else ["b"])
    (other,) = [name for name in files_in(out) if ".part" in name]
    assert other.endswith("notes.txt")
    assert not (out / "b.npz").exists()


@pytest.mark.parametrize("linked", ["entropy", "steps", "steps/step_2"])
def test_overwrite_does_not_follow_links(tmp_path: Path, linked: str) -> None:
    cases = write_images(tmp_path / "images", "a.nii")
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    predict(out, cases, Stub(), EVERYTHING)
    (out / linked).rename(elsewhere)
    (out / linked).symlink_to(elsewhere)
    before = files_in(elsewhere)
    said = refusal(out, cases, overwrite=True)
    assert said.startswith(f"--overwrite: expected a folder, got the symbolic link {out / linked}")
    assert files_in(elsewhere) == before != []


def test_a_linked_label_map_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    cases = write_images(tmp_path / "images", "a.nii")
    out, target = tmp_path / "out", tmp_path / "target.nii"
    predict(out, cases, Stub())
    (out / "a.nii").rename(target)
    (out / "a.nii").symlink_to(target)
    before = target.read_bytes()
    predict(out, cases, Stub(), overwrite=True)
    assert not (out / "a.nii").is_symlink() and target.read_bytes() == before


def test_further_cases_by_the_same_options(tmp_path: Path) -> None:
    first, second = write_images(tmp_path / "images", "a.nii", "b.nii")
    out, stub = tmp_path / "out", Stub()
    predict(out, [first], stub)
    assert predict(out, [second], stub, device="cuda", threads=3) == [("b", None)]
    assert list(saved_record(out)["images"]) == ["a", "b"]


def refused(folder: PredictionFolder, overwrite: bool = False) -> str:
    root = folder.root
    before = {name: (root / name).read_bytes() for name in files_in(root)}
    with pytest.raises(ValueError, match="^--o") as error:
        folder.open(overwrite=overwrite)
    assert {name: (root / name).read_bytes() for name in files_in(root)} == before
    return str(error.value)


def refusal(root: Path, cases: list[Case], overwrite: bool = False, **options: Any) -> str:
    return refused(folder_of(root, cases, record(**options)), overwrite)


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
    assert "with 1 more, such as b, predicted in another way" in refusal(
        out, cases[:1], overwrite=True, num_steps=4
    )
    stub.asked = []
    predict(out, cases, stub, overwrite=True, num_steps=4)
    assert stub.asked == ["a", "b"]
    assert files_in(out) == ["a.nii", "b.nii", "notes.txt", "predict.json"]
    assert not any(path.is_dir() for path in out.iterdir())
    assert saved_record(out)["options"]["num_steps"] == 4


def test_overwrite_removes_emptied_folders_alone(tmp_path: Path) -> None:
    cases = write_images(tmp_path / "images", "a.nii", "b.nii")
    out = tmp_path / "out"
    predict(out, cases, Stub(), EVERYTHING)
    (out / "steps/step_2/notes.txt").write_text("precious")
    folder = folder_of(out, cases, record())
    folder.open(overwrite=True)
    folder.leave()
    assert files_in(out) == ["predict.json", "steps/step_2/notes.txt"]
    assert {path.name for path in out.iterdir()} == {"predict.json", "steps"}
    assert [path.name for path in (out / "steps").iterdir()] == ["step_2"]


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
        f"--out: expected a new folder or one with predict.json, got {labels}, which already has "
        "a.nii"
    )
    said = refusal(tmp_path / "images", [case], overwrite)
    assert said.startswith("--out: expected another folder than the images'")


def test_the_same_case_of_other_images(tmp_path: Path) -> None:
    cases = write_images(tmp_path / "left", "a.nii")
    others = write_images(tmp_path / "right", "a.nii")
    replace_image(others[0], 7)
    predict(tmp_path / "out", cases, Stub())
    said = refusal(tmp_path / "out", others)
    assert f"holds case a predicted from {tmp_path}/left/a.nii, not {tmp_path}/right/a.nii" in said
    assert predict(tmp_path / "out", others, Stub(), overwrite=True) == [("a", None)]


def replace_image(case: Case, seed: int) -> None:
    """Another scan under the same name, of the same size and time."""
    path = case.image_paths[0]
    status = path.stat()
    array = np.random.default_rng(seed).integers(0, 256, SHAPE).astype(np.uint8)
    write_volume(path, array, spacing=(1.0, 1.0, 1.0))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_replaced_scan_is_predicted_anew(tmp_path: Path) -> None:
    cases = write_images(tmp_path / "images", "a.nii", "b.nii", "c.nii")
    out, stub = tmp_path / "out", Stub()
    predict(out, cases, stub, EVERYTHING)
    replace_image(cases[1], 7)
    folder = folder_of(out, cases, record())
    assert folder.open(overwrite=False) == ["b"] and (out / "b.nii").exists()
    folder.leave()  # a command that was killed here
    stub.asked, folder = [], folder_of(out, cases, record())
    assert process(folder, cases, stub, EVERYTHING) == [("b", None)]
    assert folder.notes == ["done again, because the content of the input has changed: b"]
    np.testing.assert_array_equal(
        read_volume(out / "b.nii").array, read_volume(cases[1].image_paths[0]).array % 3
    )
    contents = {case.case_id: content_hash(case.image_paths[0]) for case in cases}
    assert saved_record(out)["contents"] == contents
    folder = folder_of(out, cases, record())
    assert folder.open(overwrite=False) == [] and folder.notes == []


def test_a_replaced_scan_is_not_forgotten(tmp_path: Path) -> None:
    cases = write_images(tmp_path / "images", "a.nii", "b.nii")
    out, stub = tmp_path / "out", Stub()
    predict(out, cases, stub, EVERYTHING)
    for seed, case in enumerate(cases, 7):
        replace_image(case, seed)
    stub.errors = {"a": FileError("a.nii: expected this"), "b": KeyboardInterrupt()}
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            predict(out, cases, stub, EVERYTHING)
        # No segmentation of the old scan stands under the name of the new one.
        assert files_in(out) == [".cases/a/case.json", ".cases/b/case.json", "predict.json"]
    stub.errors = {}
    assert predict(out, cases, stub, EVERYTHING) == [("a", None), ("b", None)]


def test_a_case_writes_its_own_file_and_the_end_writes_the_record(tmp_path: Path) -> None:
    cases = write_images(tmp_path / "images", "a.nii", "b.nii", "c.nii", "d.nii")
    out, stub = tmp_path / "out", Stub()
    folder = folder_of(out, cases, record())
    folder.open(overwrite=False)
    begun = (out / "predict.json").read_bytes()
    for case in cases[:2]:
        folder.begin(case.case_id)
        folder.write(case.case_id, stub(case.image_paths, case_id=case.case_id), seconds=1.5)
    folder.begin("c")
    folder.fail("c", "c.nii: expected this")
    folder.begin("d")
    assert (out / "predict.json").read_bytes() == begun
    # As after a kill, and with something else in a file.
    part_of_file(out / ".cases/a/case.json").write_text('{"case": "a", "imag')
    for name, text in (("x", '{"case": "x", "sec'), ("y", "[]"), ("z", "{}")):
        (out / f".cases/{name}").mkdir()
        (out / f".cases/{name}/case.json").write_text(text)
    said = read_with_cases(out / "predict.json")
    assert said["seconds"] == {"a": 1.5, "b": 1.5}
    assert said["failed"] == {"c": "c.nii: expected this"}
    assert list(said["contents"]) == ["a", "b", "d"]
    assert list(said["images"]) == ["a", "b"]
    folder.leave()
    again = folder_of(out, cases, record())
    assert again.open(overwrite=False) == ["c", "d"]
    again.leave()
    assert files_in(out) == ["a.nii", "b.nii", "predict.json"]
    assert json.loads((out / "predict.json").read_text()) == said


def test_a_scan_that_is_replaced_while_it_is_predicted_is_predicted_anew(tmp_path: Path) -> None:
    (case,) = write_images(tmp_path / "images", "a.nii")
    out, stub = tmp_path / "out", Stub()

    def replaced(case_id: str) -> Any:
        made = stub(case.image_paths, case_id=case_id)
        replace_image(case, 7)
        return made

    folder = folder_of(out, [case], record())
    assert list(process_cases(folder.open(overwrite=False), replaced, folder))
    assert predict(out, [case], stub) == [("a", None)]
    assert predict(out, [case], stub) == []


def test_moved_scans_are_done(tmp_path: Path) -> None:
    cases = write_images(tmp_path / "images", "a.nii", "b.nii")
    out, stub = tmp_path / "out", Stub()
    predict(out, cases, stub)
    (tmp_path / "images").rename(tmp_path / "moved")
    moved = [Case(c.case_id, (tmp_path / "moved" / c.image_paths[0].name,), None) for c in cases]
    assert predict(out, moved, stub) == []
    known = saved_record(out)
    assert known["images"] == {case.case_id: [str(case.image_paths[0])] for case in moved}
    moved[1].image_paths[0].unlink()
    assert predict(out, moved, stub) == []  # a scan that is away does not delete its prediction
    assert saved_record(out)["contents"] == known["contents"]


def test_a_record_without_contents_is_said(tmp_path: Path) -> None:
    cases = write_images(tmp_path / "images", "a.nii", "b.nii")
    out = tmp_path / "out"
    predict(out, cases, Stub())
    known = saved_record(out)
    del known["contents"]
    (out / "predict.json").write_text(json.dumps(known))
    folder = folder_of(out, cases, record())
    assert folder.open(overwrite=False) == []
    assert folder.notes == [
        "counted as done, although predict.json does not say from which content they were made: "
        "a, b; --overwrite makes them again"
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "JSON, got: "),
        ("[]", "a JSON object, got list"),
        ('{"images": {}}', "a record of recycle-predict or recycle-ensemble, got one without op"),
        *(
            (json.dumps({**RECORD, key: 1}), f"a record of recycle-predict .* one without {key}")
            for key in RECORD
        ),
    ],
)
def test_damaged_record_is_named(tmp_path: Path, content: str, expected: str) -> None:
    (case,) = write_images(tmp_path / "images", "a.nii")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/predict.json").write_text(content)
    with pytest.raises(FileError, match=f"predict.json: expected {expected}"):
        folder_of(tmp_path / "out", [case], record()).open(overwrite=False)


def test_ensembles_of_other_members_options_and_labels(tmp_path: Path) -> None:
    cases = write_images(tmp_path / "images", "a.nii", "b.nii")
    out, stub = tmp_path / "out", Stub()

    def folder(made: dict[str, Any], cases: list[Case] = cases) -> PredictionFolder:
        return folder_of(out, cases, made, images_known=False)

    made = ensemble_record("/one", "/two")
    assert process(folder(made), cases, stub) == [("a", None), ("b", None)]
    known = saved_record(out)
    assert known["members"] == made["members"] and known["images"] == {}
    assert list(known["seconds"]) == ["a", "b"]
    assert process(folder(made), cases, stub) == []
    said = refused(folder(ensemble_record("/one", "/three", method="max")))
    assert "kind: members were ['/one', '/two'], are ['/one', '/three']; method was" in said
    other = ensemble_record("/one", "/two")
    other["members"][1] = {"folder": "/two", "probabilities": False}
    said = refused(folder(other))
    assert "probabilities in ['/one', '/two'] were [True, True], are [True, False]" in said
    for key, value in (("labels", {"background": 0, "c": 1}), ("file_ending", ".nii.gz")):
        other = ensemble_record("/one", "/two")
        other["dataset"] = {**other["dataset"], key: value}
        assert f"{key} was {made['dataset'][key]!r}, is {value!r}" in refused(folder(other))
        said = refused(folder(other, cases[:1]), overwrite=True)
        assert "with 1 more, such as b, predicted in another way" in said


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_of_the_other_command_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    cases = write_images(tmp_path / "images", "a.nii")
    records = {"recycle-predict": record(), "recycle-ensemble": ensemble_record("/one", "/two")}
    for name, made in records.items():
        process(folder_of(tmp_path / name, cases, made), cases, Stub())
    for ours, theirs in (list(records), list(records)[::-1]):
        assert refused(folder_of(tmp_path / theirs, cases, records[ours]), overwrite) == (
            f"--out: expected a new folder or one of {ours}, got {tmp_path / theirs} with "
            f"predict.json of {theirs}; nothing in it is changed"
        )
    images = folder_of(tmp_path / "images", cases, records["recycle-ensemble"])
    assert refused(images, overwrite) == (
        f"--out: expected another folder than the members', got {tmp_path / 'images'}"
    )


def test_images_of_another_format_by_the_same_options(tmp_path: Path) -> None:
    first, second = write_images(tmp_path / "images", "a.nii", "b.nii.gz")
    out = tmp_path / "out"
    predict(out, [first], Stub())
    made = record()
    made["dataset"]["file_ending"] = ".nii.gz"
    assert process(folder_of(out, [second], made), [second], Stub()) == [("b", None)]
    assert "labels was" in refusal(out, [first], labels=REGIONS)
