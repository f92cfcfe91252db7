"""Prepared cases on disk: preprocessing runs again only if a content or a setting changes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recycleseg.data.check import inspect_dataset
from recycleseg.data.geometry import Orientation
from recycleseg.data.identity import (
    ContentMemo,
    Contents,
    case_contents,
    changed_contents,
    content_hash,
)
from recycleseg.data.layout import Case, Dataset, dataset_error
from recycleseg.data.positions import Positions, find_positions
from recycleseg.data.preprocess import (
    Plan,
    PreparedCase,
    PreprocessConfig,
    make_plan,
    preprocess_image,
    preprocess_label,
)
from recycleseg.data.upright import UprightGrid
from recycleseg.data.volumes import read_image, read_label
from recycleseg.files import FileError, as_json, read_json_object, write_json, written_whole
from recycleseg.names import file_name
from recycleseg.progress import Progress, followed

# Raise it with every change of the code that gives other arrays for the same files.
_VERSION = 8


@dataclass(frozen=True)
class PreparedDataset:
    """A preprocessed data set; arrays are mapped from disk, so it may be larger than the memory.

    Attributes:
        dataset: the files that it was made from.
        plan: how to prepare other images in the same way.
        folder: where the arrays are.
        contents: case_id -> "image" and "label" -> hash of the files that it was made from.
        records: case_id -> what the arrays alone do not tell (spacing, orientation, ...).
        note: what the user should know about the cache, in one line; or nothing.
    """

    dataset: Dataset
    plan: Plan
    folder: Path
    contents: Contents
    records: Mapping[str, Mapping[str, Any]]
    note: str = ""

    @property
    def spacing(self) -> tuple[float, ...]:
        """Median prepared voxel size of the training cases in `plan.unit`."""
        return tuple(np.median(self._of_training("spacing"), axis=0).tolist())

    @property
    def num_screen_sizes(self) -> int:
        """How many cases give the resolution of a screen (see `Volume`)."""
        return sum(record["screen_size"] for record in self.records.values())

    @property
    def median_shape(self) -> tuple[int, ...]:
        """Median prepared shape of the training cases, rounded."""
        return tuple(int(size) for size in np.median(self._of_training("shape"), axis=0).round())

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Prepared spatial shape of every case."""
        return {case_id: tuple(record["shape"]) for case_id, record in self.records.items()}

    def cases(self, split: str) -> list[PreparedCase]:
        """The cases of "train", "val" or "test", in the order of the split.

        Raises:
            ValueError: no part of the split has this name.
        """
        if split not in self.dataset.split:
            raise ValueError(f"split: expected one of {list(self.dataset.split)}, got {split!r}")
        return [self.case(case_id) for case_id in self.dataset.split[split]]

    def case(self, case_id: str) -> PreparedCase:
        """The case with this id."""
        record = self.records[case_id]
        return PreparedCase(
            case_id=case_id,
            image=_map_array(_array_path(self.folder, case_id, "image")),
            label=_map_array(_array_path(self.folder, case_id, "label")),
            spacing=record["spacing"] and tuple(record["spacing"]),
            native_shape=tuple(record["native_shape"]),
            orientation=Orientation(tuple(record["flipped"]), tuple(record["permutation"])),
            label_path=self.dataset.cases[case_id].label_path,
            classes=self.plan.classes,
            upright=record["upright"] and UprightGrid.from_dict(record["upright"]),
            positions=Positions(
                _map_array(_array_path(self.folder, case_id, "positions")),
                tuple(record["foreground"]),
                record["known"],
            ),
        )

    def _of_training(self, key: str) -> np.ndarray[Any, Any]:
        return np.array([self.records[case_id][key] for case_id in self.dataset.split["train"]])


def read_contents(
    dataset: Dataset,
    cache_dir: Path | str,
    *,
    workers: int = 2,
    progress: Progress | None = None,
) -> Contents:
    """The hashes of all files of a data set, which are read only if the cache does not know them.

    Args:
        dataset: the data set.
        cache_dir: the folder of all caches.
        workers: how many files to read at the same time.
        progress: called with the number of files read and to read, if there is one to read.
    """
    with ContentMemo(Path(cache_dir)) as memo:
        cases = dataset.cases.values()
        return case_contents(cases, memo, workers=workers, progress=progress)


def prepare_dataset(
    dataset: Dataset,
    config: PreprocessConfig,
    cache_dir: Path | str,
    *,
    contents: Contents | None = None,
    workers: int = 2,
    progress: Progress | None = None,
) -> PreparedDataset:
    """Check and preprocess a data set, or find it in the cache.

    The result is in CACHE_DIR/NAME-FILES/SETTINGS. FILES is a hash of the names of the cases and
    the contents of their files, so copies of a data set share what is prepared, whatever the name
    and place of their folders. SETTINGS is a hash of channels, classes, training cases,
    configuration and the version of the code. A file gets its name only when it is complete, and
    `plan.json` comes last. It has the hashes of all arrays and of itself. A folder without it, or
    with a file that is not what was written there, is prepared again. Images are float32, so a case
    from the cache equals the same image prepared for inference bit for bit.

    Args:
        dataset: the data set.
        config: settings of preprocessing.
        cache_dir: the folder of all caches.
        contents: what `read_contents` gave; None calls it.
        workers: how many cases to check or prepare at the same time.
        progress: called with the number of cases done and of all cases; all cases count twice,
            first while they are checked, then while they are prepared.

    Raises:
        FileError: see `inspect_dataset`; or a file changed while it was prepared.
    """
    cache_dir = Path(cache_dir)
    if contents is None:
        contents = read_contents(dataset, cache_dir, workers=workers)
    folder = _set_folder(cache_dir, dataset.name, contents) / _settings_key(dataset, config)
    plan_path, content, note = folder / "plan.json", None, ""
    if os.path.lexists(plan_path):
        try:
            content = _read_plan(plan_path, cache_dir, workers)
        except FileError as error:
            note = f"{error}; all cases are prepared again"
    if content is None:
        plan, records = _build(dataset, config, folder, workers, progress)
        now = read_contents(dataset, cache_dir, workers=workers)
        if changed := changed_contents(contents, now):
            problem = "expected files that stay the same while they are prepared, got a change of"
            raise dataset_error(dataset.root, [f"{problem} {part}" for part in changed])
        content = as_json({"plan": plan.to_dict(), "cases": records})
        write_json(plan_path, {**content, "hash": _key(content)})
    plan = Plan.from_dict(content["plan"])
    return PreparedDataset(dataset, plan, folder, contents, content["cases"], note)


def _read_plan(path: Path, cache_dir: Path, workers: int) -> dict[str, Any]:
    """The content of plan.json.

    Raises:
        FileError: it or an array beside it is not what was written there.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        raise FileError(f"{path}: expected the file that was written there, got none")
    content = read_json_object(path)
    if content.pop("hash", None) != _key(content):
        raise FileError(f"{path}: expected the file that was written there, got a changed one")
    arrays = {
        path.with_name(name): value
        for record in content["cases"].values()
        for name, value in record["arrays"].items()
    }
    with ContentMemo(cache_dir) as memo:
        found = memo.hashes(arrays, workers=workers)
    for array, value in arrays.items():
        if found[array] != value:
            got = "a changed one" if array.is_file() else "none"
            raise FileError(f"{array}: expected the file that was written there, got {got}")
    return content


def _build(
    dataset: Dataset,
    config: PreprocessConfig,
    folder: Path,
    workers: int,
    progress: Progress | None,
) -> tuple[Plan, dict[str, Any]]:
    """Write all arrays; the plan, and case_id -> record."""
    facts = inspect_dataset(
        dataset, pixel_size=config.pixel_size, workers=workers, progress=progress
    )
    plan = make_plan(dataset, config, facts)
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:
        prepared = pool.map(lambda case: _prepare(case, plan, folder), dataset.cases.values())
        prepared = followed(prepared, len(dataset.cases), progress)
        return plan, dict(zip(dataset.cases, prepared, strict=True))


def _prepare(case: Case, plan: Plan, folder: Path) -> dict[str, Any]:
    """Preprocess one case into two files, and return its record."""
    assert case.label_path is not None  # inspect_dataset has read it
    volumes = read_image(case.image_paths, len(plan.channel_names))
    prepared = preprocess_image(volumes, plan, case_id=case.case_id)
    label = preprocess_label(read_label(case.label_path), prepared, plan)
    positions = find_positions(label, plan.classes, plan.spatial_dims)
    made = {"image": prepared.image, "label": label, "positions": positions.flat}
    paths = {kind: _array_path(folder, case.case_id, kind) for kind in made}
    for kind, array in made.items():
        _save_array(paths[kind], array)
    return {
        "arrays": {path.name: content_hash(path) for path in paths.values()},
        "foreground": positions.foreground,
        "known": positions.known,
        "shape": list(prepared.image.shape[1:]),
        "spacing": prepared.spacing,
        "screen_size": volumes[0].screen_spacing is not None,
        "native_shape": prepared.native_shape,
        "flipped": prepared.orientation.flipped,
        "permutation": prepared.orientation.permutation,
        "upright": prepared.upright and asdict(prepared.upright),
    }


def _set_folder(cache_dir: Path, name: str, contents: Contents) -> Path:
    """The folder of a data set, which may have the name of a copy that was prepared first."""
    key = _key(contents)[:12]
    there = sorted(cache_dir.glob(f"*-{key}"))
    return there[0] if there else cache_dir / f"{file_name(name.lower())}-{key}"


def _settings_key(dataset: Dataset, config: PreprocessConfig) -> str:
    """Hash of everything but the files that the prepared arrays and the plan depend on."""
    inputs = {
        "version": _VERSION,
        "config": asdict(config),
        "file_ending": dataset.file_ending,
        "channel_names": dataset.channel_names,
        "classes": asdict(dataset.classes),
        "train": dataset.split["train"],
    }
    return _key(inputs)[:16]


def _key(inputs: Any) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _array_path(folder: Path, case_id: str, kind: str) -> Path:
    return folder / f"{file_name(case_id)}.{kind}.npy"


def _save_array(path: Path, array: Tensor) -> None:
    values = np.ascontiguousarray(array.numpy())
    # Not `np.save`, which does not say why a disk refuses the values.
    with written_whole(path) as temporary, temporary.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(values)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(values.data)


def _map_array(path: Path) -> Tensor:
    """An .npy file as a tensor that reads a page when it is used; changes stay in memory.

    `np.memmap` would hold two file descriptors for every array.

    Raises:
        FileError: the file is not such an array any more.
    """
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            offset = file.tell()
        storage = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
        torch_dtype = torch.from_numpy(np.empty(0, dtype)).dtype
        array = torch.empty(0, dtype=torch_dtype)
        array.set_(storage, offset // dtype.itemsize, shape)  # type: ignore[call-overload]
    except (ValueError, TypeError, RuntimeError) as error:
        raise FileError(
            f"{path}: expected the array that was written there, got: {error}; start again to "
            "prepare it anew"
        ) from error
    return array
