"""dataset.json, file names and splits of the nnU-Net raw layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recycleseg.data.layout import read_dataset, read_dataset_with_problems
from recycleseg.data.splits import SplitRule
from recycleseg.files import FileError

MakeDataset = Callable[..., Path]


def change_description(root: Path, **changes: Any) -> None:
    path = root / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_exclusive_classes(make_dataset: MakeDataset) -> None:
    root = make_dataset(channels=("T1", "T2"), labels={"core": 2, "background": 0, "shell": 1})
    dataset = read_dataset(root)
    assert dataset.classes.names == ("background", "shell", "core")
    assert tuple(dataset.classes.foreground) == ("shell", "core")
    assert dataset.classes.exclusive and dataset.classes.regions is None
    assert len(dataset.classes) == 3
    assert list(dataset.classes.values) == [0, 1, 2]
    assert dataset.channel_names == ("T1", "T2")
    assert dataset.spatial_dims == 3
    case = dataset.cases["c1"]
    assert [path.name for path in case.image_paths] == ["c1_0000.nii.gz", "c1_0001.nii.gz"]
    assert case.label_path == root / "labelsTr/c1.nii.gz"


def test_overlapping_regions(make_dataset: MakeDataset) -> None:
    root = make_dataset(labels={"background": 0, "whole": [1, 2], "core": [2]})
    change_description(root, regions_class_order=[1, 2])
    dataset = read_dataset(root)
    assert not dataset.classes.exclusive
    assert dataset.classes.names == tuple(dataset.classes.foreground) == ("whole", "core")
    assert dataset.classes.regions == ((1, 2), (2,))
    assert dataset.classes.regions_class_order == (1, 2)
    assert len(dataset.classes) == 2
    assert list(dataset.classes.values) == [0, 1, 2]


def test_cases_and_patients_are_those_of_the_split(make_dataset: MakeDataset) -> None:
    root = make_dataset(split={"train": ["c3", "c0"], "val": ["c1"]})
    dataset = read_dataset(root)
    assert dataset.split == {"train": ("c3", "c0"), "val": ("c1",), "test": ()}
    assert list(dataset.cases) == ["c0", "c1", "c3"]
    assert dataset.patients == {"c0": "c0", "c1": "c1", "c3": "c3"}
    assert dataset.split_source == "split.json"
    assert dataset.notes == ("2 cases stand in no part and are not used: c2, c4",)
    drawn = read_dataset(make_dataset("other"), SplitRule(fold=1, seed=3))
    assert drawn.split_source == "drawn with seed 3: fold 1 of 5"


def test_without_a_rule_no_split_is_read(make_dataset: MakeDataset) -> None:
    dataset = read_dataset(make_dataset(split={"train": ["unknown"]}), None)
    assert dataset.split == {"train": ("c0", "c1", "c2", "c3", "c4"), "val": (), "test": ()}


def test_folder_that_is_no_data_set(tmp_path: Path) -> None:
    expected = "expected a data set in the nnU-Net raw layout .dataset.json, imagesTr/CASE_0000"
    with pytest.raises(FileError, match=f"{expected}.* got no dataset.json in {tmp_path}"):
        read_dataset(tmp_path)
    with pytest.raises(FileError, match=f"{expected}.* got no folder {tmp_path}/none"):
        read_dataset(tmp_path / "none")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_ending": ".jpg"}, "file_ending: expected one of .nii.gz, .*, got '.jpg'"),
        ({"channel_names": ["CT"]}, 'channel_names: expected {"0": name'),
        ({"channel_names": {}}, "channel_names: expected at least one channel"),
        ({"channel_names": None}, "channel_names: expected .* got null"),
        ({"labels": ["a"]}, r'labels: expected name -> value.*got \["a"\]'),
        ({"labels": {"background": 0, "a": "1"}}, "labels: expected name -> value"),
        ({"labels": {"background": 0, "a": []}}, "labels: expected name -> value"),
        ({"labels": {"air": 0, "a": 1, "b": 2}}, 'labels: expected "background": 0'),
        ({"labels": {"background": 0, "a": 1, "b": 3}}, r"consecutive values.* got \[0, 1, 3\]"),
        ({"labels": {"background": 0}}, "expected a foreground label, got only background"),
        (
            {"labels": {"background": 0, "a": 1, "b": 1}},
            "one name per structure, got 'a' and 'b' for 1",
        ),
        (
            {"labels": {"background": 0, **{f"c{value}": value for value in range(1, 257)}}},
            "labels: expected at most 256, got 257",
        ),
        ({"labels": {"background": 0, "a": 2, "ignore": 1}}, 'expected "ignore" as the highest'),
        (
            {"labels": {"background": 0, "a": [1, 2], "b": 2}, "regions_class_order": [1]},
            "dataset.json: regions_class_order: expected 2 label values",
        ),
    ],
)
def test_bad_description(make_dataset: MakeDataset, changes: dict[str, Any], message: str) -> None:
    root = make_dataset()
    change_description(root, **changes)
    with pytest.raises(FileError, match=message):
        read_dataset(root)


def test_description_that_is_no_json_object(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    (root / "dataset.json").write_text("{")
    with pytest.raises(FileError, match="dataset.json: expected JSON, got"):
        read_dataset(root)
    (root / "dataset.json").write_text("[]")
    with pytest.raises(FileError, match="dataset.json: expected a JSON object, got list"):
        read_dataset(root)


def test_no_images(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    for path in (root / "imagesTr").iterdir():
        path.unlink()
    with pytest.raises(FileError, match="imagesTr: expected images CASE_0000.nii.gz, got none"):
        read_dataset(root)
    (root / "imagesTr").rmdir()
    with pytest.raises(FileError, match="imagesTr: expected images CASE_0000.nii.gz, got none"):
        read_dataset(root)


def test_stray_names_are_named_and_hidden_files_ignored(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    for name in ("c0.nii.gz", "c0_0001.nii.gz", "notes.txt", "._c0_0000.nii.gz"):
        (root / "imagesTr" / name).touch()
    with pytest.raises(FileError, match="2 problems") as error:
        read_dataset(root)
    for name in ("c0.nii.gz", "c0_0001.nii.gz"):
        assert f"below 1, got {name}" in str(error.value)


def test_upper_case_endings(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    change_description(root, file_ending=".NII.GZ")
    (root / "imagesTr/c1_0000.nii.gz").rename(root / "imagesTr/c1_0000.NII.GZ")
    (root / "labelsTr/c2.nii.gz").rename(root / "labelsTr/c2.Nii.gz")
    dataset = read_dataset(root)
    assert dataset.file_ending == ".nii.gz"
    assert list(dataset.cases) == [f"c{case}" for case in range(5)]
    assert dataset.cases["c1"].image_paths == (root / "imagesTr/c1_0000.NII.GZ",)
    assert dataset.cases["c2"].label_path == root / "labelsTr/c2.Nii.gz"
    (root / "imagesTr/c3_0000.Nii.Gz").touch()
    with pytest.raises(FileError, match="c3_0000.nii.gz: expected one file, got two"):
        read_dataset(root)


def test_files_of_other_kinds_are_left_out(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    for name in ("Thumbs.db", "c0.json", "desktop.ini"):
        (root / "imagesTr" / name).touch()
        (root / "labelsTr" / name).touch()
    assert read_dataset(root).notes == ()
    for name in ("c5_0000.nii", "c6.png"):
        (root / "imagesTr" / name).touch()
    assert read_dataset(root).notes == (
        f"{root}/imagesTr: left out, because the file_ending of dataset.json is .nii.gz: "
        "c5_0000.nii, c6.png",
    )
    change_description(root, file_ending=".png")
    (root / "imagesTr/c6.png").unlink()
    with pytest.raises(FileError, match="png, got 6 with another ending, such as c0_0000"):
        read_dataset(root)


def test_one_file_with_all_channels(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    change_description(root, channel_names={"0": "T1", "1": "T2"})
    assert [c.image_paths for c in read_dataset(root).cases.values()] == [
        (root / f"imagesTr/c{case}_0000.nii.gz",) for case in range(5)
    ]
    (root / "imagesTr/c0_0001.nii.gz").touch()
    cases = read_dataset(root).cases
    assert [len(case.image_paths) for case in cases.values()] == [2] * 5


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"1": "b", "0": "a"}, ("a", "b")),
        ({"10": "c", "9": "b"}, ("b", "c")),
        ({"T2": "b", "T1": "a"}, ("b", "a")),
    ],
)
def test_order_of_channel_names(
    make_dataset: MakeDataset, names: dict[str, str], expected: tuple[str, ...]
) -> None:
    root = make_dataset(channels=("x", "y"))
    change_description(root, channel_names=names)
    assert read_dataset(root).channel_names == expected


def test_files_listed_in_the_description(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As nnU-Net's `dataset` key: absolute, relative, and with variables of the environment."""
    root = make_dataset("elsewhere", num_cases=3)
    other = root.parent / "listing"
    other.mkdir()
    monkeypatch.setenv("SCANS", str(root))
    listing = {
        "a": {"images": [f"{root}/imagesTr/c0_0000.nii.gz"], "label": f"{root}/labelsTr/c0.nii.gz"},
        "b": {
            "images": ["../elsewhere/imagesTr/c1_0000.nii.gz"],
            "label": "../elsewhere/labelsTr/c1.nii.gz",
        },
        "c": {"images": ["$SCANS/imagesTr/c2_0000.nii.gz"], "label": "$SCANS/labelsTr/c2.nii.gz"},
    }
    (other / "dataset.json").write_text((root / "dataset.json").read_text())
    change_description(other, dataset=listing, numTraining=99, overwrite_image_reader_writer="X")
    cases = read_dataset(other).cases
    assert list(cases) == ["a", "b", "c"]
    for index, case in enumerate(cases.values()):
        assert case.image_paths[0].samefile(root / f"imagesTr/c{index}_0000.nii.gz")
        assert case.label_path is not None
        assert case.label_path.samefile(root / f"labelsTr/c{index}.nii.gz")
    for wrong in ({"images": "x", "label": "y"}, {"images": ["x"]}, {"label": "y"}, ["x"]):
        change_description(other, dataset={**listing, "d": wrong})
        with pytest.raises(FileError, match='dataset: d: expected {"images"'):
            read_dataset(other)
    change_description(other, dataset={})
    with pytest.raises(FileError, match="dataset: expected cases, got none"):
        read_dataset(other)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_description_with_a_byte_order_mark(make_dataset: MakeDataset, encoding: str) -> None:
    root = make_dataset(split={"train": ["c0"], "val": ["c1"], "test": ["c2"]})
    expected = read_dataset(root)
    for name in ("dataset.json", "split.json"):
        text = (root / name).read_text(encoding="utf-8")
        (root / name).write_text(text, encoding=encoding)
    assert read_dataset(root) == expected


@pytest.mark.parametrize("path", ["a\0b.nii.gz", "a\ud83d.nii.gz"])
def test_listed_paths_that_no_system_takes(make_dataset: MakeDataset, path: str) -> None:
    listing = {"c0": {"images": [path], "label": "labelsTr/c0.nii.gz"}}
    root = make_dataset()
    change_description(root, dataset=listing)
    with pytest.raises(FileError, match=r"dataset: c0: expected .* got .*a\\u"):
        read_dataset(root)


def test_all_problems_are_listed_at_once(make_dataset: MakeDataset) -> None:
    root = make_dataset(split={"train": ["c9"]})
    change_description(root, labels={"background": 0, "a": 2, "ignore": 1})
    (root / "imagesTr/stray.nii.gz").touch()
    with pytest.raises(FileError, match=f"data set {root}: 3 problems\n") as error:
        read_dataset(root)
    assert str(error.value).count("\n  - ") == 3


def test_real_data_sets(data_root: Path) -> None:
    hippocampus = read_dataset(data_root / "Dataset004_Hippocampus")
    assert hippocampus.classes.names == ("background", "anterior", "posterior")
    assert [len(case_ids) for case_ids in hippocampus.split.values()] == [150, 20, 40]
    head = read_dataset(data_root / "Dataset018_FetalHeadUltrasound")
    assert head.spatial_dims == 2
    assert [len(case_ids) for case_ids in head.split.values()] == [350, 50, 100]


def test_with_bad_names_and_split_the_other_files_are_found(make_dataset: MakeDataset) -> None:
    root = make_dataset(split={"train": ["c0", "c9"], "val": ["c1"]})
    (root / "imagesTr/stray.nii.gz").touch()
    dataset, problems = read_dataset_with_problems(root)
    assert list(dataset.cases) == [f"c{case}" for case in range(5)]
    assert len(problems) == 2
    assert f"{root / 'imagesTr/stray.nii.gz'}: expected a name" in problems[0]
    assert "split.json" in problems[1] and "c9" in problems[1]


def test_with_a_useless_split_all_cases_are_found(make_dataset: MakeDataset) -> None:
    root = make_dataset(split=["c0"])
    dataset, (problem,) = read_dataset_with_problems(root)
    assert len(dataset.cases) == 5 and set(dataset.split) == {"train", "val", "test"}
    assert problem.startswith(f"{root / 'split.json'}: expected a JSON object")


def test_without_description_nothing_is_found(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    change_description(root, labels={"background": 0})
    with pytest.raises(FileError, match="data set .*: 1 problem\\n.*labels: expected a foreground"):
        read_dataset_with_problems(root)
