"""DICOM: a folder with one series is a volume, a file may hold one too, or a segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recycleseg.data.formats.extra import needed
from recycleseg.data.formats.volume import Array, Content, Volume, swap_lps_ras, voxel_sizes
from recycleseg.files import FileError, listed

_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_TAGS = [
    *("SOPClassUID", "SeriesInstanceUID", "SeriesDescription", "Modality", "NumberOfFrames"),
    *("Rows", "Columns", "SamplesPerPixel", "ImagePositionPatient", "ImageOrientationPatient"),
    *("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
]
# Scanners round positions to 0.01 mm or more; a slice that is missing makes a gap of 100 % more.
_TOLERANCE = 0.05


@dataclass(frozen=True)
class _Slice:
    """A file of a series: its header without pixels, and the upper left voxel's centre in mm."""

    path: Path
    header: Any
    position: Array


def is_series(path: Path) -> bool:
    """Whether a path is a folder with a DICOM file in it."""
    return path.is_dir() and any(map(_is_dicom, path.iterdir()))


def read_dicom(path: Path, content: Content) -> list[Volume]:
    """The volume (x, y, z) of a series, of a file with several frames, or of a segmentation.

    The axes are right to left by columns, then rows, then slices along the normal of their plane.
    Values are rescaled by slope and intercept.
    """
    if path.is_dir():
        return [_read_series(path)]
    header = needed("pydicom", path).dcmread(path, stop_before_pixels=True)
    if header.get("SOPClassUID") in _SEGMENTATIONS:
        segmentation = needed("highdicom", path).seg.segread(path)
        return [_of_frames(path, _combined(segmentation, path))]
    if int(header.get("NumberOfFrames", 1)) > 1:
        return [_of_frames(path, needed("highdicom", path).imread(path).get_volume())]
    return [_stack(path, _sorted(path, [_Slice(path, header, _position(path, header))]))]


def slices_of(folder: Path) -> list[Path]:
    """The files of a series in the order of the slices of `read_dicom`."""
    return [part.path for part in _slices(folder)]


def _is_dicom(path: Path) -> bool:
    if path.name.startswith(".") or path.name == "DICOMDIR" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _read_series(folder: Path) -> Volume:
    slices = _slices(folder)
    if int(slices[0].header.get("NumberOfFrames", 1)) == 1:
        return _stack(folder, slices)
    if len(slices) > 1:
        raise FileError(f"{folder}: expected one file of several frames, got {len(slices)}")
    return _of_frames(folder, needed("highdicom", folder).imread(slices[0].path).get_volume())


def _slices(folder: Path) -> list[_Slice]:
    """The images in a folder, all of one series, sorted; other DICOM objects are left out."""
    dcmread = needed("pydicom", folder).dcmread
    series: dict[str, list[tuple[Path, Any]]] = {}
    for path in sorted(filter(_is_dicom, folder.iterdir())):
        header = dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
        if "Rows" in header and header.get("SOPClassUID") not in _SEGMENTATIONS:
            series.setdefault(str(header.get("SeriesInstanceUID")), []).append((path, header))
    if not series:
        raise FileError(f"{folder}: expected a DICOM series, got no DICOM image")
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
    files = next(iter(series.values()))
    if int(files[0][1].get("NumberOfFrames", 1)) > 1:  # the positions are those of the frames
        return [_Slice(path, header, np.zeros(3)) for path, header in files]
    return _sorted(folder, [_Slice(path, h, _position(path, h)) for path, h in files])


def _position(path: Path, header: Any) -> Array:
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


def _sorted(path: Path, slices: list[_Slice]) -> list[_Slice]:
    """Slices along the normal of their plane; errors name `path`."""
    first = slices[0].header
    for part in slices:
        for name, tolerance in (
            ("Rows", 0.0),
            ("Columns", 0.0),
            ("PixelSpacing", 1e-3),
            ("ImageOrientationPatient", 1e-3),
        ):
            expected, got = (np.array(h.get(name), np.float64) for h in (first, part.header))
            if not np.allclose(got, expected, rtol=0, atol=tolerance):
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
    if (number := int((gaps < 1e-3).sum())) > 0:
        raise FileError(
            f"{path}: expected one slice at each position, got {number} more; a series of several "
            "phases or echoes must be split first"
        )
    step = np.median(steps, axis=0)
    wrong = np.linalg.norm(steps - step, axis=1)
    worst = int(wrong.argmax())
    if wrong[worst] > _TOLERANCE * np.linalg.norm(step):
        raise FileError(
            f"{path}: expected equal distances between slices, got {gaps.min():g} to "
            f"{gaps.max():g} mm; the distance from {ordered[worst].path.name} to "
            f"{ordered[worst + 1].path.name} differs, so a slice may be missing there"
        )
    return ordered


def _directions(header: Any) -> tuple[Array, Array]:
    """Unit vectors along a row and along a column."""
    numbers = np.array(header.ImageOrientationPatient, dtype=np.float64)
    along_row, along_column = numbers[:3], numbers[3:]
    return along_row / np.linalg.norm(along_row), along_column / np.linalg.norm(along_column)


def _stack(path: Path, slices: list[_Slice]) -> Volume:
    first, last = slices[0], slices[-1]
    along_row, along_column = _directions(first.header)
    between_rows, between_columns = map(float, first.header.PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along_row * between_columns, along_column * between_rows
    if len(slices) > 1:
        affine[:3, 2] = (last.position - first.position) / (len(slices) - 1)
    else:
        thickness = first.header.get("SpacingBetweenSlices") or first.header.get("SliceThickness")
        affine[:3, 2] = np.cross(along_row, along_column) * float(thickness or 1.0)
    affine[:3, 3] = first.position
    array = np.stack([_pixels(part) for part in slices])
    return _volume(path, array, affine)


def _pixels(part: _Slice) -> Array:
    """Rescaled values (rows, columns). ITK reads them because it knows all kinds of compression."""
    sitk = needed("SimpleITK", part.path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(part.path))
    try:
        array: Array = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].split("): ", 1)[-1]
        raise FileError(f"{part.path}: expected a whole DICOM file, got: {reason}") from error
    return array.reshape(array.shape[-2:])


def _combined(segmentation: Any, path: Path) -> Any:
    """A volume of highdicom whose values are the numbers of the segments."""
    try:
        return segmentation.get_volume(combine_segments=True, rescale_fractional=False)
    except RuntimeError as error:
        raise FileError(
            f"{path}: expected segments that do not overlap, got: {' '.join(str(error).split())}"
        ) from error


def _of_frames(path: Path, volume: Any) -> Volume:
    """A volume of highdicom, whose axes are slices, rows and columns."""
    array, affine = volume.array, np.array(volume.affine)[:, [2, 1, 0, 3]]
    if np.linalg.det(affine[:3, :3]) < 0:  # slices against the normal of their plane
        affine[:3, 3] += affine[:3, 2] * (len(array) - 1)
        affine[:3, 2] *= -1
        array = array[::-1]
    return _volume(path, array, affine)


def _volume(path: Path, array: Array, lps: Array) -> Volume:
    affine = swap_lps_ras(lps)
    return Volume(array.transpose(2, 1, 0), voxel_sizes(affine), affine, path)
