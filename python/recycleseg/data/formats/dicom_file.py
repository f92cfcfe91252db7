"""One DICOM file, in no more memory than its size allows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from recycleseg.data.formats.extra import needed
from recycleseg.limits import check_memory

# A deflate stream unpacks to at most this many times its size.
_DEFLATE_FACTOR = 1032


class DicomFile(io.BufferedReader):
    """A file for pydicom, which asks for as many bytes as an element claims to have.

    Args:
        path: the file.

    Raises:
        FileError: in `read`, if the file takes too much memory; see `check_memory`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._path, self._size = path, path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes; memory is taken only for those that there are."""
        rest = max(self._size - self.tell(), 0)
        if size is None or size < 0:  # pydicom reads the rest in order to unpack all of it at once
            check_memory(self._path, 2 * _DEFLATE_FACTOR * rest)
            size = rest
        return super().read(min(size, rest))


def read_dicom_file(path: Path, **options: Any) -> Any:
    """The data set of a file; options are those of `pydicom.dcmread`."""
    with DicomFile(path) as file:
        return needed("pydicom", path).dcmread(file, **options)
