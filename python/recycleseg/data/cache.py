"""Prepared cases on disk: preprocessing runs again only if a file or a setting changes."""

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
from recycleseg.data.layout import Case, Dataset
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
from recycleseg.files import read_json_object, write_json, written_whole
from recycleseg.progress import Progress, followed

# Raise it with every change of the code that gives other arrays for the same files.
_VERSION = 6


@dataclass(frozen=True)
class PreparedDataset:
    """A preprocessed data set; arrays are mapped from disk, so it may be larger than the memory.

    Attributes:
        dataset: the files that it was made from.
        plan: how to prepare other images in the same way.
        folder: where the arrays are.
        records: case_id -> what the arrays alone do not tell (spacing, orientation, ...).
    """

    dataset: Dataset
    plan: Plan
    folder: Path
    records: Mapping[str, Mapping[str, Any]]

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
            image=_map_array(self.folder / f"{case_id}.image.npy"),
            label=_map_array(self.folder / f"{case_id}.label.npy"),
            spacing=record["spacing"] and tuple(record["spacing"]),
            native_shape=tuple(record["native_shape"]),
            orientation=Orientation(tuple(record["flipped"]), tuple(record["permutation"])),
            label_path=self.dataset.cases[case_id].label_path,
            classes=self.plan.classes,
            upright=record["upright"] and UprightGrid.from_dict(record["upright"]),
        )

    def _of_training(self, key: str) -> np.ndarray[Any, Any]:
        return np.array([self.records[case_id][key] for case_id in self.dataset.split["train"]])


def prepare_dataset(
    dataset: Dataset,
    config: PreprocessConfig,
    cache_dir: Path | str,
    *,
    workers: int = 2,
    progress: Progress | None = None,
) -> PreparedDataset:
    """Check and preprocess a data set, or find it in the cache.

    The result is in a folder of `cache_dir`. The name of the folder is a hash of the names, sizes
    and modification times of the files, `dataset.json`, the training split, the configuration and
    the version of the code; if one of them changes, another folder is used. A file gets its name
    only when it is complete, and `plan.json` comes last; a folder without it is prepared again.
    Images are float32, so a case from the cache equals the same image prepared for inference bit
    for bit.

    Args:
        dataset: the data set.
        config: settings of preprocessing.
        cache_dir: the folder of all caches.
        workers: how many cases to check or prepare at the same time.
        progress: called with the number of cases done and of all cases; all cases count twice,
            first while they are checked, then while they are prepared.

    Raises:
        FileError: see `inspect_dataset`.
    """
    folder = Path(cache_dir) / _cache_key(dataset, config)
    plan_path = folder / "plan.json"
    if not plan_path.exists():
        _build(dataset, config, folder, workers, progress)
    content = read_json_object(plan_path)
    return PreparedDataset(dataset, Plan.from_dict(content["plan"]), folder, content["cases"])


def _build(
    dataset: Dataset,
    config: PreprocessConfig,
    folder: Path,
    workers: int,
    progress: Progress | None,
) -> None:
    plan = make_plan(
        dataset,
        config,
        inspect_dataset(dataset, pixel_size=config.pixel_size, workers=workers, progress=progress),
    )
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:
        prepared = pool.map(lambda case: _prepare(case, plan, folder), dataset.cases.values())
        prepared = followed(prepared, len(dataset.cases), progress)
        records = dict(zip(dataset.cases, prepared, strict=True))
    write_json(folder / "plan.json", {"plan": plan.to_dict(), "cases": records})


def _prepare(case: Case, plan: Plan, folder: Path) -> dict[str, Any]:
    """Preprocess one case into two files, and return its record."""
    assert case.label_path is not None  # inspect_dataset has read it
    volumes = read_image(case.image_paths, len(plan.channel_names))
    prepared = preprocess_image(volumes, plan, case_id=case.case_id)
    label = preprocess_label(read_label(case.label_path), prepared, plan)
    _save_array(folder / f"{case.case_id}.image.npy", prepared.image)
    _save_array(folder / f"{case.case_id}.label.npy", label)
    return {
        "shape": list(prepared.image.shape[1:]),
        "spacing": prepared.spacing,
        "screen_size": volumes[0].screen_spacing is not None,
        "native_shape": prepared.native_shape,
        "flipped": prepared.orientation.flipped,
        "permutation": prepared.orientation.permutation,
        "upright": prepared.upright and asdict(prepared.upright),
    }


def _cache_key(dataset: Dataset, config: PreprocessConfig) -> str:
    """Hexadecimal hash of everything that the prepared arrays depend on."""
    files = {}
    for case in dataset.cases.values():
        for path in (*case.image_paths, case.label_path):
            if path is not None and path.exists():
                status = path.stat()
                files[os.path.relpath(path, dataset.root)] = (status.st_size, status.st_mtime_ns)
    inputs = {
        "version": _VERSION,
        "config": asdict(config),
        "description": (dataset.root / "dataset.json").read_text(encoding="utf-8"),
        "train": dataset.split["train"],
        "files": files,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def _save_array(path: Path, array: Tensor) -> None:
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.ascontiguousarray(array.numpy()))


def _map_array(path: Path) -> Tensor:
    """An .npy file as a tensor that reads a page when it is used; changes stay in memory.

    `np.memmap` would hold two file descriptors for every array.
    """
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
    storage = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
    torch_dtype = torch.from_numpy(np.empty(0, dtype)).dtype
    array = torch.empty(0, dtype=torch_dtype)
    array.set_(storage, offset // dtype.itemsize, shape)  # type: ignore[call-overload]
    return array
