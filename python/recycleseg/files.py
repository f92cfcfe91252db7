"""Files: written whole or not at all, JSON objects read, and one error for a bad one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class FileError(ValueError):
    """A file or folder is not as expected; the message names it."""


def listed(head: str, problems: Sequence[str]) -> str:
    """A message that lists every problem found, a line each."""
    return "\n  - ".join([head, *problems])


def shortened(values: Sequence[object], shown: int = 5) -> str:
    """The first names or numbers, and how many there are more, for messages."""
    rest = len(values) - shown
    return ", ".join(map(str, values[:shown])) + (f" and {rest} more" if rest > 0 else "")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name to write to, that becomes `path` when the block ends and is deleted if it raises.

    So a kill at any moment leaves the old file or the new one. The name keeps the ending, by which
    writers choose the format, and begins with a dot, which every reader of folders passes over.
    """
    temporary = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """Write a text file in UTF-8, whole."""
    with written_whole(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON, whole.

    Raises:
        ValueError: NaN or inf in the content, because other readers do not know them.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def as_json(content: Any) -> Any:
    """The content as it comes back from a JSON file: tuples become lists, keys strings."""
    return json.loads(json.dumps(content))


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        FileError: the file cannot be read or holds something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: expected JSON, got: {error}") from error
    return parse_json_object(content, str(path))


def parse_json_object(text: str | bytes, source: str) -> dict[str, Any]:
    """The JSON object in a text.

    Args:
        text: the text.
        source: what messages call the place that it comes from.

    Raises:
        FileError: it holds something else.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise FileError(f"{source}: expected JSON, got: {error}") from error
    if not isinstance(content, dict):
        raise FileError(f"{source}: expected a JSON object, got {type(content).__name__}")
    return content
