"""Whether a MetaImage (.mha, .mhd) is whole, because ITK reads damaged voxels without an error."""

from __future__ import annotations

import math
import os
import zlib
from pathlib import Path
from typing import BinaryIO

from recycleseg.data.formats.volume import kind_of
from recycleseg.files import FileError

_BYTES = {
    **{"MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4},
    **{"MET_FLOAT": 4, "MET_DOUBLE": 8, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8},
}
_LONGEST_HEADER = 1 << 16
_BLOCK = 1 << 16


def check_metaimage(path: Path) -> None:
    """Raise ValueError if the header lacks something, or if voxels are missing or damaged."""
    with path.open("rb") as file:
        start = file.read(_LONGEST_HEADER)
        fields, end = _fields(start)
        if lacking := [n for n in ("NDims", "DimSize", "ElementDataFile") if n not in fields]:
            lacks = f"a header without {', '.join(lacking)}"
            raise ValueError(kind_of(start[:132]) if len(lacking) == 3 else lacks)
        if fields.get("CompressedDataSize", "0").strip("0123456789"):
            raise ValueError(f"CompressedDataSize {fields['CompressedDataSize']}")
        needed = _needed(fields)
        source = fields["ElementDataFile"]
        if needed is None or "HeaderSize" in fields or source == "LIST" or "%" in source:
            return  # other layouts are left to ITK
        if source in ("LOCAL", "Local", "local"):
            file.seek(end)
            _check_voxels(file, fields, needed)
            return
    data = path.parent / source
    if not data.is_file():
        raise FileError(f"{path}: expected its voxels in {data}, got a path that does not exist")
    with data.open("rb") as file:
        _check_voxels(file, fields, needed)


def voxels_of_mhd(path: Path) -> list[Path]:
    """The file with the voxels of an .mhd header, if it exists."""
    with path.open("rb") as file:
        source = _fields(file.read(_LONGEST_HEADER))[0].get("ElementDataFile", "")
    return [path.parent / source] if (path.parent / source).is_file() else []


def _fields(start: bytes) -> tuple[dict[str, str], int]:
    """The fields of a header, of which ElementDataFile is the last, and the header's length."""
    fields: dict[str, str] = {}
    position = 0
    while "ElementDataFile" not in fields and position < len(start):
        line, newline, _ = start[position:].partition(b"\n")
        position += len(line) + len(newline)
        name, equals, value = line.decode("latin-1").partition("=")
        if not equals:
            break
        fields[name.strip()] = value.strip()
    return fields, position


def _needed(fields: dict[str, str]) -> int | None:
    """Number of bytes of all voxels, uncompressed; None if the header is unusual."""
    itemsize = _BYTES.get(fields.get("ElementType", ""))
    sizes, channels = fields["DimSize"].split(), fields.get("ElementNumberOfChannels", "1")
    if itemsize is None or not all(map(str.isdecimal, (*sizes, channels))):
        return None
    return math.prod(map(int, sizes)) * int(channels) * itemsize


def _check_voxels(file: BinaryIO, fields: dict[str, str], needed: int) -> None:
    packed, size = int(fields.get("CompressedDataSize", 0)), os.fstat(file.fileno()).st_size
    if packed > size:  # ITK takes as much memory
        raise ValueError(f"{size} of {packed} bytes of packed voxels")
    there = 0
    stream = zlib.decompressobj() if fields.get("CompressedData", "").lower() == "true" else None
    while block := file.read(_BLOCK):
        there += len(block if stream is None else stream.decompress(block, needed + 1 - there))
        if there > needed or (stream is not None and stream.eof):
            break
    if there < needed or (stream is not None and not stream.eof):
        raise ValueError(f"{there} of {needed} bytes of voxels")
