"""What a file is: the hash of its content, remembered for files that have not changed."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from recycleseg.data.layout import Case
from recycleseg.data.volumes import files_beside
from recycleseg.files import FileError, read_json_object, write_text
from recycleseg.progress import Progress, followed

# Its name says what it holds, so that a file with other hashes would need another name.
MEMO = "sha256.json"
# About 100 MB of JSON; the entries that were used last stay.
MAX_ENTRIES = 500_000
_BLOCK = 1 << 20
# A file system may give two changes within this time the same time stamp (2 s on FAT).
_RACY_NS = 2_000_000_000

# case_id -> "image" and "label" -> hash; None if a file cannot be read.
Contents = Mapping[str, Mapping[str, str | None]]
# Size in bytes, times of the last change of content and of any change in ns, inode.
#
# Programs can set the first time, but not the second. What remains unseen: a change that keeps the
# size and is made when a clock that was set back shows the time of the change before, and a change
# on a network disk until its server tells the new times.
_Stamp = list[int]


def content_hash(path: Path) -> str:
    """The hash of a file or folder, in constant memory.

    Args:
        path: a file, or a folder that stands for all files in it and below it. Files and folders
            whose names begin with a dot do not count. Files that an image needs count with it.

    Returns:
        Hexadecimal SHA-256 of the file, as `sha256sum` gives it; for several files, of their
        relative names and hashes.

    Raises:
        FileError: a file cannot be read, or is a pipe or device.
    """
    try:
        hashes = {file: _file_hash(file) for file in _files_of(path)}
    except OSError as error:
        raise FileError(f"{path}: expected a file that can be read, got: {error}") from error
    return _joint_hash(path, hashes)


class ContentMemo:
    """Hashes of files, remembered as long as size, times and inode of a file stay the same.

    Leaving the `with` block saves new hashes. The file is replaced as a whole; if two processes
    save at the same time, the hashes of one may be lost and are computed again. Entries of files
    that are gone from the folders of this block are left out. Other folders are not looked at,
    because a network disk that does not answer would stop the program.

    Args:
        folder: where the memo is; None remembers nothing after the block.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / MEMO
        self._saved = self._read()
        self._used: dict[str, list[Any]] = {}
        self._folders: dict[Path, str] = {}
        self._new = False

    def __enter__(self) -> ContentMemo:
        return self

    def __exit__(self, *_: object) -> None:
        self._save()

    def hashes(
        self, paths: Iterable[Path], *, workers: int = 2, progress: Progress | None = None
    ) -> dict[Path, str | None]:
        """The hash of every file or folder; see `content_hash`.

        Args:
            paths: the files and folders.
            workers: how many files to read at the same time.
            progress: called with the number of files read and to read; not called if all files
                are known.

        Returns:
            path -> hash; None if a file cannot be read, and whoever opens it will say why.
        """
        files: dict[Path, list[Path]] = {}
        for path in paths:
            try:
                files[path] = _files_of(path)
            except OSError:
                files[path] = [path]
        found = {file: self._known(file) for of_path in files.values() for file in of_path}
        unknown = [file for file, value in found.items() if value is None]
        with ThreadPoolExecutor(workers) as pool:
            read = followed(pool.map(self._computed, unknown), len(unknown), progress)
            found.update(zip(unknown, read, strict=True))
        joined = {}
        for path, of_path in files.items():
            known = {file: value for file in of_path if (value := found[file]) is not None}
            joined[path] = _joint_hash(path, known) if len(known) == len(of_path) else None
        return joined

    def _known(self, path: Path) -> str | None:
        name = self._name(path)
        entry = self._used.get(name) or self._saved.get(name)
        try:
            if entry is None or entry[:-1] != _stamp(path):
                return None
        except OSError:
            return None
        self._used[name] = entry
        return str(entry[-1])

    def _computed(self, path: Path) -> str | None:
        """Hash a file, and remember it unless it may have changed without another stamp."""
        try:
            begun, before = time.time_ns(), _stamp(path)
            value = _file_hash(path)
            after = _stamp(path)
        except OSError:
            return None
        _, modified, changed, _ = before
        # Wrong dates of files may lie in the future; the time of any change cannot be set.
        settled = abs(begun - modified) > _RACY_NS and begun - changed > _RACY_NS
        if before == after and settled:
            self._used[self._name(path)] = [*after, value]
            self._new = True
        return value

    def _name(self, path: Path) -> str:
        """The absolute path without links to folders, so that every spelling is one entry."""
        folder = path.parent
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return os.path.join(self._folders[folder], path.name)

    def _read(self) -> dict[str, list[Any]]:
        try:
            content = {} if self._path is None else read_json_object(self._path)
        except FileError:  # there is none yet, or it is damaged and will be replaced
            return {}
        return {name: entry for name, entry in content.items() if _is_entry(entry)}

    def _save(self) -> None:
        if self._path is None or not self._new:
            return
        folders = tuple(os.path.join(folder, "") for folder in set(self._folders.values()))
        others = {
            name: entry
            for name, entry in self._read().items()
            if name not in self._used
            and not (name.startswith(folders) and not os.path.exists(name))
        }
        kept = [*others.items(), *self._used.items()][-MAX_ENTRIES:]
        # The memo only saves time; whoever needs the folder gets the error of the system.
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, json.dumps(dict(kept), separators=(",", ":")))
        self._new = False


def case_contents(
    cases: Iterable[Case],
    memo: ContentMemo,
    *,
    workers: int = 2,
    progress: Progress | None = None,
) -> dict[str, dict[str, str | None]]:
    """The hashes of image and label of every case; see `ContentMemo.hashes` for the arguments.

    Returns:
        case_id -> "image" (all channels in their order) and, if there is one, "label" -> hash;
        None if a file cannot be read.
    """
    cases = tuple(cases)
    paths = [p for c in cases for p in (*c.image_paths, c.label_path) if p is not None]
    hashes = memo.hashes(paths, workers=workers, progress=progress)
    contents = {}
    for case in cases:
        of_case = {"image": joint_hash(hashes[path] for path in case.image_paths)}
        if case.label_path is not None:
            of_case["label"] = hashes[case.label_path]
        contents[case.case_id] = of_case
    return contents


def joint_hash(hashes: Iterable[str | None]) -> str | None:
    """One hash for several in their order: a single one stays; None if one is None."""
    hashes = list(hashes)
    known = [value for value in hashes if value is not None]
    if len(known) < len(hashes):
        return None
    return known[0] if len(known) == 1 else hashlib.sha256("\n".join(known).encode()).hexdigest()


def changed_contents(before: Contents, now: Contents) -> list[str]:
    """What differs in the cases that both have, such as "label of case_3"."""
    return [
        f"{part} of {case_id}"
        for case_id, parts in now.items()
        if case_id in before
        for part, value in parts.items()
        if before[case_id].get(part) != value
    ]


def _joint_hash(path: Path, hashes: Mapping[Path, str]) -> str:
    """The hash of a file or folder from those of all its files, as `_files_of` gives them."""
    if list(hashes) == [path]:
        return hashes[path]
    total = hashlib.sha256()
    for file, value in hashes.items():
        total.update(os.fsencode(os.path.relpath(file, path)) + f"\0{value}\n".encode())
    return total.hexdigest()


def _files_of(path: Path) -> list[Path]:
    """The file and those that it needs, or all files of a folder, sorted by their relative names.

    Raises:
        OSError: the path does not exist, or a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    if not stat.S_ISDIR(path.stat().st_mode):
        return [path, *files_beside(path)]
    files = []
    for folder, folders, names in os.walk(path, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(files)


def _file_hash(path: Path) -> str:
    if not path.is_file():  # opening a pipe would wait for ever
        raise FileNotFoundError(f"{path} is no file")
    value, block = hashlib.sha256(), bytearray(_BLOCK)
    view = memoryview(block)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            value.update(view[:size])
    return value.hexdigest()


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 5 and isinstance(entry[-1], str)
