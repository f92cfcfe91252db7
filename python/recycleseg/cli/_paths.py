"""Paths that a command line names and that do not exist."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from recycleseg.run.values import nearest

# Looking for a similar name among more entries would take seconds.
_MOST_ENTRIES = 5000


def check_exists(option: str, expected: str, *paths: Path | str) -> None:
    """Check the paths of an option before the work.

    Args:
        option: its name, for the message.
        expected: what each path should be, for the message.
        paths: files or folders.

    Raises:
        ValueError: one does not exist; the message has the nearest path that does.
    """
    for path in map(Path, paths):
        if not path.exists():
            near = nearest_path(path)
            hint = "" if near is None else f"; did you mean {near}?"
            raise ValueError(
                f"{option}: expected {expected}, got {path}, which does not exist{hint}"
            )


def nearest_path(path: Path) -> Path | None:
    """The existing path that a mistyped one probably means, or None."""
    if path.parts[:1] and path.parts[0].startswith("~"):
        try:
            home = path.expanduser()
        except RuntimeError:
            return None
        return home if home.exists() else None
    found = Path()
    for part in path.parts:
        if (found / part).exists():
            found /= part
            continue
        try:
            entries = [entry.name for entry in islice(found.iterdir(), _MOST_ENTRIES)]
        except OSError:
            return None
        near = nearest(part, entries)
        if near is None:
            return None
        found /= near
    return found
