"""A cache that something else has changed is noticed, and prepared again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recycleseg.data import cache
from recycleseg.data.cache import PreparedDataset, prepare_dataset
from recycleseg.data.layout import read_dataset
from recycleseg.data.preprocess import PreprocessConfig
from recycleseg.files import FileError

FILES = ("plan", "case.json", "image.npy", "label.npy", "positions.npy")


def file_of(prepared: PreparedDataset, name: str) -> Path:
    """The plan, or a file of case c1."""
    folder = prepared.entries["c1"]
    if name == "plan":
        (path,) = folder.parent.parent.glob("*/*/plan.json")
        return path
    return folder / name


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def exchange(path: Path) -> None:
    """With a sound file of another case or kind."""
    cache = path.parents[2]
    others = (p for p in cache.glob("prepared/*/image.npy") if p.parent != path.parent)
    shutil.copyfile(next(others), path)


def link_in_a_circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = (truncate, flip_bit, lengthen, empty, exchange, Path.unlink, link_in_a_circle)


def equal(one: PreparedDataset, other: PreparedDataset) -> bool:
    return one.plan == other.plan and all(
        torch.equal(one.case(case_id).image, other.case(case_id).image)
        and torch.equal(one.case(case_id).label, other.case(case_id).label)
        for case_id in one.dataset.cases
    )


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [*DAMAGES, replace_by_pipe], ids=lambda d: d.__name__)
def test_damage_is_noticed(
    make_dataset: Callable[..., Path], tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    dataset = read_dataset(make_dataset())
    whole = prepare_dataset(dataset, PreprocessConfig(), tmp_path / "whole")
    first = prepare_dataset(dataset, PreprocessConfig(), tmp_path / "cache")
    assert first.note == ""
    path = file_of(first, name)
    damage(path)
    again = prepare_dataset(dataset, PreprocessConfig(), tmp_path / "cache")
    assert equal(again, whole)
    if name not in ("plan", "case.json") or damage != Path.unlink:  # then it is not finished
        assert again.note.startswith(f"{path}: expected ")
        assert again.note.endswith("; it is made again") and "\n" not in again.note
    assert prepare_dataset(dataset, PreprocessConfig(), tmp_path / "cache").note == ""


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_the_place_of_a_file(
    make_dataset: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    dataset = read_dataset(make_dataset())
    path = file_of(prepare_dataset(dataset, PreprocessConfig(), tmp_path), name)
    path.unlink()
    path.mkdir()
    (path / "thesis.txt").write_text("precious")
    with pytest.raises(OSError) as raised:
        prepare_dataset(dataset, PreprocessConfig(), tmp_path)
    assert raised.value.filename == str(path)
    assert (path / "thesis.txt").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_read(
    make_dataset: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    dataset = read_dataset(make_dataset())
    first = prepare_dataset(dataset, PreprocessConfig(), tmp_path)
    file_of(first, name).chmod(0)
    assert prepare_dataset(dataset, PreprocessConfig(), tmp_path).note != ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match=str(tmp_path / "cache")):
        prepare_dataset(read_dataset(make_dataset()), PreprocessConfig(), tmp_path / "cache")


def test_a_file_as_the_cache(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OSError, match=str(tmp_path / "cache")):
        prepare_dataset(read_dataset(make_dataset()), PreprocessConfig(), tmp_path / "cache")


@pytest.mark.parametrize("damage", [truncate, empty, Path.unlink], ids=lambda d: d.__name__)
def test_an_array_that_changes_later(
    make_dataset: Callable[..., Path], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    prepared = prepare_dataset(read_dataset(make_dataset()), PreprocessConfig(), tmp_path)
    path = prepared.entries["c1"] / "image.npy"
    damage(path)
    with pytest.raises((FileError, OSError)) as raised:
        prepared.case("c1")
    assert str(path) in str(raised.value)


def test_sound_arrays_are_read_only_once(
    make_dataset: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = read_dataset(make_dataset())
    monkeypatch.setattr("recycleseg.data.identity._RACY_NS", 0)
    for _ in range(2):
        entries = prepare_dataset(dataset, PreprocessConfig(), tmp_path).entries

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr("recycleseg.data.identity._file_hash", refuse)
    monkeypatch.setattr(cache, "_prepare", refuse)
    assert prepare_dataset(dataset, PreprocessConfig(), tmp_path).entries == entries
