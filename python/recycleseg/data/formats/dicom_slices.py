"""The slices of a DICOM series, in order, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recycleseg.data.formats.dicom_file import read_dicom_file
from recycleseg.data.formats.volume import Array, Volume, swap_lps_ras, voxel_sizes
from recycleseg.data.grids import GRID_TOLERANCE, same_grid
from recycleseg.files import FileError, listed
from recycleseg.limits import check_memory

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_TAGS = [
    *("SOPClassUID", "SeriesInstanceUID", "SeriesDescription", "Modality", "NumberOfFrames"),
    *("Rows", "Columns", "SamplesPerPixel", "ImagePositionPatient", "ImageOrientationPatient"),
    *("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
]


@dataclass(frozen=True)
class Slice:
    """A file of a series: its header without pixels, and the upper left voxel's centre in mm."""

    path: Path
    header: Any
    position: Array


def is_series(path: Path) -> bool:
    """Whether a path is a folder with a DICOM file in it."""
    return path.is_dir() and any(map(is_dicom, path.iterdir()))


def find_slices(folder: Path) -> list[Slice]:
    """The images in a folder, all of one series, sorted; other DICOM objects are left out.

    Args:
        folder: the folder, or one file.
    """
    series: dict[str, list[tuple[Path, Any]]] = {}
    others: dict[str, None] = {}  # keeps the order, and each kind once
    files = sorted(filter(is_dicom, folder.iterdir())) if folder.is_dir() else [folder]
    for path in files:
        header = read_dicom_file(path, stop_before_pixels=True, specific_tags=_TAGS)
        if "Rows" in header and header.get("SOPClassUID") not in SEGMENTATIONS:
            series.setdefault(str(header.get("SeriesInstanceUID")), []).append((path, header))
        else:
            others[str(header.get("Modality"))] = None
    if not series:
        got = f", but {', '.join(others)}" if others else ""
        raise FileError(f"{folder}: expected a DICOM series, got no DICOM image{got}")
    if len(series) > 1:
        found = [
            f"{header.get('Modality', '')} {header.get('SeriesDescription', '')}: {len(files)} "
            f"files such as {path.name}"
            for files in series.values()
            for path, header in files[:1]
        ]
        raise FileError(
            listed(f"{folder}: expected one series in a folder, got {len(series)}", found)
        )
    images = next(iter(series.values()))
    if not has_frames(images[0][1]):
        return sorted_slices(folder, [Slice(path, h, position_of(path, h)) for path, h in images])
    if len(images) > 1:
        raise FileError(f"{folder}: expected one file of several frames, got {len(images)}")
    return [Slice(path, header, np.zeros(3)) for path, header in images]


def check_slices(path: Path, slices: list[Slice]) -> None:
    """Check the memory that the pixels of a series or of frames take, by their headers.

    Raises:
        FileError: they take too much; see `check_memory`.
    """
    pixels = sum(
        int(part.header.Rows) * int(part.header.Columns) * int(part.header.get("NumberOfFrames", 1))
        for part in slices
    )
    stored = sum(part.path.stat().st_size for part in slices)
    # Rescaled pixels take 4 bytes, once as slices or frames and once as a volume.
    check_memory(path, 8 * pixels, stored)


def has_frames(header: Any) -> bool:
    """Whether a file has several frames, each with its own position, so the file has none."""
    return int(header.get("NumberOfFrames", 1)) > 1


def position_of(path: Path, header: Any) -> Array:
    """Centre of the first voxel of a slice in mm (left, posterior, superior).

    Raises:
        FileError: the header does not place a grey image in space.
    """
    for name, number in (
        ("ImagePositionPatient", 3),
        ("ImageOrientationPatient", 6),
        ("PixelSpacing", 2),
    ):
        if len(header.get(name) or ()) != number:
            raise FileError(
                f"{path}: expected {name} with {number} numbers, got {header.get(name)}; a 2D "
                "image without a place in space can be saved as PNG"
            )
    if header.get("SamplesPerPixel", 1) != 1:
        raise FileError(f"{path}: expected grey, got {header.SamplesPerPixel} colours")
    return np.array(header.ImagePositionPatient, dtype=np.float64)


def sorted_slices(path: Path, slices: list[Slice]) -> list[Slice]:
    """Slices along the normal of their plane; errors name `path`."""
    first = slices[0].header
    for part in slices:
        if (name := _difference(first, part.header)) is not None:
            expected, got = (np.array(h.get(name), np.float64) for h in (first, part.header))
            raise FileError(
                f"{part.path}: expected {name} {expected.tolist()} as {slices[0].path.name}, "
                f"got {got.tolist()}"
            )
    normal = np.cross(*_directions(first))
    ordered = sorted(slices, key=lambda part: float(part.position @ normal))
    steps = np.diff([part.position for part in ordered], axis=0)
    gaps = steps @ normal
    if len(gaps) == 0:
        return ordered
    if (number := int((gaps < _least_gap(first)).sum())) > 0:
        raise FileError(
            f"{path}: expected one slice at each position, got {number} more; a series of several "
            "phases or echoes must be split first"
        )
    step = np.median(steps, axis=0)
    wrong = np.linalg.norm(steps - step, axis=1)
    worst = int(wrong.argmax())
    if wrong[worst] > GRID_TOLERANCE * np.linalg.norm(step):
        raise FileError(
            f"{path}: expected equal distances between slices, got {gaps.min():g} to "
            f"{gaps.max():g} mm; the distance from {ordered[worst].path.name} to "
            f"{ordered[worst + 1].path.name} differs, so a slice may be missing there"
        )
    return ordered


def with_left_out(slices: list[Slice]) -> list[Slice]:
    """Slices and those between them that a DICOM-SEG leaves out, sorted.

    Their distance is SpacingBetweenSlices, else the smallest distance of two slices.
    """
    header = slices[0].header
    normal = np.cross(*_directions(header))
    ordered = sorted(slices, key=lambda part: float(part.position @ normal))
    gaps = np.diff([part.position @ normal for part in ordered])
    if len(gaps) == 0 or (gaps < _least_gap(header)).any():
        return ordered
    step = abs(float(header.get("SpacingBetweenSlices") or 0)) or gaps.min()
    filled = ordered[:1]
    for part, gap in zip(ordered[1:], gaps, strict=True):
        before, number = filled[-1], round(gap / step)
        if abs(gap - number * step) <= GRID_TOLERANCE * step:
            check_memory(part.path, (len(filled) + number) * _bytes_of_slice(header))
            for k in range(1, number):
                between = before.position + (part.position - before.position) * (k / number)
                filled.append(Slice(part.path, header, between))
        filled.append(part)
    return filled


def _bytes_of_slice(header: Any) -> int:
    """Bytes of a slice of labels, and of what is noted about it."""
    return 2 * int(header.Rows) * int(header.Columns) + 1000


def affine_of(slices: list[Slice]) -> Array:
    """Voxel index (x, y, z) -> left, posterior, superior in mm."""
    first, last = slices[0], slices[-1]
    affine = _plane(first.header)
    if len(slices) > 1:
        affine[:3, 2] = (last.position - first.position) / (len(slices) - 1)
    else:
        thickness = first.header.get("SpacingBetweenSlices") or first.header.get("SliceThickness")
        if not thickness:
            raise FileError(
                f"{first.path}: expected SliceThickness of the only slice, got {thickness}"
            )
        affine[:3, 2] *= float(thickness)
    affine[:3, 3] = first.position
    return affine


def volume_of(path: Path, array: Array, lps: Array) -> Volume:
    """The volume of an array (slices, rows, columns) with an affine of `affine_of`."""
    affine = swap_lps_ras(lps)
    return Volume(array.transpose(2, 1, 0), voxel_sizes(affine), affine, path)


def is_dicom(path: Path) -> bool:
    """Whether a path is a DICOM file with the usual beginning."""
    if path.name.startswith(".") or path.name == "DICOMDIR" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _difference(header: Any, other: Any) -> str | None:
    """The tag by which a slice has other voxels in its plane than another one; None if none has."""
    for name in ("Rows", "Columns"):
        if header.get(name) != other.get(name):
            return name
    if same_grid(_plane(header), _plane(other), (header.Columns, header.Rows, 1)):
        return None
    same_size = list(map(float, header.PixelSpacing)) == list(map(float, other.PixelSpacing))
    return "ImageOrientationPatient" if same_size else "PixelSpacing"


def _least_gap(header: Any) -> float:
    """What lies closer together along the normal, in mm, is at one position."""
    return GRID_TOLERANCE * min(map(float, header.PixelSpacing))


def _plane(header: Any) -> Array:
    """Affine (4, 4) of a slice at the origin, in mm; the third axis is the unit normal."""
    along_row, along_column = _directions(header)
    between_rows, between_columns = map(float, header.PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along_row * between_columns, along_column * between_rows
    affine[:3, 2] = np.cross(along_row, along_column)
    return affine


def _directions(header: Any) -> tuple[Array, Array]:
    """Unit vectors along a row and along a column."""
    numbers = np.array(header.ImageOrientationPatient, dtype=np.float64)
    along_row, along_column = numbers[:3], numbers[3:]
    return along_row / np.linalg.norm(along_row), along_column / np.linalg.norm(along_column)
