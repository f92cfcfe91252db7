"""Finding cases in files, folders and data sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recycleseg.data.inputs import find_cases, find_split_cases
from recycleseg.data.layout import read_dataset
from recycleseg.data.splits import SplitRule
from recycleseg.files import FileError

ONE, TWO = ("MRI",), ("T1", "T2")


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def found(
    source: Path | list[Path], channels: tuple[str, ...] = ONE, dims: int = 3
) -> dict[str, list[str]]:
    sources = source if isinstance(source, list) else [source]
    cases = find_cases(sources, channels, dims)
    return {case.case_id: [path.name for path in case.image_paths] for case in cases}


def problem(source: Path | list[Path], channels: tuple[str, ...] = ONE, dims: int = 3) -> str:
    with pytest.raises(FileError) as error:
        found(source, channels, dims)
    return str(error.value)


def test_folder_with_and_without_channel_number(tmp_path: Path) -> None:
    folder = touch(tmp_path, "b_0000.nii.gz", "a.nii", "c.nii.gz", ".hidden.nii", "notes.txt")
    touch(folder, "preview.png")
    assert found(folder) == {"a": ["a.nii"], "b": ["b_0000.nii.gz"], "c": ["c.nii.gz"]}
    assert found(folder, dims=2) == {"preview": ["preview.png"]}


def test_numbers_that_are_no_channels_belong_to_the_name(tmp_path: Path) -> None:
    folder = touch(tmp_path, "amos_0001.nii.gz", "amos_0004.nii.gz", "scan_00000.nii.gz")
    assert list(found(folder)) == ["amos_0001", "amos_0004", "scan_00000"]
    touch(folder, "amos_0000.nii.gz")
    assert problem(folder).splitlines() == [
        "input: 2 problems",
        f"  - {folder}/amos_0001.nii.gz: expected one channel, MRI, got number 1 of a case",
        f"  - {folder}/amos_0004.nii.gz: expected one channel, MRI, got number 4 of a case",
    ]


def test_one_file_names_all_channels(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a_0000.nii", "a_0001.nii", "b_0000.nii", "b_0001.nii")
    both = {"a": ["a_0000.nii", "a_0001.nii"]}
    assert found(folder / "a_0000.nii", TWO) == both
    assert found(folder / "a_0001.nii", TWO) == both
    assert found([folder / "a_0000.nii", folder / "a_0001.nii"], TWO) == both
    assert list(found(folder, TWO)) == ["a", "b"]
    assert found(folder / "b_0000.nii", ONE) == {"b": ["b_0000.nii"]}


def test_files_and_folders_together(tmp_path: Path) -> None:
    folder = touch(tmp_path / "more", "a.nii.gz", "b.nii.gz")
    touch(tmp_path, "c.nii.gz")
    assert list(found([tmp_path / "c.nii.gz", folder, folder / "a.nii.gz"])) == ["a", "b", "c"]


def test_all_missing_channels_are_listed_at_once(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a_0000.nii", "b_0001.nii", "c_0000.nii", "c_0001.nii")
    assert problem(folder, TWO).splitlines() == [
        "input: 2 problems",
        f"  - {folder}/a_0001.nii: expected channel 1 of case a, got a path that does not exist",
        f"  - {folder}/b_0000.nii: expected channel 0 of case b, got a path that does not exist",
    ]


@pytest.mark.parametrize(
    ("names", "channels"),
    [
        (("x.nii", "x.nii.gz"), ONE),
        (("x.nii", "x_0000.nii"), ONE),
        (("x_0000.nii", "x_0000.nii.gz", "x_0001.nii"), TWO),
    ],
)
def test_two_files_for_one_case(
    tmp_path: Path, names: tuple[str, ...], channels: tuple[str, ...]
) -> None:
    said = problem(touch(tmp_path, *names), channels)
    assert (
        said
        == f"{tmp_path / names[0]}, {tmp_path / names[1]}: expected one file for case x, got two"
    )


def test_upper_case_endings(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a.nii.gz", "B.NII.GZ", "c.Nii.gz", "d_0000.NII")
    assert found(folder) == {
        "B": ["B.NII.GZ"],
        "a": ["a.nii.gz"],
        "c": ["c.Nii.gz"],
        "d": ["d_0000.NII"],
    }
    assert found(folder / "B.NII.GZ") == {"B": ["B.NII.GZ"]}
    touch(folder, "d_0001.NII")
    both = {"d": ["d_0000.NII", "d_0001.NII"]}
    assert found(folder / "d_0001.NII", TWO) == both
    said = problem(touch(tmp_path / "two", "a.nii", "a.NII"))
    assert "expected one file for case a, got two" in said


def test_one_file_with_all_channels(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a_0000.nii", "b.nii")
    assert found(folder, TWO) == {"a": ["a_0000.nii"], "b": ["b.nii"]}
    assert found(folder / "b.nii", TWO) == {"b": ["b.nii"]}


def test_names_without_a_channel_of_the_run(tmp_path: Path) -> None:
    folder = touch(tmp_path, "x.nii", "y_0002.nii")
    expected = "expected a name CASE_0000.nii to CASE_0001.nii for the channels T1, T2, got"
    assert problem(folder, TWO).splitlines()[1:] == [
        f"  - {folder}/x.nii: {expected} x.nii",
        f"  - {folder}/y_0002.nii: {expected} y_0002.nii",
    ]


def test_nothing_to_predict(tmp_path: Path) -> None:
    empty = touch(tmp_path / "empty")
    volumes = ".nii.gz, .nii, .tif, .tiff, .mha, .mhd, .nrrd, .gipl, .dcm"
    assert problem(empty) == f"{empty}: expected images ending in {volumes}, got an empty folder"
    texts = touch(tmp_path / "texts", "a.txt", "b.txt")
    assert problem(texts, dims=2) == (
        f"{texts}: expected images ending in .png, .bmp, .tif, .tiff, "
        "got 2 other files such as a.txt"
    )
    assert problem(tmp_path / "x.nii") == (
        f"{tmp_path}/x.nii: expected a file or folder, got a path that does not exist"
    )
    assert problem(texts / "a.txt") == (
        f"{texts}/a.txt: expected a folder or a file ending in {volumes}"
    )


def test_a_data_set_needs_a_split(make_dataset: Callable[..., Path]) -> None:
    root = make_dataset()
    assert problem(root).startswith(f"{root}: expected a folder of images, got a data set")
    assert list(found(root / "imagesTr")) == [f"c{case}" for case in range(5)]


def test_split_of_a_data_set(make_dataset: Callable[..., Path]) -> None:
    root = make_dataset(split={"train": ["c0", "c1"], "test": ["c4", "c3"]})
    cases = find_split_cases(root, "test", ONE, 3)
    assert [case.case_id for case in cases] == ["c3", "c4"]
    assert cases[0].image_paths == (root / "imagesTr/c3_0000.nii.gz",)
    assert len(find_split_cases(root, "all", ONE, 3)) == 4
    with pytest.raises(FileError, match="expected cases in the val split, got none"):
        find_split_cases(root, "val", ONE, 3)
    with pytest.raises(FileError, match="expected images with 2 channels, got 1"):
        find_split_cases(root, "test", TWO, 3)
    with pytest.raises(FileError, match="expected images with 2 axes, got 3"):
        find_split_cases(root, "test", ONE, 2)
    (root / "imagesTr/c3_0000.nii.gz").unlink()
    (root / "imagesTr/c4_0000.nii.gz").unlink()
    split = {"train": ["c0", "c1"], "test": ["c4", "c3"]}
    (root / "split.json").write_text(json.dumps(split))
    with pytest.raises(FileError, match="2 problems\n  - .*c3_0000.nii.gz: expected channel 0"):
        find_split_cases(root, "test", ONE, 3)


def test_split_that_the_training_drew(make_dataset: Callable[..., Path]) -> None:
    root = make_dataset(num_cases=9)
    for seed in (0, 1, 2):
        for rule, part in ((SplitRule(seed=seed), "test"), (SplitRule(fold=2, seed=seed), "val")):
            cases = find_split_cases(root, part, ONE, 3, rule)
            assert tuple(case.case_id for case in cases) == read_dataset(root, rule).split[part]


def test_a_case_in_two_parts_is_predicted_once(make_dataset: Callable[..., Path]) -> None:
    root = make_dataset(split={"train": ["c0", "c1"], "val": ["c0"]})
    assert [case.case_id for case in find_split_cases(root, "all", ONE, 3)] == ["c0", "c1"]
