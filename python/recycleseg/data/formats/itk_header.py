"""The voxel size in headers of MHA, MHD and NRRD, because ITK takes 1 mm where there is none."""

from __future__ import annotations

import gzip
from pathlib import Path

from recycleseg.files import FileError

_LONGEST = 1 << 16
_BLOCK = 1 << 20
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


def check_nrrd(path: Path, needed: int) -> None:
    """Check an NRRD before ITK takes memory for its voxels.

    Args:
        path: the file.
        needed: bytes of voxels that its header declares.

    Raises:
        FileError: the voxels are in other files, which the header may name anywhere.
        ValueError: a packed stream holds fewer bytes.
    """
    with path.open("rb") as file:
        header, _ = _split(file.read(_LONGEST))
        names = {line.partition(b":")[0].strip().lower(): line for line in header}
        if not names.keys().isdisjoint({b"data file", b"datafile"}):
            raise FileError(
                f"{path}: expected the voxels in the file itself, got the name of another"
            )
        encoding = names.get(b"encoding", b"").partition(b":")[2].strip().lower()
        is_skipped = any(b"skip" in name for name in names)
        if encoding not in (b"gzip", b"gz") or is_skipped:
            return
        file.seek(sum(map(len, header)))
        there, stream = 0, gzip.GzipFile(fileobj=file, mode="rb")
        while there < needed and (piece := stream.read(_BLOCK)):
            there += len(piece)
    if there < needed:
        raise ValueError(f"{there} of {needed} bytes of voxels")


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
