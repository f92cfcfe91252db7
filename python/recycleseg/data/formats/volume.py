"""What every format reads and writes."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from recycleseg.files import FileError

Array = np.ndarray[Any, Any]
# Structure -> its label value, or the values of a region.
Names = Mapping[str, int | tuple[int, ...]]
# What a file is read as: values of classes, one channel as stored, the intensities of one channel,
# or all channels it has.
Content = Literal["label", "stored", "grey", "channels"]
MAX_CHANNELS = 4096

_SIGNATURES = {
    b"\x1f\x8b": "a gzip stream",
    b"\x89PNG": "a PNG file",
    b"\xff\xd8\xff": "a JPEG file",
    b"PK\x03\x04": "a zip archive",
    b"II*\0": "a TIFF file",
    b"MM\0*": "a TIFF file",
    b"NRRD": "an NRRD file",
    **{struct.pack(o + "i", size): "a NIfTI file" for size in (348, 540) for o in "<>"},
}


@dataclass(frozen=True)
class Volume:
    """One image or label file as stored.

    Attributes:
        array: (*S), any real dtype: (x, y, z) of a volume, (height, width) of a 2D image.
        spacing: voxel size in mm along the axes of `array`; None if it is unknown.
        affine: (4, 4) voxel index -> world coordinates in mm, along right, anterior, superior;
            None for PNG and TIFF, which have no place in space.
        path: the file, or the folder of a DICOM series.
        header: of a NIfTI file, so that a result can be written with its orientation codes.
        screen_spacing: pixel size in mm that a 2D file gives by 72 or 96 dots per inch. Programs
            write these for screens, whatever the image shows, so `spacing` is None then.
    """

    array: Array
    spacing: tuple[float, ...] | None
    affine: Array | None
    path: Path
    header: nib.Nifti1Header | None = None
    screen_spacing: tuple[float, ...] | None = None


def case_and_channel(stem: str) -> tuple[str, int | None]:
    """The case and the channel in the name of a file without its ending.

    Returns:
        CASE and 3 for CASE_0003; the name and None without such a number.
    """
    match = re.fullmatch(r"(.+)_(\d{4})", stem, re.DOTALL)
    return (stem, None) if match is None else (match[1], int(match[2]))


def check_channels(path: Path, number: int) -> None:
    """Refuse a file that declares more channels than any image has, each of which takes memory.

    Raises:
        FileError: there are more than `MAX_CHANNELS`.
    """
    if number > MAX_CHANNELS:
        raise FileError(f"{path}: expected at most {MAX_CHANNELS} channels, got {number}")


def voxel_sizes(affine: Array) -> tuple[float, ...]:
    """Voxel size in mm along each axis of an affine (4, 4)."""
    return tuple(float(size) for size in nib.affines.voxel_sizes(affine))


def swap_lps_ras(affine: Array) -> Array:
    """An affine (4, 4) of ITK or DICOM (left, posterior, superior) as NIfTI's, or the reverse."""
    swapped: Array = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return swapped


def kind_of(content: bytes) -> str:
    """The probable kind of a file whose content does not fit its ending."""
    if not content:
        return "an empty file"
    if content[128:132] == b"DICM":
        return "a DICOM file"
    kinds = [kind for start, kind in _SIGNATURES.items() if content.startswith(start)]
    return kinds[0] if kinds else f"a file of another kind, that begins with {content[:8]!r}"
