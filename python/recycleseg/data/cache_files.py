"""The files of the cache: arrays of prepared cases, facts about cases, and plans that name them.

    CACHE/prepared/KEY/     image.npy, label.npy, positions.npy, then case.json with their hashes
    CACHE/facts/KEY.npz     what the plan needs to know about a case
    CACHE/NAME-KEY/KEY/plan.json    the plan of a data set, and the keys of its cases

A key is a hash of all that the content depends on. So a file is right or absent, data sets share
what they have in common, and what a killed process finished is found again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recycleseg.data.facts import CaseFacts
from recycleseg.data.identity import ContentMemo, content_hash
from recycleseg.files import (
    FileError,
    as_json,
    finished_name,
    read_json_object,
    write_json,
    written_whole,
)
from recycleseg.names import file_name

ARRAYS = ("image", "label", "positions")
_RECORD = "case.json"


def key_of(inputs: Any) -> str:
    """A hash of plain values, as the name of a file or folder."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with a hash of itself."""
    write_json(path, {**content, "hash": key_of(content)})


def read_record(path: Path) -> dict[str, Any]:
    """The content of a file of `write_record`.

    Raises:
        FileError: the file is not what was written there.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        raise FileError(f"{path}: expected the file that was written there, got none")
    content = read_json_object(path)
    if content.pop("hash", None) != key_of(content):
        raise FileError(f"{path}: expected the file that was written there, got a changed one")
    return content


def write_entry(
    folder: Path, arrays: Mapping[str, Tensor], record: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the arrays of a case, then its record, whose presence tells that the entry is whole.

    Returns:
        The record as `read_entry` gives it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        _save_array(folder / f"{name}.npy", array)
    hashes = {name: content_hash(folder / f"{name}.npy") for name in arrays}
    whole: dict[str, Any] = as_json({**record, "arrays": hashes})
    write_record(folder / _RECORD, whole)
    return whole


def read_entry(folder: Path, memo: ContentMemo) -> dict[str, Any] | None:
    """The record of a case; None if it was never finished.

    Raises:
        FileError: it or an array is not what was written there.
    """
    if not os.path.lexists(folder / _RECORD):
        return None
    record = read_record(folder / _RECORD)
    paths = {folder / f"{name}.npy": value for name, value in record["arrays"].items()}
    found = memo.hashes(paths, workers=1)
    for path, value in paths.items():
        if found[path] != value:
            got = "a changed one" if path.is_file() else "none"
            raise FileError(f"{path}: expected the file that was written there, got {got}")
    return record


def map_array(path: Path) -> Tensor:
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


def _save_array(path: Path, array: Tensor) -> None:
    values = np.ascontiguousarray(array.numpy())
    # Not `np.save`, which does not say why a disk refuses the values.
    with written_whole(path) as temporary, temporary.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(values)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(values.data)


def write_facts(path: Path, facts: CaseFacts) -> None:
    """Write the facts about a case; what is no array goes into the file as JSON."""
    arrays: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for field in fields(facts):
        value = getattr(facts, field.name)
        (arrays if isinstance(value, np.ndarray) else others)[field.name] = value
    text = np.frombuffer(json.dumps(others).encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, others=text, **arrays)


def read_facts(path: Path) -> CaseFacts | None:
    """The facts about a case; None if they are not there, or damaged."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
        others = json.loads(arrays.pop("others").tobytes())
        for name in ("spacing", "shape", "screen_spacing", "image_digests"):
            others[name] = others[name] if others[name] is None else tuple(others[name])
        return CaseFacts(**others, **arrays)
    # NumPy, zipfile and zlib raise many kinds of errors for a damaged file, which is made anew.
    except Exception:
        return None


@dataclass(frozen=True)
class CachedPlan:
    """What the cache holds for a data set with one plan.

    Attributes:
        path: its file.
        name: of the data set.
        entries: the folders of its cases.
        used: seconds since the epoch at which a run last used it.
    """

    path: Path
    name: str
    entries: tuple[Path, ...]
    used: float


class CacheFiles:
    """Where things are in a cache, and what can be deleted.

    Args:
        root: the folder of the cache.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def entry(self, key: str) -> Path:
        """The folder of a prepared case."""
        return self.root / "prepared" / key

    def facts(self, key: str) -> Path:
        """The file of the facts about a case."""
        return self.root / "facts" / f"{key}.npz"

    def plan(self, name: str, contents: str, settings: str) -> Path:
        """The file of a plan.

        Args:
            name: of the data set; a copy with another name may have come first.
            contents: the key of its contents.
            settings: the key of all else that the plan depends on.
        """
        there = sorted(self.root.glob(f"*-{contents[:12]}"))
        folder = there[0] if there else self.root / f"{file_name(name.lower())}-{contents[:12]}"
        return folder / settings[:16] / "plan.json"

    def plans(self) -> list[CachedPlan]:
        """All plans, the one that was used last first; damaged ones have no entries."""
        found = []
        for path in self.root.glob("*-*/*/plan.json"):
            content: dict[str, Any] = {}
            with suppress(FileError):
                content = read_record(path)
            entries = tuple(self.entry(key) for key in content.get("entries", {}).values())
            used = path.stat().st_mtime
            found.append(CachedPlan(path, content.get("dataset", "damaged"), entries, used))
        return sorted(found, key=lambda plan: -plan.used)

    def clear(self, older_than: float = 0.0) -> int:
        """Delete what no run has used for a while.

        Args:
            older_than: seconds since the last use.

        Returns:
            Bytes that were freed.
        """
        limit = time.time() - older_than
        plans = self.plans()
        kept = {entry for plan in plans if plan.used > limit for entry in plan.entries}
        freed = 0
        for plan in plans:
            if plan.used <= limit:
                freed += _delete([plan.path])
                with suppress(OSError):  # something else is in it
                    plan.path.parent.rmdir()
                    plan.path.parent.parent.rmdir()
        for folder in self.root.glob("prepared/*"):
            # Without a plan: of a run that was stopped, or works now.
            if folder not in kept and folder.stat().st_mtime <= limit:
                freed += _delete(_files_of_entry(folder))
                with suppress(OSError):  # something else is in it
                    folder.rmdir()
        facts = [f for f in self.root.glob("facts/*.npz") if f.stat().st_mtime <= limit]
        return freed + _delete(facts)


def size_of(entries: Iterable[Path]) -> int:
    """Bytes of entries on disk."""
    return sum(file.stat().st_size for entry in set(entries) for file in _files_of_entry(entry))


def _files_of_entry(folder: Path) -> Iterator[Path]:
    """The files of an entry, also half-written ones; no others."""
    names = {_RECORD, *(f"{name}.npy" for name in ARRAYS)}
    for file in folder.glob("*") if folder.is_dir() else ():
        if finished_name(file.name) in names and file.is_file():
            yield file


def _delete(files: Iterable[Path]) -> int:
    freed = 0
    for file in files:
        freed += file.stat().st_size
        file.unlink()
    return freed
