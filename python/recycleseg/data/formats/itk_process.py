"""Files read by ITK in a process of its own, because ITK crashes on some damaged files.

This file is also the program of that process. Requests and answers are lines of JSON; voxels follow
their line as they are in memory.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ItkHeader:
    """What ITK reads of a file before the voxels; axes are x, y, z and perhaps a fourth.

    Attributes:
        size: voxels along each axis.
        components: numbers per voxel.
        dtype: NumPy's name of their type.
        spacing: mm along each axis.
        origin: place of the first voxel in mm: left, posterior, superior.
        direction: the axes in the same coordinates, a matrix row by row.
    """

    size: tuple[int, ...]
    components: int
    dtype: str
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]


class ItkFile:
    """A file of which ITK has read the header; see `open_itk`."""

    def __init__(self, process: _Process, header: ItkHeader) -> None:
        self._process = process
        self.header = header

    def voxels(self) -> Array:
        """The voxels (z, y, x), with a last axis for several components.

        Raises:
            ValueError: ITK cannot read them; the message says why.
        """
        answer = self._process.ask("voxels")
        array: Array = np.empty(answer["shape"], answer["dtype"])
        self._process.fill(array)
        return array


@contextmanager
def open_itk(path: Path, image_io: str) -> Iterator[ItkFile]:
    """Read the header of a file.

    Args:
        path: the file.
        image_io: ITK's reader.

    Raises:
        ValueError: ITK cannot read the file, or crashes; the message says why.
    """
    idle = _IDLE.setdefault(os.getpid(), [])  # a forked process may not use its parent's
    process = idle.pop() if idle else _Process()
    if not process.is_alive():  # somebody ended it while it had no work
        process.close()
        process = _Process()
    try:
        header = process.ask("header", str(path.absolute()), image_io)
        yield ItkFile(process, ItkHeader(**{key: _tuple(v) for key, v in header.items()}))
    finally:
        if process.works:
            idle.append(process)
        else:
            process.close()


class _Process:
    """ITK in a process. It ends when this one ends, also by a kill, because its input ends then."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # ITK's warnings
            start_new_session=True,  # Ctrl-C is for this process
        )
        self.works = True

    def ask(self, *request: str) -> dict[str, Any]:
        """The answer to a request; ValueError if there is none."""
        assert self._child.stdin is not None and self._child.stdout is not None
        # Until the answer is whole: after an interruption its rest must not be taken for the next.
        self.works = False
        try:
            _send(self._child.stdin, request)
            line = self._child.stdout.readline()
        except OSError:  # the pipe is broken
            line = b""
        if not line:
            raise ValueError(f"a file at which ITK ends with {self._end()}")
        answer = json.loads(line)
        self.works = "shape" not in answer
        if "error" in answer:
            raise ValueError(answer["error"])
        return dict(answer)

    def fill(self, array: Array) -> None:
        """Read the voxels that follow an answer."""
        stdout = cast(BufferedReader, self._child.stdout)
        if array.size and stdout.readinto(_bytes(array)) != array.nbytes:
            raise ValueError(f"a file at which ITK ends with {self._end()}")
        self.works = True

    def _end(self) -> str:
        """How the process ended."""
        code = self._child.wait()
        with suppress(ValueError):
            return signal.Signals(-code).name
        return f"exit code {code}"

    def is_alive(self) -> bool:
        """Whether the process can answer."""
        return self._child.poll() is None

    def close(self) -> None:
        """End the process."""
        assert self._child.stdin is not None and self._child.stdout is not None
        with suppress(OSError):  # what it did not read any more
            self._child.stdin.close()
        self._child.stdout.close()
        self._child.kill()
        self._child.wait()


# Process id -> processes without work. Each thread that reads takes one, and gives it back.
_IDLE: dict[int, list[_Process]] = {}


@atexit.register
def _close_all() -> None:
    for process in _IDLE.pop(os.getpid(), []):
        process.close()


def _send(stream: IO[bytes], message: Any) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _serve() -> None:
    """Answer requests until the input ends."""
    sitk: Any = import_module("SimpleITK")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    answers, reader = sys.stdout.buffer, sitk.ImageFileReader()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        voxels: Array | None = None
        answer: dict[str, Any]
        try:
            if request[0] == "header":
                reader.SetFileName(request[1])
                reader.SetImageIO(request[2])
                reader.ReadImageInformation()
                # An image of one voxel tells the type of its numbers.
                one = sitk.Image([1, 1], reader.GetPixelID())
                answer = {
                    "size": reader.GetSize(),
                    "components": reader.GetNumberOfComponents(),
                    "dtype": sitk.GetArrayViewFromImage(one).dtype.str,
                    "spacing": reader.GetSpacing(),
                    "origin": reader.GetOrigin(),
                    "direction": reader.GetDirection(),
                }
            else:
                image = reader.Execute()
                voxels = sitk.GetArrayViewFromImage(image)
                answer = {"shape": voxels.shape, "dtype": voxels.dtype.str}
        except Exception as error:
            # Several lines, of which the last one tells the reason.
            text = (str(error) or type(error).__name__).strip().splitlines()[-1]
            answer = {"error": text.split("): ", 1)[-1].strip()}
        _send(answers, answer)
        if voxels is not None:
            answers.write(_bytes(voxels))
            answers.flush()
            del voxels, image  # frees the memory before the next request


if __name__ == "__main__":
    _serve()
