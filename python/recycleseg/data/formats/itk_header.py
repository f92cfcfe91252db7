"""The voxel size in headers of MHA, MHD and NRRD, because ITK takes 1 mm where there is none."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import BinaryIO

from recycleseg.data.formats.volume import kind_of
from recycleseg.files import FileError

_LONGEST = 1 << 20
_BLOCK = 1 << 20
# ITK copies lines of an NRRD header, but comments and free texts, into places of 512 bytes.
_LONGEST_LINE = 300
# The first words of the lines that give the size of voxels.
_SIZES = {
    ".mha": (b"ElementSpacing", b"ElementSize"),
    ".mhd": (b"ElementSpacing", b"ElementSize"),
    ".nrrd": (b"spacings", b"space directions"),
}


def gives_size(path: Path) -> bool:
    """Whether a file gives the size of its voxels; a GIPL file always does."""
    names = _SIZES.get(path.suffix.lower())
    if names is None:
        return True
    with path.open("rb") as file:
        header, _ = _split(file.read(_LONGEST))
    return any(line.startswith(names) and b"nan" not in line.lower() for line in header)


def check_nrrd(path: Path) -> None:
    """Check the header of an NRRD before ITK parses it, which a long line can make crash.

    Raises:
        FileError: the voxels are in other files, which the header may name anywhere.
        ValueError: the header has no end, or a line that is too long.
    """
    with path.open("rb") as file:
        lines, _ = _nrrd_header(file)
    if max(map(len, lines), default=0) > _LONGEST_LINE:
        raise ValueError(f"a line of more than {_LONGEST_LINE} bytes in its header")
    if not _names(lines).keys().isdisjoint({b"data file", b"datafile"}):
        raise FileError(f"{path}: expected the voxels in the file itself, got the name of another")


def check_nrrd_stream(path: Path, needed: int) -> None:
    """Raise ValueError if a packed stream of voxels has fewer bytes than the header declares."""
    with path.open("rb") as file:
        lines, length = _nrrd_header(file)
        names = _names(lines)
        is_skipped = any(b"skip" in name for name in names)
        if names.get(b"encoding") not in (b"gzip", b"gz") or is_skipped:
            return
        file.seek(length)
        there, stream = 0, gzip.GzipFile(fileobj=file, mode="rb")
        while there < needed and (piece := stream.read(_BLOCK)):
            there += len(piece)
    if there < needed:
        raise ValueError(f"{there} of {needed} bytes of voxels")


def _nrrd_header(file: BinaryIO) -> tuple[list[bytes], int]:
    """The lines of an NRRD header without comments and free texts, and the header's length."""
    start = file.read(_LONGEST)
    if not start.startswith(b"NRRD"):
        raise ValueError(kind_of(start[:132]))
    end = re.search(rb"\n\r?\n", start)
    # Without voxels behind it, a header ends with the file.
    length = len(start) if end is None else end.end()
    if end is None and len(start) == _LONGEST:
        raise ValueError(f"a header of more than {_LONGEST} bytes")
    lines = re.split(rb"\r?\n", start[:length])
    return [line for line in lines if not line.startswith(b"#") and b":=" not in line], length


def _names(lines: list[bytes]) -> dict[bytes, bytes]:
    """Field -> value of an NRRD header, in lower case."""
    fields = (line.partition(b":") for line in lines)
    return {name.strip().lower(): value.strip().lower() for name, _, value in fields}


def without_size(content: bytes, ending: str) -> bytes:
    """A file without the lines of its header that give the size of its voxels."""
    header, voxels = _split(content)
    removed = _SIZES.get(ending, ())
    return b"".join(line for line in header if not line.startswith(removed)) + voxels


def _split(content: bytes) -> tuple[list[bytes], bytes]:
    """The lines of a header, and what follows them."""
    lines: list[bytes] = []
    position = 0
    while position < len(content):
        end = content.find(b"\n", position) + 1 or len(content)
        lines.append(content[position:end])
        position = end
        # The last line of a MetaImage header, and of an NRRD header.
        if lines[-1].startswith(b"ElementDataFile") or not lines[-1].strip():
            break
    return lines, content[position:]
