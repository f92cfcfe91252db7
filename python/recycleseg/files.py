"""Write files whole or not at all, read JSON objects, and one error for bad files."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class FileError(ValueError):
    """A file or folder is missing or invalid; the message names it."""


def listed(head: str, problems: Sequence[str]) -> str:
    """A message with a first line and one line per problem, which may be such a message itself."""
    return "\n  - ".join([head, *(problem.replace("\n", "\n  ") for problem in problems)])


def one_or_listed(start: str, problems: Sequence[str]) -> str:
    """The only problem alone, or `start`, their number, and one line per problem."""
    if len(problems) == 1:
        return problems[0]
    return listed(f"{start}{len(problems)} problems", problems)


def shortened(values: Sequence[object], shown: int = 5) -> str:
    """The first names or numbers, and how many more there are, for messages."""
    rest = len(values) - shown
    return ", ".join(map(str, values[:shown])) + (f" and {rest} more" if rest > 0 else "")


def part_of_file(path: Path) -> Path:
    """Where a file or folder is made before it gets its name.

    The name keeps the ending, because writers choose the format by it. It begins with a dot,
    because readers of folders skip such files.
    """
    return path.with_name(f".part-{os.getpid()}-{path.name}")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Write a file so that a kill at any moment leaves the old file or the new one.

    Yields:
        A temporary path, from `part_of_file`. It becomes `path` when the block ends, and is
        deleted if the block raises.

    Raises:
        OSError: the system cannot write the file; the error names `path`.
    """
    temporary = part_of_file(path)
    try:
        with system_errors_name(path):
            yield temporary
            temporary.replace(path)
    finally:
        with suppress(OSError):  # the error of the writing is the one to tell
            temporary.unlink(missing_ok=True)


@contextmanager
def system_errors_name(path: Path) -> Iterator[None]:
    """Errors of the system name this file while the block writes it.

    A full disk alone tells no name, and libraries hide its error behind others of their own.

    Raises:
        OSError: what the system answered, with `path` as its file.
    """
    try:
        yield
    except FileError:
        raise
    except Exception as error:
        number, reason = _system_error(error)
        if number is None:
            raise
        raise OSError(number, reason, str(path)) from error


def _system_error(error: BaseException | None) -> tuple[int | None, str]:
    """Number and text of the error of the system that is behind an error, if there is one."""
    while error is not None:
        if isinstance(error, OSError):
            return error.errno or errno.EIO, error.strerror or str(error)
        if told := re.search(r"\(os error (\d+)\)", str(error)):  # as libraries in Rust say it
            return int(told[1]), os.strerror(int(told[1]))
        error = error.__cause__ or error.__context__
    return None, ""


def write_text(path: Path, content: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON, whole or not at all.

    Raises:
        ValueError: the content has NaN or inf, which are not JSON.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def as_json(content: Any) -> Any:
    """The content after a way through JSON: tuples become lists, keys become strings."""
    return json.loads(json.dumps(content))


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        FileError: the file cannot be read or holds something else.
    """
    return _object(read_json(path), str(path))


def read_json(path: Path) -> Any:
    """The JSON value in a file.

    Raises:
        FileError: the file cannot be read or holds something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: expected JSON, got: {error}") from error
    return _parse_json(content, str(path))


def parse_json_object(text: str | bytes, source: str) -> dict[str, Any]:
    """The JSON object in a text.

    Args:
        text: the text.
        source: name of its file in messages.

    Raises:
        FileError: the text is something else.
    """
    return _object(_parse_json(text, source), source)


def _parse_json(text: str | bytes, source: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise FileError(f"{source}: expected JSON, got: {error}") from error


def _object(content: Any, source: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise FileError(f"{source}: expected a JSON object, got {type(content).__name__}")
    return content
