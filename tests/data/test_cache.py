"""The cache of prepared cases: it is complete, depends on every input, and survives a stop."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recycleseg.data import cache, cache_files, cached_facts
from recycleseg.data.cache import prepare_dataset
from recycleseg.data.cache_files import CacheFiles, read_facts, size_of, write_facts
from recycleseg.data.check import inspect_dataset
from recycleseg.data.layout import Case, Dataset, read_dataset
from recycleseg.data.positions import find_positions
from recycleseg.data.preprocess import PreprocessConfig, native_label, restore
from recycleseg.data.volumes import read_volume, write_volume
from recycleseg.files import FileError

MakeDataset = Callable[..., Path]
CONFIG = PreprocessConfig()


def forbid_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*args: Any) -> None:
        raise AssertionError("the cache was not used")

    monkeypatch.setattr(cache, "_prepare", build)
    monkeypatch.setattr(cached_facts, "read_case", build)


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
    save, written = cache_files._save_array, threading.Barrier(2)

    def save_together(*arguments: Any) -> None:
        written.wait(60)  # both are at this array of this case
        save(*arguments)

    monkeypatch.setattr(cache_files, "_save_array", save_together)
    with ThreadPoolExecutor(2) as pool:
        work = [
            pool.submit(prepare_dataset, dataset, CONFIG, tmp_path / "cache", workers=1)
            for _ in range(2)
        ]
        first, second = (future.result() for future in work)
    assert first.entries == second.entries
    names = {path.name for folder in first.entries.values() for path in folder.iterdir()}
    assert names == {"image.npy", "label.npy", "positions.npy", "case.json"}
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


def test_cases_are_read_when_they_are_asked_for(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare_dataset(read_dataset(make_dataset()), CONFIG, tmp_path / "cache")
    read: list[str] = []
    whole = cache.Blocks.whole

    def noted(blocks: cache.Blocks) -> torch.Tensor:
        read.append(blocks.path.name)
        return whole(blocks)

    monkeypatch.setattr(cache.Blocks, "whole", noted)
    cases, training = prepared.cases("train"), prepared.training_cases()
    assert len(cases) == len(training) and read == []
    for case, blocks in zip(cases, training, strict=True):
        assert isinstance(blocks.image, cache.Blocks) and isinstance(blocks.label, cache.Blocks)
        assert torch.equal(whole(blocks.image), case.image)
        assert case.label is not None and torch.equal(whole(blocks.label), case.label)
        expected = find_positions(case.label, case.classes, 3)
        assert torch.equal(blocks.positions.flat, expected.flat)
        assert blocks.positions.foreground == expected.foreground
    assert read == ["image.npy", "label.npy"] * len(cases)


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
    ("change", "anew"),
    [
        (rewrite_image, {"c0"}),
        (rename_case, set()),
        (rename_class, {"c0", "c1", "c2", "c3", "c4"}),
        (drop_training_case, set()),
        (None, {"c0", "c1", "c2", "c3", "c4"}),
    ],
)
def test_what_a_change_concerns_is_prepared_again(
    make_dataset: MakeDataset,
    tmp_path: Path,
    change: Callable[[Dataset], Dataset] | None,
    anew: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = read_dataset(make_dataset())
    first = prepare_dataset(dataset, CONFIG, tmp_path / "cache")
    if change is None:
        monkeypatch.setattr(cache, "_VERSION", cache._VERSION + 1)
    changed = dataset if change is None else change(dataset)
    prepared = count_prepared(monkeypatch)
    second = prepare_dataset(changed, CONFIG, tmp_path / "cache")
    assert set(prepared) == anew
    if change is rewrite_image:
        assert torch.equal(second.case("c0").image, first.case("c0").image.flip(1))
    if change is rename_case:
        assert second.entries["c9"] == first.entries["c0"]


def count_prepared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cases that are prepared from now on."""
    prepare, prepared = cache._prepare, []

    def counted(case: Case, *others: Any) -> Any:
        prepared.append(case.case_id)
        return prepare(case, *others)

    monkeypatch.setattr(cache, "_prepare", counted)
    return prepared


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
    assert second.entries == first.entries and second.contents == first.contents
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
def test_plans_know_the_name_of_the_data_set(
    make_dataset: MakeDataset, tmp_path: Path, name: str
) -> None:
    dataset = replace(read_dataset(make_dataset()), name=name)
    prepared = prepare_dataset(dataset, CONFIG, tmp_path / "cache")
    (plan,) = CacheFiles(tmp_path / "cache").plans()
    assert plan.name == name
    assert set(plan.entries) == set(prepared.entries.values())
    folders = {path.name for path in tmp_path.iterdir()}
    assert folders == {"cache", dataset.root.name}


def test_files_that_change_while_they_are_prepared_are_named(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = read_dataset(make_dataset())

    def prepare_and_change(*args: Any) -> Any:
        made = prepare(*args)
        if args[0].case_id == "c0":
            rewrite_image(dataset)
        return made

    prepare = cache._prepare
    monkeypatch.setattr(cache, "_prepare", prepare_and_change)
    with pytest.raises(FileError, match="stay the same while .*, got a change of image of c0"):
        prepare_dataset(dataset, CONFIG, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/*/plan.json"))
    assert len(list((tmp_path / "cache").glob("prepared/*/case.json"))) == 4


def test_configurations_live_side_by_side(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = read_dataset(make_dataset())
    configs = [CONFIG, PreprocessConfig(shape=(4, 4, 4)), PreprocessConfig(intensity="zscore")]
    entries = [prepare_dataset(dataset, config, tmp_path / "cache").entries for config in configs]
    assert len({folder for of_config in entries for folder in of_config.values()}) == 15
    forbid_work(monkeypatch)
    again = [prepare_dataset(dataset, config, tmp_path / "cache").entries for config in configs]
    assert again == entries


def test_what_was_finished_before_an_interruption_stays(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = read_dataset(make_dataset())
    whole = prepare_dataset(dataset, CONFIG, tmp_path / "whole")
    folder = whole.entries["c3"].name

    def save_some(path: Path, array: torch.Tensor) -> None:
        if path.parent.name == folder and path.name == "label.npy":
            path.with_name(f".part-1-{path.name}").write_bytes(b"half")
            raise KeyboardInterrupt
        save(path, array)

    save = cache_files._save_array
    with monkeypatch.context() as patch:
        patch.setattr(cache_files, "_save_array", save_some)
        with pytest.raises(KeyboardInterrupt):
            prepare_dataset(dataset, CONFIG, tmp_path / "cache", workers=1)
    prepared = count_prepared(monkeypatch)
    monkeypatch.setattr(cached_facts, "read_case", None)  # all facts are known
    again = prepare_dataset(dataset, CONFIG, tmp_path / "cache", workers=1)
    assert set(prepared) - {"c4"} == {"c3"}  # c4 may have begun before the interruption
    for case_id in dataset.cases:
        assert torch.equal(again.case(case_id).image, whole.case(case_id).image)
    CacheFiles(tmp_path / "cache").clear()
    assert not list((tmp_path / "cache/prepared").iterdir())


def test_bad_data_prepares_nothing(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = read_dataset(make_dataset())
    for case_id in ("c1", "c3"):
        path = dataset.cases[case_id].image_paths[0]
        path.write_bytes(path.read_bytes()[:-20])
    for _ in range(2):
        with pytest.raises(FileError, match="2 problems"):
            prepare_dataset(dataset, CONFIG, tmp_path / "cache")
    assert {path.name for path in (tmp_path / "cache").iterdir()} <= {"facts", "sha256.json"}


def test_files_are_plain_json(make_dataset: MakeDataset, tmp_path: Path) -> None:
    prepared = prepare_dataset(read_dataset(make_dataset()), CONFIG, tmp_path / "cache")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    (path,) = (tmp_path / "cache").glob("*/*/plan.json")
    content = json.loads(path.read_text(), parse_constant=refuse)
    assert set(content) == {"dataset", "plan", "cases", "entries", "hash"}
    for folder in prepared.entries.values():
        record = json.loads((folder / "case.json").read_text(), parse_constant=refuse)
        assert set(record["arrays"]) == {"image", "label", "positions"}


def test_facts_survive_their_file(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = read_dataset(make_dataset(spacing=(1.0, 1.0, 2.0)))
    for case_id, facts in inspect_dataset(dataset).items():
        path = tmp_path / f"{case_id}.npz"
        assert read_facts(path) is None
        write_facts(path, facts)
        again = read_facts(path)
        assert again is not None
        for field in fields(facts):
            value, stored = getattr(facts, field.name), getattr(again, field.name)
            np.testing.assert_array_equal(stored, value)
            assert type(stored) is type(value)
        path.write_bytes(path.read_bytes()[:-30])
        assert read_facts(path) is None


def test_unused_entries_are_deleted(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = read_dataset(make_dataset())
    first = prepare_dataset(dataset, CONFIG, tmp_path / "cache")
    second = prepare_dataset(dataset, PreprocessConfig(intensity="zscore"), tmp_path / "cache")
    files = CacheFiles(tmp_path / "cache")
    old, new = sorted(files.plans(), key=lambda plan: plan.used)
    assert (set(old.entries), set(new.entries)) == (
        set(first.entries.values()),
        set(second.entries.values()),
    )
    (old.entries[0] / "notes.txt").write_text("not ours")
    long_ago = time.time() - 3600
    for path in (old.path, *old.entries, *(tmp_path / "cache/facts").iterdir()):
        os.utime(path, (long_ago, long_ago))
    freed = size_of(old.entries) + old.path.stat().st_size
    freed += sum(path.stat().st_size for path in (tmp_path / "cache/facts").iterdir())
    assert files.clear(older_than=1800) == freed
    assert [plan.path for plan in files.plans()] == [new.path]
    assert [path.name for path in old.entries[0].iterdir()] == ["notes.txt"]
    assert not any(entry.exists() for entry in old.entries[1:])
    assert torch.equal(second.case("c0").image, second.case("c0").image)


def test_the_size_of_much_is_told_and_of_too_much_refused(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = read_dataset(make_dataset())
    told: list[str] = []
    monkeypatch.setattr(cache, "_GIB", 1000)
    prepare_dataset(dataset, CONFIG, tmp_path / "a", announce=told.append)
    # 5 cases of 6 x 7 x 5 voxels with 4 bytes for the image and 1 for the label.
    assert told == [f"5 cases take about {5 * 210 * 5 / 1000:.1f} GiB in {tmp_path}/a"]
    free = SimpleNamespace(free=2000)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: free)
    with pytest.raises(FileError, match=r"expected room for 5 .* about 5\.\d GiB, got 2\.0 GiB"):
        prepare_dataset(dataset, CONFIG, tmp_path / "b")


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
