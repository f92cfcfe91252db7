"""What commands tell and return when something goes wrong."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from recycleseg.cli._common import run_command
from recycleseg.files import FileError

# Prints more than a pipe holds.
TALKER = """
import sys
from recycleseg.cli._common import run_command
from recycleseg.progress import plain_console, print_line

def talk():
    for _ in range(20000):
        print(7 * "words ") if sys.argv[1] == "print" else print_line(console, 7 * "words ")
    return 0

console = plain_console()
sys.exit(run_command("recycle-test", talk, ""))
"""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (FileError("a.png: expected x, got y"), 2, "a.png: expected x, got y"),
        (
            OSError(errno.EMFILE, "Too many open files", "a.png"),
            2,
            "a.png: Too many open files; raise the limit of this session (ulimit -n)",
        ),
        (MemoryError(), 2, "expected more free memory, got none left"),
        (KeyError("x"), 1, "KeyError: 'x'; nobody expected this error"),
        (EOFError("ended"), 2, "a file: expected a whole file, got: EOFError: ended"),
    ],
)
def test_one_line(
    error: Exception,
    code: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def command() -> int:
        raise error

    assert run_command("recycle-test", command, "") == code
    (only,) = capsys.readouterr().err.splitlines()
    assert only.startswith(f"recycle-test: error: {line}")
    monkeypatch.setenv("RECYCLESEG_DEBUG", "1")
    assert run_command("recycle-test", command, "") == code
    *trace, last = capsys.readouterr().err.splitlines()
    assert trace[0] == "Traceback (most recent call last):" and last == only


def test_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise KeyboardInterrupt

    assert run_command("recycle-test", command, "go on so") == 130
    assert capsys.readouterr().err == "recycle-test: interrupted; go on so\n"


@pytest.mark.parametrize("way", ["print", "console"])
def test_output_that_nobody_reads(way: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", TALKER, way],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().startswith(b"words")
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("way", ["print", "console"])
def test_output_to_a_full_disk(way: str, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", TALKER, way], stdout=full, stderr=subprocess.PIPE, cwd=tmp_path
        )
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert "No space left on device" in line and line.startswith("recycle-test: error: ")
