"""Errors become one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import errno
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recycleseg.errors import DEBUG, described, is_expected, show_traceback
from recycleseg.files import FileError, written_whole


def caught(work: Callable[[], object]) -> Exception:
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("expected an error")


def raised_in_the_package(path: Path, error: Exception) -> None:
    """Raise an error in a function of the package that works on a file."""
    module: dict[str, Any] = {"__name__": "recycleseg.made_up"}
    exec("def read(path, error):\n    raise error", module)
    module["read"](path, error)


@pytest.mark.parametrize(
    "number",
    [
        errno.ENOSPC,
        errno.EACCES,
        errno.EIO,
        errno.EROFS,
        errno.EMFILE,
        errno.ENAMETOOLONG,
        errno.EFBIG,
        errno.ELOOP,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.ESTALE,
    ],
)
def test_errors_of_the_system_say_what_to_do(number: int) -> None:
    error = OSError(number, os.strerror(number), "/data/scan.nii.gz")
    text = described(error)
    assert text.startswith(f"/data/scan.nii.gz: {os.strerror(number)}; ")
    assert "\n" not in text and "Errno" not in text and is_expected(error)


def test_links_in_a_circle(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(link)
    error = OSError(errno.ELOOP, "Too many levels of symbolic links", str(link))
    of_pathlib = RuntimeError(f"Symlink loop from {str(link)!r}")  # before Python 3.13
    for one in (error, of_pathlib):
        assert is_expected(one)
        assert described(one).startswith(f"{link}: ")
        assert described(one).endswith("a link leads back to itself; delete it")


def test_both_files_of_a_rename() -> None:
    error = OSError(errno.EXDEV, "Invalid cross-device link", "/a", None, "/b")
    assert described(error) == "/a -> /b: Invalid cross-device link"


def test_a_message_of_the_package_stays() -> None:
    error = FileError("a.json: 2 problems\n  - one\n  - two")
    assert described(error) == str(error) and is_expected(error)
    own = caught(lambda: raised_in_the_package(Path(), ValueError("steps: expected 1, got 0")))
    assert described(own) == "steps: expected 1, got 0" and is_expected(own)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate 2 GiB"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=["Python", "CPU", "GPU", "system"],
)
def test_too_little_memory(error: Exception) -> None:
    text = described(error)
    assert text.startswith("expected more free memory, got none left")
    assert "; close other programs" in text and "\n" not in text and is_expected(error)


@pytest.mark.parametrize(
    "error",
    [
        EOFError("ended early"),
        RecursionError("too deep"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        zipfile.BadZipFile("no zip"),
        zlib.error("Error -3"),
    ],
)
def test_signs_of_a_damaged_file(error: Exception, tmp_path: Path) -> None:
    raised = caught(lambda: raised_in_the_package(tmp_path / "plan.json", error))
    assert raised is error and is_expected(raised)
    assert described(raised) == (
        f"{tmp_path / 'plan.json'}: expected a whole file, got: {type(error).__name__}: {error}, "
        "in recycleseg.made_up, line 2"
    )


@pytest.mark.parametrize("error", [KeyError("spacing"), AttributeError("no such thing")])
def test_other_errors_are_faults_of_the_program(error: Exception, tmp_path: Path) -> None:
    raised = caught(lambda: raised_in_the_package(tmp_path / "plan.json", error))
    assert raised is error and not is_expected(raised)
    assert described(raised) == (
        f"{type(error).__name__}: {error}; nobody expected this error, in recycleseg.made_up, line "
        f"2, with {tmp_path / 'plan.json'}; {DEBUG}=1 shows the traceback for a report of it"
    )


def test_a_value_error_of_a_library_is_no_message_for_the_user() -> None:
    unknown = caught(lambda: int("x"))
    assert not is_expected(unknown) and "ValueError: invalid literal" in described(unknown)


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_traceback_on_request(
    value: str, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(DEBUG, value)
    show_traceback(caught(lambda: int("x")))
    assert ("Traceback (most recent call last)" in capsys.readouterr().err) is shown


class Wrapped(Exception):
    """What a library makes of an error of the system."""


def fails_on_a_full_disk(temporary: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def hides_the_reason(temporary: Path) -> None:
    try:
        fails_on_a_full_disk(temporary)
    except OSError:
        raise Wrapped("cannot close while writing") from None


def tells_it_in_words(temporary: Path) -> None:
    raise Wrapped("I/O error: No space left on device (os error 28)")


def tells_no_number(temporary: Path) -> None:
    raise OSError("encoder error -2 when writing image file")


@pytest.mark.parametrize(
    ("fail", "number"),
    [
        (fails_on_a_full_disk, errno.ENOSPC),
        (hides_the_reason, errno.ENOSPC),
        (tells_it_in_words, errno.ENOSPC),
        (tells_no_number, errno.EIO),
    ],
)
def test_a_file_that_cannot_be_written_is_named(
    fail: Callable[[Path], None], number: int, tmp_path: Path
) -> None:
    path = tmp_path / "map.png"
    path.write_text("old")

    def write() -> None:
        with written_whole(path) as temporary:
            temporary.write_text("half")
            fail(temporary)

    error = caught(write)
    assert isinstance(error, OSError)
    assert (error.errno, error.filename) == (number, str(path))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
