"""Folders that this program made, and the files in them that it may delete."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from recycleseg.files import finished_name, shortened, write_text
from recycleseg.locks import is_lock

MARKER = ".recycleseg"


@dataclass(frozen=True)
class OwnFolder:
    """A folder for the files of one piece of work, such as a run.

    A marker file with a fixed text tells that the program made the folder. Files with other names
    than those of `made` are not its own, and are never deleted.

    Attributes:
        root: the folder.
        kind: what it holds, with its article, such as "a run".
        made: subfolder ("." for the root) -> patterns of the names of files that are made there, in
            the order in which they are deleted.
    """

    root: Path
    kind: str
    made: Mapping[str, Sequence[str]]

    @property
    def is_marked(self) -> bool:
        """Whether the program made the folder for this kind of work."""
        path = self.root / MARKER
        try:
            return not path.is_symlink() and path.read_text(encoding="utf-8") == self._marker_text
        except (OSError, ValueError):
            return False

    def check_mark(self) -> None:
        """Check that the program did not make the folder for another kind of work.

        Raises:
            ValueError: it did.
        """
        if os.path.lexists(self.root / MARKER) and not self.is_marked:
            raise ValueError(
                f"--out: expected a folder for {self.kind}, got {self.root}, whose {MARKER} says "
                "something else; choose another folder"
            )

    def mark(self) -> None:
        """Note that the program made the folder; see `check_mark`."""
        self.check_mark()
        if not self.is_marked:
            write_text(self.root / MARKER, self._marker_text)

    @property
    def _marker_text(self) -> str:
        return (
            f"recycleseg made this folder for {self.kind}. --overwrite deletes files here that "
            "recycleseg writes, and leaves all others.\nSignature: recycleseg-5c1e8f0b7a394d26\n"
        )

    def files(self) -> list[Path]:
        """Existing files that are made here, also those that a killed process left half-written."""
        found = []
        for folder, patterns in self._folders():
            names = sorted(entry.name for entry in _entries(folder) if not _is_folder(entry))
            for pattern in patterns:
                found += [folder / n for n in names if fnmatchcase(finished_name(n), pattern)]
            if folder == self.root:
                found += [folder / n for n in names if finished_name(n) == MARKER != n]
        return found

    def finished(self) -> list[Path]:
        """Those of `files()` that are whole."""
        return [file for file in self.files() if file.name == finished_name(file.name)]

    def foreign(self) -> list[Path]:
        """Files and folders that are not made here; of a folder only its own path."""
        folders = [folder for folder, _ in self._folders()]
        own = {*self.files(), *folders}
        paths = [folder / entry.name for folder in folders for entry in _entries(folder)]
        return [path for path in paths if path not in own and not _is_ours(path.name)]

    def check_overwrite(self, inputs: Mapping[str, Path]) -> None:
        """Check that the files made here may be deleted, if the folder exists.

        Args:
            inputs: see `check_apart`.

        Raises:
            ValueError: the program did not make the folder, or it is not apart from an input or
                from the working or the home folder, or a subfolder is a link to elsewhere.
        """
        check_apart(self.root, inputs)
        if not self.is_marked and (self.finished() or self.foreign()):
            raise ValueError(
                f"--overwrite: expected the folder of {self.kind}, with its file {MARKER}, got "
                f"{self.root} without it; nothing is changed. If an earlier version made the "
                "folder, delete it by hand, or choose another --out"
            )
        check_no_links(self.root, self.made)
        for folder, patterns in self._folders():
            for entry in _entries(folder):
                if _is_folder(entry) and any(fnmatchcase(entry.name, p) for p in patterns):
                    raise ValueError(
                        f"--overwrite: expected a file or nothing at {folder / entry.name}, got a "
                        "folder; nothing is changed"
                    )

    def delete(self, files: Iterable[Path]) -> None:
        """Delete some of `files()`, and subfolders that become empty."""
        delete_files(files, self.root)

    def foreign_note(self) -> list[str]:
        """A line about what is not made here and stays, or none."""
        if not (foreign := self.foreign()):
            return []
        names = shortened([str(path.relative_to(self.root)) for path in sorted(foreign)])
        return [f"kept in {self.root}, because recycleseg did not make it: {names}"]

    def _folders(self) -> list[tuple[Path, Sequence[str]]]:
        folders = [(self.root / name, patterns) for name, patterns in self.made.items()]
        return [(f, p) for f, p in folders if f.is_dir() and (f == self.root or not f.is_symlink())]


def check_apart(root: Path, inputs: Mapping[str, Path]) -> None:
    """Check that a folder is a place where files may be deleted.

    Args:
        root: the folder.
        inputs: an input of the command as messages name it -> its file or folder.

    Raises:
        ValueError: the folder is or contains an input, the working folder or the home folder.
    """
    own = _real(root)
    for name, path in inputs.items():
        other = _real(path)
        if own == other or own in other.parents:
            raise _not_apart(root, own, name, other)
    for name, find in (("working folder", Path.cwd), ("home folder", Path.home)):
        with suppress(OSError, RuntimeError):  # there is none
            other = _real(find())
            if own == other or own in other.parents:
                raise _not_apart(root, own, f"the {name} {other}", other)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # unlike `resolve`, never refuses links in a circle


def _not_apart(root: Path, own: Path, what: str, other: Path) -> ValueError:
    how = "is it" if own == other else "contains it"
    return ValueError(
        f"--overwrite: expected a folder apart from {what}, got {root}, which {how}; nothing is "
        "changed. Choose another --out, or delete old files by hand"
    )


def check_no_links(root: Path, folders: Iterable[str]) -> None:
    """Check that no subfolder is a symbolic link, through which files elsewhere would be deleted.

    Raises:
        ValueError: one is.
    """
    for name in folders:
        if (root / name).is_symlink() and name != ".":
            raise ValueError(
                f"--overwrite: expected a folder, got the symbolic link {root / name}; nothing is "
                "changed. Delete the link by hand, or choose another --out"
            )


def delete_files(files: Iterable[Path], root: Path) -> None:
    """Delete files, and each folder below the root that becomes empty; links are not followed."""
    for file in files:
        file.unlink(missing_ok=True)
        folder = file.parent
        while folder != root and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _is_ours(name: str) -> bool:
    """Whether the name is that of a marker or lock."""
    return finished_name(name) == MARKER or is_lock(name)
