"""One array of an .npz file, read in pieces, as large as its header declares and no larger."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from recycleseg.files import FileError
from recycleseg.limits import check_memory

_BLOCK = 2**20
# As NumPy writes them. Others unpack a whole block of the file at once.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# A deflate stream unpacks to fewer bytes for each of its own.
_MOST_UNPACKED = 1100


def read_npy(
    archive: zipfile.ZipFile, name: str, path: Path, most_values: int | None = None
) -> np.ndarray[Any, Any]:
    """Read an array of numbers.

    Args:
        archive: the open .npz file.
        name: of the array in it.
        path: of the file.
        most_values: how many numbers the array may have; then it may be packed as tightly as it
            likes. None bounds the memory by the size of the file (`check_memory`).

    Raises:
        FileError: the array declares more numbers, or more memory than there may be.
        ValueError: the array is not whole, or holds something else than numbers.
    """
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in _METHODS:
        raise ValueError(f"an array {name} that is packed by another method than NumPy's")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read_header = np.lib.format.read_array_header_2_0
        shape, in_columns, dtype = read_header(file)
        if dtype.kind not in "buif" or min(shape, default=0) < 0:
            raise ValueError(f"an array {name} of {dtype}, shape {shape}")
        values = math.prod(shape)
        if most_values is not None and values > most_values:
            raise FileError(
                f"{path}: expected at most {most_values} numbers in {name}, got shape {shape}"
            )
        needed = values * dtype.itemsize
        there = info.file_size - file.tell()
        if there != needed or needed > _MOST_UNPACKED * info.compress_size:
            raise ValueError(f"{there} bytes in {name}, whose header declares {needed}")
        check_memory(path, needed, None if most_values is None else needed)
        flat = np.empty(values, dtype)
        _fill(file, flat.view(np.uint8))
        file.read(1)  # at its end its checksum is verified
    return flat.reshape(shape, order="F" if in_columns else "C")


def _fill(file: Any, content: np.ndarray[Any, Any]) -> None:
    """Fill an array of bytes from a file."""
    for start in range(0, len(content), _BLOCK):
        wanted = min(_BLOCK, len(content) - start)
        piece = file.read(wanted)
        if len(piece) < wanted:
            raise ValueError(f"{start + len(piece)} of {len(content)} bytes of an array")
        content[start : start + wanted] = np.frombuffer(piece, np.uint8)
