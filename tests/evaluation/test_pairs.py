"""Which files belong together."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from recycleseg.evaluation.pairs import describe_origin, find_images, find_pairs
from recycleseg.files import FileError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_cases_are_those_of_the_predictions(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    touch(pred / "predict.json", pred / "c0.npz", pred / ".c9.nii.gz", pred / "entropy/c0.nii.gz")
    pairs = find_pairs([pred], ref)
    assert [pair.case_id for pair in pairs.cases] == ["c0", "c1", "c2"]
    assert pairs.cases[1].predictions == (pred / "c1.nii.gz",)
    assert pairs.cases[1].reference == ref / "c1.nii.gz"
    assert pairs.notes == ("2 of 5 references have no prediction and are left out: c3, c4",)


def test_endings_may_differ(tmp_path: Path) -> None:
    touch(tmp_path / "pred/a.nii", tmp_path / "ref/a.nii.gz")
    (pair,) = find_pairs([tmp_path / "pred"], tmp_path / "ref").cases
    assert (pair.case_id, pair.reference.name) == ("a", "a.nii.gz")


def test_one_file(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    for reference in (ref, ref / "c1.nii.gz"):
        pairs = find_pairs([pred / "c1.nii.gz"], reference)
        assert pairs.roots == (pred,)
        assert [(p.case_id, p.reference) for p in pairs.cases] == [("c1", ref / "c1.nii.gz")]
    (pair,) = find_pairs([pred / "c1.nii.gz"], ref / "c4.nii.gz").cases  # names do not matter
    assert pair.reference.name == "c4.nii.gz"


def test_all_predictions_without_reference_are_listed(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    touch(*(pred / f"x{i}.nii.gz" for i in range(7)))
    message = f"{pred}: expected a reference in {ref} for every prediction, got none for 7 of 10: "
    with pytest.raises(FileError, match=re.escape(message) + "x0, x1, x2, x3, x4, x5, x6$"):
        find_pairs([pred], ref)
    with pytest.raises(FileError, match=r"x0.nii.gz: expected a reference x0 in .*ref, got no"):
        find_pairs([pred / "x0.nii.gz"], ref)


def test_what_is_not_there(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pred, ref = folders
    (tmp_path / "empty").mkdir()
    missing = r"\(a folder or a file\), got a path that does not exist"
    for arguments, message in (
        ((tmp_path / "no", ref), rf"no: expected predictions {missing}"),
        ((pred, tmp_path / "no"), rf"no: expected references {missing}"),
        ((tmp_path / "empty", ref), r"empty: expected predictions \(.nii.gz, .nii, .png, "),
        ((pred, tmp_path / "empty"), "empty: expected references .*, got none"),
        ((pred, ref / "c0.nii.gz"), "a folder of references because .*pred is a folder, got a"),
    ):
        with pytest.raises(FileError, match=message):
            find_pairs([arguments[0]], arguments[1])
    touch(pred / "c1.nii")
    with pytest.raises(FileError, match="one label map per case, got c1.nii and c1.nii.gz"):
        find_pairs([pred], ref)


def test_steps_come_before_the_final_prediction(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    steps = [pred / "steps" / f"step_{k}" for k in range(1, 12)]
    touch(*(step / f"c{case}.nii.gz" for step in steps for case in range(3)))
    pairs = find_pairs([pred], ref)
    assert pairs.cases[0].predictions == (
        *(step / "c0.nii.gz" for step in steps[:-1]),
        pred / "c0.nii.gz",
    )


def test_steps_without_label_maps_are_ignored(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    steps = [pred / "steps" / f"step_{k}" for k in (1, 2, 3)]
    touch(steps[2] / "notes.txt")
    assert find_pairs([pred], ref).cases[0].predictions == (pred / "c0.nii.gz",)
    touch(*(step / f"c{case}.nii.gz" for step in steps[:2] for case in range(3)))
    assert find_pairs([pred], ref).cases[0].predictions == (
        steps[0] / "c0.nii.gz",
        pred / "c0.nii.gz",
    )


def test_steps_that_lack_something(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    steps = [pred / "steps" / f"step_{k}" for k in (1, 2, 3)]
    touch(*(step / f"c{case}.nii.gz" for step in steps for case in range(3)))
    (steps[1] / "c2.nii.gz").unlink()
    message = "step_2: expected a label map for each of the 3 cases of .*pred, got none for c2"
    with pytest.raises(FileError, match=message):
        find_pairs([pred], ref)
    steps[1].rename(pred / "steps/step_4")
    with pytest.raises(FileError, match="steps: expected step_1 to step_3, got step_1, st"):
        find_pairs([pred], ref)


def test_images_of_predict_json_or_of_a_folder(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pred, _ = folders
    assert find_images([pred], ["c0"]) == {}
    folder = tmp_path / "images"
    channels = (folder / "c0_0000.nii.gz", folder / "c0_0001.nii.gz")
    touch(*channels, folder / "c1.nii.gz", folder / "c1_x_0000.nii.gz")
    listed = {"c0": [str(path) for path in channels], "c1": [str(folder / "gone.nii.gz")]}
    (pred / "predict.json").write_text(json.dumps({"images": listed}))
    assert find_images([pred], ["c0", "c1"]) == {"c0": channels}
    assert find_images([pred / "c0.nii.gz"], ["c0"]) == {"c0": channels}
    found = find_images([pred], ["c0", "c1"], folder)
    assert found == {"c0": channels, "c1": (folder / "c1.nii.gz",)}
    with pytest.raises(FileError, match="images: expected images z_0000<ending> or z<ending>"):
        find_images([pred], ["z"], folder)


def test_what_another_program_lists_is_passed_over(folders: tuple[Path, Path]) -> None:
    pred, _ = folders
    for images in ({"c0": [1]}, {"c0": [None, "x.nii"]}, {"c0": "x.nii"}, ["c0"], None):
        (pred / "predict.json").write_text(json.dumps({"images": images}))
        assert find_images([pred], ["c0"]) == {}
    for models in ([{"run": 1}, {"run": None}, {}, 3], {"run": "x"}, "x"):
        (pred / "predict.json").write_text(json.dumps({"models": models}))
        assert describe_origin([pred]) == {}


def test_origin_is_what_the_record_says(tmp_path: Path) -> None:
    assert describe_origin([tmp_path]) == {}
    record = tmp_path / "predict.json"
    options = {"sampler": "ddim", "num_steps": 5, "samples": 1, "eta": 0.0}
    record.write_text(json.dumps({"models": [{"run": "/runs/first"}], "options": options}))
    told = {"models": "first", "sampler": "ddim", "sampling steps": "5", "samples": "1"}
    assert describe_origin([tmp_path]) == told
    members = [{"folder": "/a/x"}, {"folder": "/a/y"}]
    record.write_text(json.dumps({"members": members, "options": {"method": "mean"}}))
    assert describe_origin([tmp_path]) == {"members": "x, y", "method": "mean"}
    # Another program may write a file of the same name.
    record.write_text(json.dumps({"models": ["other"], "options": []}))
    assert describe_origin([tmp_path]) == {}


def test_several_folders_are_one(tmp_path: Path) -> None:
    ref = tmp_path / "ref"
    touch(*(ref / f"c{case}.nii.gz" for case in range(4)))
    touch(tmp_path / "b/c0.nii.gz", tmp_path / "a/c2.nii.gz", tmp_path / "a/c1.nii.gz")
    preds = (tmp_path / "b", tmp_path / "a")
    pairs = find_pairs(preds, ref)
    assert [pair.case_id for pair in pairs.cases] == ["c0", "c1", "c2"]
    assert pairs.cases[1].predictions == (tmp_path / "a/c1.nii.gz",)
    assert pairs.roots == preds
    assert pairs.notes == ("1 of 4 references have no prediction and are left out: c3",)
    touch(tmp_path / "b/steps/step_1/c0.nii.gz", tmp_path / "b/steps/step_2/c0.nii.gz")
    message = "equally many sampling steps, got 2 in .*/b, 1 in .*/a"
    with pytest.raises(FileError, match=message):
        find_pairs(preds, ref)
    touch(tmp_path / "a/c0.nii.gz")
    message = f"{tmp_path}/a: expected other cases than in {tmp_path}/b, got c0 in both"
    with pytest.raises(FileError, match=message):
        find_pairs(preds, ref)
    with pytest.raises(FileError, match="expected folders or one file, got .*c1.nii.gz, .*/b"):
        find_pairs([tmp_path / "a/c1.nii.gz", tmp_path / "b"], ref)


def test_images_and_origin_of_several_folders(tmp_path: Path) -> None:
    for name, model in (("a", "first"), ("b", "second")):
        image = tmp_path / f"{name}.nii.gz"
        touch(image, tmp_path / name / "x")
        record = {"images": {name: [str(image)]}, "models": [{"run": f"/runs/{model}"}]}
        record |= {"options": {"sampler": "ddim"}}
        (tmp_path / name / "predict.json").write_text(json.dumps(record))
    preds = (tmp_path / "a", tmp_path / "b")
    found = find_images(preds, ["a", "b"])
    assert found == {name: (tmp_path / f"{name}.nii.gz",) for name in "ab"}
    assert describe_origin(preds) == {"models": "first, second", "sampler": "ddim"}


def test_endings_in_upper_case(tmp_path: Path) -> None:
    touch(tmp_path / "pred/a.NII", tmp_path / "ref/a.Nii.Gz")
    (pair,) = find_pairs([tmp_path / "pred"], tmp_path / "ref").cases
    assert (pair.case_id, pair.reference.name) == ("a", "a.Nii.Gz")
