"""The cache of prepared cases: it is complete, depends on every input, and survives a stop."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recycleseg.data import cache
from recycleseg.data.cache import prepare_dataset
from recycleseg.data.layout import Dataset, read_dataset
from recycleseg.data.preprocess import PreprocessConfig, native_label, restore
from recycleseg.data.volumes import read_volume, write_volume
from recycleseg.files import FileError
from recycleseg.names import file_name

MakeDataset = Callable[..., Path]
CONFIG = PreprocessConfig()


def forbid_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*args: Any) -> None:
        raise AssertionError("the cache was not used")

    monkeypatch.setattr(cache, "_build", build)


def rewrite_image(dataset: Dataset) -> Dataset:
    path = dataset.cases["c0"].image_paths[0]
    volume = read_volume(path)
    write_volume(path, volume.array[::-1].copy(), spacing=volume.spacing, affine=volume.affine)
    return dataset


def rename_case(dataset: Dataset) -> Dataset:
    for path in (*dataset.cases["c0"].image_paths, dataset.cases["c0"].label_path):
        assert path is not None
        path.rename(path.with_name(path.name.replace("c0", "c9")))
    return read_dataset(dataset.root)


def rename_class(dataset: Dataset) -> Dataset:
    path = dataset.root / "dataset.json"
    path.write_text(path.read_text().replace("shell", "crust"))
    return read_dataset(dataset.root)


def drop_training_case(dataset: Dataset) -> Dataset:
    train = dataset.split["train"][1:]
    return replace(dataset, split={**dataset.split, "train": train})


def test_two_that_prepare_at_once_do_not_disturb_each_other(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both write every case; in two containers even the numbers of the processes may be equal."""
    dataset = read_dataset(make_dataset())
    save, written = np.save, threading.Barrier(2)

    def save_together(*arguments: Any) -> None:
        save(*arguments)
        written.wait(60)  # both have opened and filled their file of this case

    monkeypatch.setattr(np, "save", save_together)
    with ThreadPoolExecutor(2) as pool:
        work = [
            pool.submit(prepare_dataset, dataset, CONFIG, tmp_path / "cache", workers=1)
            for _ in range(2)
        ]
        first, second = (future.result() for future in work)
    assert first.folder == second.folder
    files = [path.name for path in first.folder.iterdir()]
    assert len(files) == 3 * len(dataset.cases) + 1
    assert not any(name.startswith(".part") for name in files)
    for case in (case for part in dataset.split for case in dataset.split[part]):
        assert torch.equal(first.case(case).image, second.case(case).image)


def test_prepared_cases_follow_the_split(make_dataset: MakeDataset, tmp_path: Path) -> None:
    split = {"train": ["c2", "c0"], "val": ["c1"], "test": ["c4"]}
    root = make_dataset(split=split, spacing=(1.0, 1.0, 2.0))
    (root / "imagesTr/c3_0000.nii.gz").write_bytes(b"broken, but in no part of the split")
    dataset = read_dataset(root)
    done: list[tuple[int, int]] = []
    config = PreprocessConfig(spacing=(1.0, 1.0, 1.0))
    prepared = prepare_dataset(
        dataset, config, tmp_path / "cache", progress=lambda *counts: done.append(counts)
    )
    assert done == [(case, 4) for case in range(1, 5)] * 2
    assert [case.case_id for case in prepared.cases("train")] == ["c2", "c0"]
    assert prepared.shapes == {f"c{case}": (6, 7, 10) for case in (0, 1, 2, 4)}
    assert prepared.median_shape == (6, 7, 10)
    assert prepared.spacing == (1.0, 1.0, 1.0)
    case = prepared.cases("val")[0]
    assert (case.image.shape, case.image.dtype) == ((1, 6, 7, 10), torch.float32)
    assert case.label is not None
    assert (case.label.shape, case.label.dtype) == ((6, 7, 10), torch.uint8)
    with pytest.raises(ValueError, match="split: expected one of .* got 'fold'"):
        prepared.cases("fold")


def test_arrays_are_mapped_and_changes_stay_in_memory(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    prepared = prepare_dataset(read_dataset(make_dataset()), CONFIG, tmp_path / "cache")
    stored = np.load(prepared.folder / "c0.image.npy")
    case = prepared.case("c0")
    assert torch.equal(case.image, torch.from_numpy(stored))
    case.image.zero_()
    np.testing.assert_array_equal(np.load(prepared.folder / "c0.image.npy"), stored)
    assert torch.equal(prepared.case("c0").image, torch.from_numpy(stored))


def test_second_time_nothing_is_computed(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = read_dataset(make_dataset())
    first = prepare_dataset(dataset, CONFIG, tmp_path / "cache")
    forbid_work(monkeypatch)
    second = prepare_dataset(read_dataset(dataset.root), CONFIG, tmp_path / "cache")
    assert second.plan == first.plan
    for one, two in zip(first.cases("train"), second.cases("train"), strict=True):
        assert torch.equal(one.image, two.image)
        assert one.orientation == two.orientation


@pytest.mark.parametrize(
    "change", [rewrite_image, rename_case, rename_class, drop_training_case, None]
)
def test_changed_inputs_are_prepared_again(
    make_dataset: MakeDataset,
    tmp_path: Path,
    change: Callable[[Dataset], Dataset] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = read_dataset(make_dataset())
    first = prepare_dataset(dataset, CONFIG, tmp_path / "cache")
    if change is None:
        monkeypatch.setattr(cache, "_VERSION", cache._VERSION + 1)
    changed = dataset if change is None else change(dataset)
    second = prepare_dataset(changed, CONFIG, tmp_path / "cache")
    assert second.folder != first.folder
    if change is rewrite_image:
        assert torch.equal(second.case("c0").image, first.case("c0").image.flip(1))


def touch(root: Path) -> Path:
    for path in root.rglob("*"):
        os.utime(path, ns=(0, 0))
    return root


def describe(root: Path) -> Path:
    path = root / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "licence": "CC0"}, indent=4))
    return root


def move(root: Path) -> Path:
    return root.rename(root.with_name("Dataset007_Moved"))


def copy_to_names_in_brackets(root: Path) -> Path:
    copied: Path = shutil.copytree(root, root.parent / "[1] other/data")
    shutil.rmtree(root)
    return copied


@pytest.mark.parametrize("change", [touch, describe, move, copy_to_names_in_brackets])
def test_the_same_contents_are_prepared_once(
    make_dataset: MakeDataset,
    tmp_path: Path,
    change: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = prepare_dataset(read_dataset(make_dataset()), CONFIG, tmp_path / "cache")
    forbid_work(monkeypatch)
    dataset = read_dataset(change(first.dataset.root))
    second = prepare_dataset(dataset, CONFIG, tmp_path / "cache")
    assert second.folder == first.folder and second.contents == first.contents
    assert torch.equal(second.case("c0").image, first.case("c0").image)


def test_corrected_labels_of_the_same_size_and_time_are_seen(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    dataset = read_dataset(make_dataset(shape=(12, 10)))
    path = dataset.cases["c0"].label_path
    assert path is not None

    def write(values: tuple[int, int]) -> None:
        label = np.zeros((12, 10), np.uint8)
        label[2:4], label[6:8] = values
        write_volume(path, label, spacing=(1.0, 1.0))
        path.write_bytes(path.read_bytes().ljust(200, b"\0"))  # readers ignore what follows
        os.utime(path, (315532800, 315532800))

    write((1, 2))
    before = path.stat()
    prepare_dataset(dataset, CONFIG, tmp_path / "cache")
    write((2, 1))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    label = prepare_dataset(dataset, CONFIG, tmp_path / "cache").case("c0").label
    assert label is not None
    np.testing.assert_array_equal(label.numpy(), read_volume(path).array)


@pytest.mark.parametrize("name", ["Dataset004_Hippocampus", "Two words", "a/b", ".."])
def test_folder_has_the_name_of_the_data_set(
    make_dataset: MakeDataset, tmp_path: Path, name: str
) -> None:
    dataset = replace(read_dataset(make_dataset()), name=name)
    prepared = prepare_dataset(dataset, CONFIG, tmp_path / "cache")
    (found,) = (tmp_path / "cache").glob(f"{file_name(name.lower())}-*/*/plan.json")
    assert found.parent == prepared.folder
    shapes = {
        case_id: case["shape"] for case_id, case in json.loads(found.read_text())["cases"].items()
    }
    assert shapes == {case_id: [6, 7, 5] for case_id in dataset.cases}


def test_files_that_change_while_they_are_prepared_are_named(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = read_dataset(make_dataset())

    def prepare_and_change(*args: Any) -> Any:
        made = prepare(*args)
        if args[0].case_id == "c2":
            rewrite_image(dataset)
        return made

    prepare = cache._prepare
    monkeypatch.setattr(cache, "_prepare", prepare_and_change)
    with pytest.raises(FileError, match="stay the same while .*, got a change of image of c0"):
        prepare_dataset(dataset, CONFIG, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("plan.json"))


def test_configurations_live_side_by_side(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = read_dataset(make_dataset())
    configs = [CONFIG, PreprocessConfig(shape=(4, 4, 4)), PreprocessConfig(intensity="zscore")]
    folders = [prepare_dataset(dataset, config, tmp_path / "cache").folder for config in configs]
    assert len(set(folders)) == 3
    forbid_work(monkeypatch)
    again = [prepare_dataset(dataset, config, tmp_path / "cache").folder for config in configs]
    assert again == folders


def test_interrupted_preparation_is_done_again(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = read_dataset(make_dataset())
    whole = prepare_dataset(dataset, CONFIG, tmp_path / "whole")

    def save_some(path: Path, array: torch.Tensor) -> None:
        if path.name.startswith("c3"):
            path.with_name(f"{path.name}.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        save(path, array)

    save = cache._save_array
    monkeypatch.setattr(cache, "_save_array", save_some)
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(dataset, CONFIG, tmp_path / "cache")
    monkeypatch.undo()
    again = prepare_dataset(dataset, CONFIG, tmp_path / "cache")
    for case_id in dataset.cases:
        assert torch.equal(again.case(case_id).image, whole.case(case_id).image)


def test_bad_data_leaves_no_cache(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = read_dataset(make_dataset())
    for case_id in ("c1", "c3"):
        path = dataset.cases[case_id].image_paths[0]
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FileError, match="2 problems"):
        prepare_dataset(dataset, CONFIG, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_plan_file_is_plain_json(make_dataset: MakeDataset, tmp_path: Path) -> None:
    prepared = prepare_dataset(read_dataset(make_dataset()), CONFIG, tmp_path / "cache")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads((prepared.folder / "plan.json").read_text(), parse_constant=refuse)
    assert set(content) == {"plan", "cases", "hash"}
    assert not list(prepared.folder.glob("*.tmp"))


@pytest.mark.parametrize(
    ("name", "config", "agreement"),
    [
        # All voxels are 1 mm, so nothing is resampled.
        ("Dataset004_Hippocampus", PreprocessConfig(), 1.0),
        # About a third of the resolution along each axis.
        ("Dataset018_FetalHeadUltrasound", PreprocessConfig(shape=(96, 128)), 0.995),
    ],
)
def test_real_labels_survive_the_way_there_and_back(
    data_root: Path, tmp_path: Path, name: str, config: PreprocessConfig, agreement: float
) -> None:
    dataset = read_dataset(data_root / name)
    few = {case_id: dataset.cases[case_id] for case_id in dataset.split["test"][:6]}
    dataset = replace(dataset, cases=few, split={"train": tuple(few), "val": (), "test": ()})
    prepared = prepare_dataset(dataset, config, tmp_path)
    for case in prepared.cases("train"):
        assert case.label is not None
        probs = F.one_hot(case.label.long(), len(dataset.classes)).movedim(-1, 0)
        found = restore(probs, case).argmax(dim=0)
        assert (found == native_label(case)).float().mean() >= agreement
