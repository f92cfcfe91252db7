"""Image files: NIfTI (3D) and PNG (2D) with their voxel size in millimetres."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

SPATIAL_DIMS = {".nii.gz": 3, ".nii": 3, ".png": 2}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY_MODES = ("1", "L", "I;16", "I;16B", "I")
_MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}


class DatasetError(ValueError):
    """Something is wrong with the data, not with an argument; the message names the file."""


@dataclass(frozen=True)
class Volume:
    """One image or label file as stored.

    Attributes:
        array: (*S), any real dtype; a PNG is (height, width).
        spacing: voxel size in mm along the axes of `array`; 1.0 where the file does not say.
        affine: (4, 4) voxel index -> world coordinates in mm, NIfTI only.
        path: the file.
        spacing_known: whether the file told the voxel size.
    """

    array: np.ndarray[Any, Any]
    spacing: tuple[float, ...]
    affine: np.ndarray[Any, Any] | None
    path: Path
    spacing_known: bool = True


def file_ending(path: Path) -> str:
    """The ending of a supported file (".nii.gz", ".nii" or ".png"), or "" for any other."""
    return next((ending for ending in SPATIAL_DIMS if path.name.endswith(ending)), "")


def read_volume(path: Path | str) -> Volume:
    """Read a NIfTI or PNG file as stored, without reorienting it.

    A NIfTI file must have three axes; a PNG must be grey with 8 or 16 bits (colour is refused,
    for turning it into intensities is the user's choice). The pixel size of a PNG comes from its
    pHYs chunk (PNG specification, third edition, section 11.3.4.3) in pixels per metre.

    Raises:
        DatasetError: missing, truncated or corrupt file, or one of another kind.
    """
    path = Path(path)
    readers = {".nii.gz": _read_nifti, ".nii": _read_nifti, ".png": _read_png}
    if (ending := file_ending(path)) not in readers:
        raise DatasetError(f"{path}: expected a file ending in {', '.join(readers)}")
    if not path.is_file():
        raise DatasetError(f"{path}: expected a file, got none there")
    try:
        return readers[ending](path)
    except DatasetError:
        raise
    except Exception as error:  # zlib, nibabel and Pillow meet damaged bytes with any kind
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"{path}: expected a whole {ending} file, got: {reason}") from error


def write_volume(
    path: Path | str,
    array: np.ndarray[Any, Any],
    *,
    spacing: tuple[float, ...],
    affine: np.ndarray[Any, Any] | None = None,
) -> None:
    """Write an array (*S) to a NIfTI file (3D, dtype kept) or a PNG (2D, uint8 or uint16).

    Args:
        spacing: voxel size in mm in array-axis order; a NIfTI file with `affine` ignores it.
        affine: (4, 4); None: axes along right, anterior, superior.
    """
    path = Path(path)
    if SPATIAL_DIMS.get(file_ending(path)) != array.ndim:
        raise ValueError(f"path: expected an ending for {array.ndim} axes, got {path.name}")
    if array.ndim == 2:
        if array.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"array: expected uint8 or uint16 for a PNG, got {array.dtype}")
        dpi = (25.4 / spacing[1], 25.4 / spacing[0])
        Image.fromarray(array).save(path, dpi=dpi)
        return
    grid = np.diag([*spacing, 1.0]) if affine is None else affine
    image = nib.Nifti1Image(array, grid)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _read_nifti(path: Path) -> Volume:
    content = path.read_bytes()
    if path.name.endswith(".gz"):
        # The whole stream at once, so that its checksum is verified too.
        content = gzip.decompress(content)
    is_nifti2 = content[:4] in (struct.pack("<i", 540), struct.pack(">i", 540))
    image = (nib.Nifti2Image if is_nifti2 else nib.Nifti1Image).from_bytes(content)
    if len(image.shape) != 3:
        raise DatasetError(
            f"{path}: expected 3 axes, got {len(image.shape)} with shape {image.shape}; "
            "several channels are separate files CASE_0000, CASE_0001, ..."
        )
    array = np.asanyarray(image.dataobj)
    if array.dtype.kind not in "buif":
        raise DatasetError(f"{path}: expected real numbers, got {array.dtype}")
    affine = np.array(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise DatasetError(f"{path}: expected an invertible affine, got {affine.tolist()}")
    affine[:3] *= _MM_PER_UNIT.get(image.header.get_xyzt_units()[0], 1.0)
    spacing = tuple(float(size) for size in nib.affines.voxel_sizes(affine))
    return Volume(array, spacing, affine, path)


def _read_png(path: Path) -> Volume:
    content = path.read_bytes()
    spacing = None
    for kind, data in _png_chunks(content):
        if kind == b"pHYs":
            spacing = _pixel_size(data)
    with Image.open(io.BytesIO(content)) as image:
        if image.mode not in _GREY_MODES:
            raise DatasetError(
                f"{path}: expected a grey PNG of 8 or 16 bits, got mode {image.mode}; "
                "save colour channels as separate files CASE_0000, CASE_0001, ..."
            )
        array = np.array(image)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    return Volume(array, spacing or (1.0, 1.0), None, path, spacing_known=spacing is not None)


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and data of every chunk; raises where the file ends early or a checksum differs."""
    if not content.startswith(_PNG_SIGNATURE):
        raise ValueError("no PNG signature")
    position = len(_PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, position)
        data = content[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack_from(">I", content, position + 8 + length)
        if zlib.crc32(kind + data) != checksum:
            raise ValueError(f"checksum of chunk {kind.decode('ascii', 'replace')} differs")
        yield kind, data
        position += 12 + length


def _pixel_size(phys: bytes) -> tuple[float, float] | None:
    """Pixel height and width in mm, None where the chunk gives only their ratio."""
    per_metre_x, per_metre_y, unit = struct.unpack(">IIB", phys)
    if unit != 1 or per_metre_x == 0 or per_metre_y == 0:
        return None
    return 1000.0 / per_metre_y, 1000.0 / per_metre_x
