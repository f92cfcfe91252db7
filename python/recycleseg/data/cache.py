"""A preprocessed data set: each case is prepared once, and again only if it or the plan changes."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recycleseg.data.blocks import Blocks, to_blocks
from recycleseg.data.cache_files import (
    CacheFiles,
    key_of,
    map_array,
    read_entry,
    read_record,
    write_entry,
    write_record,
)
from recycleseg.data.cached_facts import (
    ChangeWatch,
    check_with_cache,
    settings_of,
    workers_for,
)
from recycleseg.data.check import refuse_errors
from recycleseg.data.facts import CaseFacts
from recycleseg.data.geometry import Orientation
from recycleseg.data.identity import ContentMemo, Contents, case_contents
from recycleseg.data.layout import Case, Dataset, dataset_error
from recycleseg.data.patches import TrainingCase
from recycleseg.data.positions import Positions, find_positions
from recycleseg.data.preprocess import (
    Plan,
    PreparedCase,
    PreprocessConfig,
    make_plan,
    prepared_shape,
    preprocess_image,
    preprocess_label,
)
from recycleseg.data.upright import UprightGrid
from recycleseg.data.volumes import read_image, read_label
from recycleseg.files import FileError, as_json, shortened
from recycleseg.limits import cores
from recycleseg.progress import Progress, followed

# Raise it with every change of the code that gives other arrays for the same files.
_VERSION = 10
_GIB = 2**30


@dataclass(frozen=True)
class PreparedDataset:
    """A preprocessed data set; arrays stay on the disk, so it may be larger than the memory.

    Attributes:
        dataset: the files that it was made from.
        plan: how to prepare other images in the same way.
        entries: case_id -> the folder of its arrays.
        contents: case_id -> "image" and "label" -> hash of the files that it was made from.
        records: case_id -> what the arrays alone do not tell (spacing, orientation, ...).
        note: what the user should know about the cache, in one line; or nothing.
    """

    dataset: Dataset
    plan: Plan
    entries: Mapping[str, Path]
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

    def cases(self, split: str) -> Sequence[PreparedCase]:
        """The cases of "train", "val" or "test", in the order of the split, read when asked for.

        Raises:
            ValueError: no part of the split has this name.
        """
        if split not in self.dataset.split:
            raise ValueError(f"split: expected one of {list(self.dataset.split)}, got {split!r}")
        return CasesOnDisk(self, self.dataset.split[split])

    def training_cases(self) -> list[TrainingCase]:
        """The cases of "train", of which patches can be read."""
        return [self.patch_case(case_id) for case_id in self.dataset.split["train"]]

    def patch_case(self, case_id: str) -> TrainingCase:
        """The case with this id, of which patches can be read."""
        record, folder = self.records[case_id], self.entries[case_id]
        return TrainingCase(
            case_id,
            Blocks(folder / "image.npy", record["shape"]),
            Blocks(folder / "label.npy", record["shape"]),
            self.plan.classes,
            Positions(
                map_array(folder / "positions.npy"), tuple(record["foreground"]), record["known"]
            ),
        )

    def case(self, case_id: str) -> PreparedCase:
        """The case with this id."""
        record, folder = self.records[case_id], self.entries[case_id]
        return PreparedCase(
            case_id=case_id,
            image=Blocks(folder / "image.npy", record["shape"]).whole(),
            label=Blocks(folder / "label.npy", record["shape"]).whole(),
            spacing=record["spacing"] and tuple(record["spacing"]),
            native_shape=tuple(record["native_shape"]),
            orientation=Orientation(tuple(record["flipped"]), tuple(record["permutation"])),
            label_path=self.dataset.cases[case_id].label_path,
            classes=self.plan.classes,
            upright=record["upright"] and UprightGrid.from_dict(record["upright"]),
        )

    def _of_training(self, key: str) -> np.ndarray[Any, Any]:
        return np.array([self.records[case_id][key] for case_id in self.dataset.split["train"]])


class CasesOnDisk(Sequence[PreparedCase]):
    """Cases of a data set, each read when it is asked for.

    Args:
        data: the data set.
        case_ids: of the cases.
    """

    def __init__(self, data: PreparedDataset, case_ids: Sequence[str]) -> None:
        self._data = data
        self._case_ids = case_ids

    def __len__(self) -> int:
        return len(self._case_ids)

    def __getitem__(self, index: Any) -> Any:
        return self._data.case(self._case_ids[index])


def read_contents(
    dataset: Dataset,
    cache_dir: Path | str,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Contents:
    """The hashes of all files of a data set, which are read only if the cache does not know them.

    Args:
        dataset: the data set.
        cache_dir: the folder of all caches.
        workers: how many files to read at the same time; None takes all cores.
        progress: called with the number of files read and to read, if there is one to read.
    """
    with ContentMemo(Path(cache_dir)) as memo:
        cases = dataset.cases.values()
        return case_contents(cases, memo, workers=workers or cores(), progress=progress)


def prepare_dataset(
    dataset: Dataset,
    config: PreprocessConfig,
    cache_dir: Path | str,
    *,
    contents: Contents | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> PreparedDataset:
    """Check and preprocess a data set, or find it in the cache.

    `cache_files.py` says what is in the cache. The arrays of a case depend on the contents of its
    files, the plan and the version of the code alone. So copies of a data set share what is
    prepared, a changed label makes one case anew, and what was finished before a kill stays. Images
    are float32, so a case from the cache equals the same image prepared for inference bit for bit.

    Args:
        dataset: the data set.
        config: settings of preprocessing.
        cache_dir: the folder of all caches.
        contents: what `read_contents` gave; None calls it.
        workers: how many cases to check or prepare at the same time; None takes all cores, as far
            as the memory allows.
        progress: called with the number of cases done and of all cases; all cases count twice,
            first while they are checked, then while they are prepared.
        announce: is told in one line how much will be written, if it is much.

    Raises:
        FileError: see `inspect_dataset`; a file changed while it was prepared; or the disk is too
            small.
    """
    if contents is None:
        contents = read_contents(dataset, cache_dir, workers=workers)
    work = _Preparation(dataset, config, contents, Path(cache_dir), workers, progress, announce)
    return work.run()


class _Preparation:
    """One call of `prepare_dataset`; see there for the arguments."""

    def __init__(
        self,
        dataset: Dataset,
        config: PreprocessConfig,
        contents: Contents,
        root: Path,
        workers: int | None,
        progress: Progress | None,
        announce: Callable[[str], None],
    ) -> None:
        self.dataset = dataset
        self.config = config
        self.contents = contents
        self.files = CacheFiles(root)
        self.workers = workers or workers_for(dataset)
        self.progress = progress
        self.announce = announce
        self.notes: list[str] = []
        self.memo = ContentMemo(root)
        self.watch = ChangeWatch(contents, self.memo)

    def run(self) -> PreparedDataset:
        """Check and prepare what the cache does not have."""
        plan_path = self._plan_path()
        with self.memo, _one_thread_each():
            plan = self._stored_plan(plan_path)
            facts: dict[str, CaseFacts] = {}
            if plan is None:
                facts = self._facts()
                plan = make_plan(self.dataset, self.config, facts)
            entries = {c: self.files.entry(self._entry_key(c, plan)) for c in self.dataset.cases}
            stored = {c: self._stored_record(folder) for c, folder in entries.items()}
            records = {c: record for c, record in stored.items() if record is not None}
            if missing := [c for c, record in stored.items() if record is None]:
                self._check_disk([facts[c] for c in missing if c in facts], plan)
                self._refuse_changes()
                records |= self._prepare_all(missing, plan, entries)
            self._refuse_changes()
        if self.notes or not plan_path.is_file():
            keys = {case_id: folder.name for case_id, folder in entries.items()}
            content = {
                "dataset": self.dataset.name,
                "plan": plan.to_dict(),
                "cases": {case_id: records[case_id] for case_id in entries},
                "entries": keys,
            }
            plan_path.parent.mkdir(parents=True, exist_ok=True)
            write_record(plan_path, as_json(content))
        else:
            with suppress(OSError):  # the time of the last use
                os.utime(plan_path)
        note = ""
        if self.notes:
            again = "it is made again" if len(self.notes) == 1 else "they are made again"
            note = f"{shortened(self.notes, 2)}; {again}"
        return PreparedDataset(self.dataset, plan, entries, self.contents, records, note)

    def _stored_plan(self, path: Path) -> Plan | None:
        if not os.path.lexists(path):
            return None
        try:
            return Plan.from_dict(read_record(path)["plan"])
        except FileError as error:
            self.notes.append(str(error))
            return None

    def _stored_record(self, folder: Path) -> dict[str, Any] | None:
        try:
            return read_entry(folder, self.memo)
        except FileError as error:
            self.notes.append(str(error))
            return None

    def _facts(self) -> dict[str, CaseFacts]:
        facts, findings = check_with_cache(
            self.dataset,
            self.files,
            self.watch,
            pixel_size=self.config.pixel_size,
            workers=self.workers,
            progress=self.progress,
        )
        refuse_errors(self.dataset, findings)
        return facts

    def _prepare_all(
        self, case_ids: Sequence[str], plan: Plan, entries: Mapping[str, Path]
    ) -> dict[str, dict[str, Any]]:
        def prepare(case_id: str) -> dict[str, Any]:
            case = self.dataset.cases[case_id]
            arrays, record = _prepare(case, plan)
            if not self.watch.is_unchanged(case):
                return record  # the run ends with an error
            return write_entry(entries[case_id], arrays, {**record, "case": case_id})

        with ThreadPoolExecutor(self.workers) as pool:
            made = followed(pool.map(prepare, case_ids), len(case_ids), self.progress)
            return dict(zip(case_ids, made, strict=True))

    def _refuse_changes(self) -> None:
        if self.watch.changed:
            problem = "expected files that stay the same while they are prepared, got a change of"
            problems = [f"{problem} {part}" for part in self.watch.changed]
            raise dataset_error(self.dataset.root, problems)

    def _check_disk(self, facts: Sequence[CaseFacts], plan: Plan) -> None:
        """Tell how much will be written, and refuse what does not fit."""
        needed = sum(_bytes_of(fact, plan) for fact in facts)
        if needed < _GIB:
            return
        self.files.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.files.root).free
        told = f"{len(facts)} cases take about {needed / _GIB:.1f} GiB in {self.files.root}"
        if needed > free:
            raise FileError(
                f"{self.files.root}: expected room for {len(facts)} prepared cases, about "
                f"{needed / _GIB:.1f} GiB, got {free / _GIB:.1f} GiB; choose another folder with "
                "--runtime.cache, or make room with: recycle-data cache clear"
            )
        self.announce(told)

    def _entry_key(self, case_id: str, plan: Plan) -> str:
        return key_of([_VERSION, self.contents[case_id], as_json(plan.to_dict())])

    def _plan_path(self) -> Path:
        training = list(self.dataset.split["train"])
        settings = [_VERSION, settings_of(self.dataset), as_json(asdict(self.config)), training]
        return self.files.plan(self.dataset.name, key_of(self.contents), key_of(settings))


def _prepare(case: Case, plan: Plan) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Preprocess one case: its arrays, and the record of what they do not tell."""
    assert case.label_path is not None  # check_dataset has read it
    volumes = read_image(case.image_paths, len(plan.channel_names))
    prepared = preprocess_image(volumes, plan, case_id=case.case_id)
    label = preprocess_label(read_label(case.label_path), prepared, plan)
    positions = find_positions(label, plan.classes, plan.spatial_dims)
    record = {
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
    dims = plan.spatial_dims
    arrays = {"image": to_blocks(prepared.image, dims), "label": to_blocks(label, dims)}
    return {**arrays, "positions": positions.flat}, record


def _bytes_of(facts: CaseFacts, plan: Plan) -> int:
    """About the bytes of a prepared case: float32 for each channel, and its target."""
    targets = 1 if plan.classes.exclusive else len(plan.classes)
    shape = prepared_shape(facts.shape, facts.canonical_spacing, plan)
    return math.prod(shape) * (4 * len(plan.channel_names) + targets)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """The cases share the cores, so each is prepared with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
