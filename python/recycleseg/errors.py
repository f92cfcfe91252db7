"""What went wrong, in one line for the user: of the system, of the memory, of the program."""

from __future__ import annotations

import dis
import errno
import json
import os
import struct
import sys
import traceback
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from recycleseg.files import FileError

# Set to 1, this variable of the environment shows tracebacks.
DEBUG = "RECYCLESEG_DEBUG"

_FREE_DISK = "free some space, or choose a folder on another disk"
_ADVICE = {
    errno.ENOSPC: _FREE_DISK,
    errno.EDQUOT: _FREE_DISK,
    errno.EFBIG: "the disk or the limit of this session (ulimit -f) allows no larger file",
    errno.EACCES: "give this user the right to it, or choose another folder",
    errno.EPERM: "give this user the right to it, or choose another folder",
    errno.EROFS: "choose a folder on a disk that can be written",
    errno.EIO: "the disk or the network reports a fault; check it before you go on",
    errno.ESTALE: "the network disk has lost the file; check it before you go on",
    errno.EMFILE: "raise the limit of this session (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "a link leads back to itself; delete it",
    errno.ENOENT: "check the path, and whether another program deletes or moves files there",
    errno.ENOTDIR: "a part of this path is a file, where a folder is needed",
    errno.EISDIR: "a folder is where a file is needed; move it away",
    errno.ENOTEMPTY: "a folder with files is in the way; move it away",
    errno.EEXIST: "something is in the way; move it away",
}
# Readers turn these into a FileError. Should one forget it, the file is to blame all the same.
_OF_DAMAGED_FILES = (
    EOFError,
    RecursionError,  # JSON that is nested too deeply
    UnicodeDecodeError,
    json.JSONDecodeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
# Of pathlib before Python 3.13, as a RuntimeError.
_LINK_LOOP = "Symlink loop from "
# Of PyTorch on a CPU, of PyTorch on a GPU, and of other libraries.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "cannot allocate memory")


def is_expected(error: BaseException) -> bool:
    """Whether the input, the system or the memory is to blame, and not the program."""
    return (
        isinstance(error, (FileError, OSError, *_OF_DAMAGED_FILES))
        or is_out_of_memory(error)
        or str(error).startswith(_LINK_LOOP)
        or (isinstance(error, ValueError) and _is_own(error))
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the machine or of the GPU was too small."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _OUT_OF_MEMORY)


def described(error: BaseException) -> str:
    """What went wrong and what to do.

    Returns:
        One line; the messages of this package may list several problems below it. An error that
        nobody expected names its type, its place in the program and the file of that moment.
    """
    if isinstance(error, FileError):
        return str(error)
    text = " ".join(str(error).split())
    if is_out_of_memory(error):
        reason = f" ({_shortened(text)})" if text else ""
        return f"expected more free memory, got none left{reason}; {_of_smaller_size(error)}"
    if isinstance(error, OSError):
        return _of_system(error)
    if text.startswith(_LINK_LOOP):
        link = text.removeprefix(_LINK_LOOP).strip("'")
        return f"{link}: {_ADVICE[errno.ELOOP]}"
    about = f"{type(error).__name__}: {_shortened(text)}" if text else type(error).__name__
    if isinstance(error, _OF_DAMAGED_FILES):
        return f"{_file(error) or 'a file'}: expected a whole file, got: {about}{_place(error)}"
    if isinstance(error, ValueError) and _is_own(error):
        return str(error)
    file = _file(error)
    return (
        f"{about}; nobody expected this error{_place(error)}{f', with {file}' if file else ''}; "
        f"{DEBUG}=1 shows the traceback for a report of it"
    )


def show_traceback(error: BaseException) -> None:
    """Print the traceback of an error that is caught, if `DEBUG` asks for it."""
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)


def _of_system(error: OSError) -> str:
    names = [
        os.fsdecode(n) for n in (error.filename, error.filename2) if isinstance(n, str | bytes)
    ]
    if not names and any(_module(entry) == "rich.console" for entry in _entries(error)):
        names = ["standard output"]
    where = f"{' -> '.join(names)}: " if names else ""
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    place = "" if names else _place(error)
    advice = _ADVICE.get(error.errno or 0)
    return f"{where}{reason}{place}" + (f"; {advice}" if advice else "")


def _of_smaller_size(error: BaseException) -> str:
    if "cuda" in str(error).lower():
        return "close other programs on this GPU, or choose a smaller batch"
    return "close other programs, or choose fewer workers or a smaller batch"


def _is_own(error: BaseException) -> bool:
    """Whether a `raise` of this package made the error, and not a library under it."""
    last = _entries(error)[-1:]
    if not last or not _of_package(last[0]):
        return False
    instruction = last[0].tb_frame.f_code.co_code[last[0].tb_lasti]
    return dis.opname[instruction] in ("RAISE_VARARGS", "RERAISE")


def _place(error: BaseException) -> str:
    """Where in the package the error came up."""
    own = [entry for entry in _entries(error) if _of_package(entry)]
    return f", in {_module(own[-1])}, line {own[-1].tb_lineno}" if own else ""


def _file(error: BaseException) -> str | None:
    """The file that the package worked on when the error came up."""
    own = [entry for entry in _entries(error) if _of_package(entry)]
    return next(filter(None, map(_file_of, reversed(own))), None)


def _file_of(entry: TracebackType) -> str | None:
    """The path that a function works on, by the names that this package gives to paths."""
    known = entry.tb_frame.f_locals
    for name in ("path", "file", "source", "root", "folder"):
        if isinstance(known.get(name), Path):
            return str(known[name])
    return None


def _of_package(entry: TracebackType) -> bool:
    return _module(entry).startswith("recycleseg.")


def _module(entry: TracebackType) -> str:
    return str(entry.tb_frame.f_globals.get("__name__", ""))


def _entries(error: BaseException) -> list[TracebackType]:
    """The traceback from the outermost call to the innermost."""

    def follow(entry: TracebackType | None) -> Iterator[TracebackType]:
        while entry is not None:
            yield entry
            entry = entry.tb_next

    return list(follow(error.__traceback__))


def _shortened(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]}..."
