"""Write files whole or not at all, read JSON objects, and one error for bad files."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from recycleseg.names import LINE_OF_LIST

# Earlier versions had the number of the process alone.
_PART = re.compile(r"\.part-\d+-(?:[0-9a-f]{8}-)?(.+)", re.DOTALL)
_LONGEST_NAME = 255  # in bytes, on the usual file systems
# Bytes of a text file that is read whole. Its values take some thirty times as much memory.
LONGEST_TEXT = 2**28
_DEEPEST = 100


class FileError(ValueError):
    """A file or folder is missing or invalid; the message names it."""


def listed(head: str, problems: Sequence[str]) -> str:
    """A message with a first line and one line per problem, which may be such a message itself."""
    return "\n  - ".join([head, *(LINE_OF_LIST.sub("\n  ", problem) for problem in problems)])


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
    because readers of folders skip such files. Every call gives another name, because processes on
    two machines or in two containers may have the same number.
    """
    start = f".part-{os.getpid()}-{secrets.token_hex(4)}-"
    name = start + path.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
        name = f"{start}{digest}-{path.name[-12:]}"
    return path.with_name(name)


def finished_name(name: str) -> str:
    """The name that a file of `part_of_file` was made for; other names stay as they are."""
    part = _PART.fullmatch(name)
    return part[1] if part else name


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


def flush(path: Path) -> None:
    """Wait until a file is on the disk, so that a power cut leaves no empty one."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


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


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file with one per line; none if there is no file.

    A line that is no whole object is left out: a process was stopped while it wrote it.
    """
    for text in path.read_bytes().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict):
            yield line


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        FileError: the file cannot be read or holds something else.
    """
    return _object(read_json(path), str(path))


def read_json(path: Path) -> Any:
    """The JSON value in a file; NaN and Infinity, which are not JSON, become null.

    Raises:
        FileError: the file cannot be read or holds something else.
    """
    return _parse_json(read_text_bytes(path, "JSON"), str(path))


def read_text_bytes(path: Path, kind: str, most: int = LONGEST_TEXT) -> bytes:
    """The content of a text file.

    Args:
        path: the file.
        kind: what it should be, for messages.
        most: how many bytes it may have.

    Raises:
        FileError: the file cannot be read, or is longer.
    """
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise FileError(f"{path}: expected {kind}, got no file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(size) if size <= most else b""
    except FileError:
        raise
    except (OSError, ValueError) as error:  # ValueError: no file system has such a name
        raise FileError(f"{path}: expected {kind}, got: {error}") from error
    if size > most:
        raise FileError(f"{path}: expected {kind} of at most {most} bytes, got {size}")
    return content


def parse_json_object(text: str | bytes, source: str) -> dict[str, Any]:
    """The JSON object in a text.

    Args:
        text: the text.
        source: name of its file in messages.

    Raises:
        FileError: the text is something else.
    """
    return _object(_parse_json(text, source), source)


def _finite(number: str) -> float | None:
    """A number in JSON; None, as null in JSON, for NaN and for what a float cannot hold."""
    value = float(number)
    return value if math.isfinite(value) else None


def _parse_json(text: str | bytes, source: str) -> Any:
    try:
        content = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except ValueError as error:
        raise FileError(f"{source}: expected JSON, got: {error}") from error
    except RecursionError as error:
        raise _too_deep(source) from error
    # What is deep for the parser may be too deep for those who walk or write it later.
    level = [content] if isinstance(content, list | dict) else []
    for _ in range(_DEEPEST):
        if not level:
            return content
        level = [inner for outer in level for inner in _containers_in(outer)]
    raise _too_deep(source)


def _containers_in(content: Any) -> list[Any]:
    """The lists and objects in a list or object."""
    values = content.values() if isinstance(content, dict) else content
    return [value for value in values if isinstance(value, list | dict)]


def _too_deep(source: str) -> FileError:
    return FileError(f"{source}: expected JSON of at most {_DEEPEST} levels, got more")


def _object(content: Any, source: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise FileError(f"{source}: expected a JSON object, got {type(content).__name__}")
    return content
