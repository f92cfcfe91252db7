"""split.json and nnU-Net's splits_final.json: what is read, what is refused, what is written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from recycleseg.data.split_files import (
    FOLDS_FILE,
    SPLIT_FILE,
    read_given_split,
    read_groups,
    write_folds,
    write_split,
)
from recycleseg.files import FileError

CASES = tuple(f"c{case}" for case in range(6))
FOLDS = [{"train": ["c1", "c0"], "val": ["c2"]}, {"train": ["c2"], "val": ["c0", "c1"]}]


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_no_files(tmp_path: Path) -> None:
    given = read_given_split(tmp_path, CASES)
    assert (given.parts, given.groups, given.folds, given.cases) == ({}, None, (), set())
    assert read_groups(tmp_path) is None


def test_both_files_keep_their_order(tmp_path: Path) -> None:
    write(tmp_path / SPLIT_FILE, {"test": ["c5", "c4"], "groups": {"c1": "p", "c2": 7}})
    write(tmp_path / FOLDS_FILE, FOLDS)
    given = read_given_split(tmp_path, CASES)
    assert given.parts == {"test": ("c5", "c4")}
    assert given.groups == read_groups(tmp_path) == {"c1": "p", "c2": "7"}
    assert given.folds[0] == {"train": ("c1", "c0"), "val": ("c2",)}
    assert given.cases == {"c0", "c1", "c2", "c4", "c5"}


def test_a_file_elsewhere_comes_first(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / SPLIT_FILE, {"train": ["c0"], "test": ["c5"]})
    write(tmp_path / FOLDS_FILE, FOLDS[:1])
    folds = write(tmp_path / "elsewhere" / FOLDS_FILE, FOLDS)
    given = read_given_split(tmp_path, CASES, folds)
    assert given.parts == {"test": ("c5",)}  # still held out
    assert (len(given.folds), given.folds_name) == (2, str(folds))
    parts = write(tmp_path / "elsewhere" / "mine.json", {"train": ["c3"]})
    given = read_given_split(tmp_path, CASES, parts)
    assert (given.parts, given.folds, given.name) == ({"train": ("c3",)}, (), str(parts))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"train": ["c0", "c9"]}, "split.json: expected cases of imagesTr, got unknown ['c9']"),
        ({"train": ["c0", "c1", "c0"]}, "expected every case once under train, got c0 twice"),
        ({"train": [], "test": ["c1"]}, "at least one case under train, got none"),
        ({"val": ["c1"]}, "at least one case under train, got none"),
        ({"fold_0": ["c1"]}, "under ('train', 'val', 'test') and groups, got ['fold_0']"),
        (FOLDS, "expected a JSON object, got list"),
        ({"train": "c0"}, "expected lists of case names"),
        ({"train": [["c0"]]}, "expected lists of case names"),
        ({"groups": ["c0"]}, 'groups: expected case -> patient, got ["c0"]'),
        ({"groups": {"c0": ""}}, 'groups: expected case -> patient, got {"c0": ""}'),
    ],
)
def test_bad_split(tmp_path: Path, split: Any, message: str) -> None:
    write(tmp_path / SPLIT_FILE, split)
    with pytest.raises(FileError, match=re.escape(message)):
        read_given_split(tmp_path, CASES)


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ({"train": ["c0"]}, "splits_final.json: expected nnU-Net's folds"),
        ([], "splits_final.json: expected nnU-Net's folds"),
        ([{"train": ["c0"]}], 'expected nnU-Net\'s folds [{"train": [...], "val": [...]}, ...]'),
        ([{"train": ["c0"], "val": "c1"}], "expected nnU-Net's folds"),
        ([*FOLDS, {"train": ["x"], "val": []}], "fold 2: expected cases of imagesTr, got unknown"),
        ([{"train": [], "val": ["c0"]}], "fold 0: expected at least one case under train"),
    ],
)
def test_bad_folds(tmp_path: Path, folds: Any, message: str) -> None:
    write(tmp_path / FOLDS_FILE, folds)
    with pytest.raises(FileError, match=re.escape(message)):
        read_given_split(tmp_path, CASES)


def test_bad_file_elsewhere_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    with pytest.raises(FileError, match=f"{path}: expected JSON, got: .*No such file"):
        read_given_split(tmp_path, CASES, path)
    write(path, "train")
    with pytest.raises(FileError, match=f"{path}: expected nnU-Net's folds"):
        read_given_split(tmp_path, CASES, path)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    folds = [{name: tuple(cases) for name, cases in fold.items()} for fold in FOLDS]
    write_folds(tmp_path, folds, ["c5"], {"c0": "p"})
    given = read_given_split(tmp_path, CASES)
    assert (given.parts, given.groups) == ({"test": ("c5",)}, {"c0": "p"})
    assert given.folds == tuple(folds)
    assert json.loads((tmp_path / FOLDS_FILE).read_text()) == FOLDS  # as nnU-Net reads it
    parts = {"train": ("c1",), "val": (), "test": ("c0",)}
    write_split(tmp_path, parts, None)
    given = read_given_split(tmp_path, CASES)
    assert (given.parts, given.groups, given.folds) == (parts, None, ())
    write_folds(tmp_path, folds, [], None)
    assert not (tmp_path / SPLIT_FILE).exists() and (tmp_path / FOLDS_FILE).exists()


def test_files_of_an_earlier_split_are_kept(tmp_path: Path) -> None:
    """They may be nnU-Net's, or made by hand."""
    (tmp_path / FOLDS_FILE).write_text("nnU-Net's")
    (tmp_path / SPLIT_FILE).write_text("by hand")
    parts = {"train": ("c1",), "val": (), "test": ("c0",)}
    kept = write_split(tmp_path, parts, None)
    assert [path.name for path in kept] == ["split-before-1.json", "splits_final-before-1.json"]
    assert [path.read_text() for path in kept] == ["by hand", "nnU-Net's"]
    assert not (tmp_path / FOLDS_FILE).exists()
    (again,) = write_folds(tmp_path, FOLDS, [], None)
    assert again.name == "split-before-2.json"
    assert json.loads(again.read_text())["test"] == ["c0"]
    assert read_given_split(tmp_path, CASES).parts == {}
