"""Image files of every format, with their voxel size in millimetres."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import nibabel as nib
import numpy as np

from recycleseg.data.formats.bmp import read_bmp, write_bmp
from recycleseg.data.formats.dicom import read_dicom
from recycleseg.data.formats.dicom_seg import write_dicom_seg
from recycleseg.data.formats.dicom_slices import is_series
from recycleseg.data.formats.itk import read_itk, write_itk
from recycleseg.data.formats.label_values import in_blocks, is_small, whole_numbers
from recycleseg.data.formats.metaimage import voxels_of_mhd
from recycleseg.data.formats.nifti import read_nifti, write_nifti
from recycleseg.data.formats.png import read_png, write_png
from recycleseg.data.formats.tiff import files_beside_tiff, read_tiff, tiff_dims, write_tiff
from recycleseg.data.formats.volume import Content, Names, Volume, case_and_channel
from recycleseg.files import FileError
from recycleseg.ops._arrays import refuse_mask

__all__ = [
    "SINGLE_FILES",
    "SPATIAL_DIMS",
    "PixelSize",
    "Volume",
    "case_and_channel",
    "case_name",
    "file_ending",
    "files_beside",
    "is_series",
    "map_name",
    "read_image",
    "read_label",
    "read_volume",
    "sized",
    "spatial_dims_of",
    "write_like",
    "write_volume",
]

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class _Format:
    """A file format.

    Attributes:
        dims: the numbers of axes that a file may have.
        read: gives all channels.
        write: writes one array on the grid of a volume.
        beside: the other files that a file needs; None if one file is always whole.
    """

    dims: tuple[int, ...]
    read: Callable[[Path, Content], list[Volume]]
    write: Callable[[Path, np.ndarray[Any, Any], Volume, Names | None], None]
    beside: Callable[[Path], list[Path]] | None = None


_DICOM = ".dcm"
_NIFTI = _Format((3,), read_nifti, write_nifti)
_TIFF = _Format((2, 3), read_tiff, write_tiff, files_beside_tiff)
_ITK = _Format((3,), read_itk, write_itk)
_FORMATS = {
    ".nii.gz": _NIFTI,
    ".nii": _NIFTI,
    ".png": _Format((2,), read_png, write_png),
    ".bmp": _Format((2,), read_bmp, write_bmp),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".mha": _ITK,
    ".mhd": _Format((3,), read_itk, write_itk, voxels_of_mhd),
    ".nrrd": _ITK,
    ".gipl": _ITK,
    _DICOM: _Format((3,), read_dicom, write_dicom_seg),
}
# The numbers of axes that a file with an ending may have.
SPATIAL_DIMS = {ending: format.dims for ending, format in _FORMATS.items()}
# Formats without a second file beside them, so that a copy of a file is whole.
SINGLE_FILES = {e for e, format in _FORMATS.items() if format.beside is None and e != _DICOM}

# Which voxel sizes count; see `sized`.
PixelSize = Literal["auto", "file", "ignore"]
_SCREEN_DPI = (72, 96)


def file_ending(path: Path) -> str:
    """The ending of a supported file in lower case, such as ".nii.gz", or "" for any other.

    A folder with a DICOM series has ".dcm", whatever its name.
    """
    ending = _ending_of(path.name)
    return _DICOM if not ending and is_series(path) else ending


def case_name(path: Path) -> str:
    """The name of a file or folder without its ending."""
    return path.name[: len(path.name) - len(_ending_of(path.name))]


def map_name(name: str) -> str:
    """The name of an uncertainty map beside a label map, whose format may hold labels alone."""
    ending = _ending_of(name)
    return name[: len(name) - len(ending)] + {_DICOM: ".nii.gz", ".bmp": ".png"}.get(ending, ending)


def _ending_of(name: str) -> str:
    return next((ending for ending in _FORMATS if name.lower().endswith(ending)), "")


def spatial_dims_of(path: Path) -> int:
    """Number of axes of a file, 2 or 3; only a TIFF is opened for it.

    Raises:
        FileError: the file is missing, damaged or of an unknown kind.
    """
    dims = _format_of(path).dims
    return dims[0] if len(dims) == 1 else _from(path, tiff_dims)


def files_beside(path: Path) -> list[Path]:
    """The other files that an image needs: the voxels of .mhd, the voxel size of a 3D TIFF.

    Raises:
        OSError: the file cannot be read.
    """
    format = _FORMATS.get(file_ending(path))
    return [] if format is None or format.beside is None else format.beside(path)


def read_volume(path: Path | str) -> Volume:
    """Read a file of one channel as stored, without reorienting it.

    The palette of a PNG is not applied: the array holds its indices. Red, green and blue that are
    equal everywhere are one channel.

    Raises:
        FileError: the file is missing, truncated, corrupt, of another kind, or has more channels;
            or it needs too much memory (see `limits.check_memory`).
    """
    return _one(_read(Path(path), "stored"))


def read_image(paths: Sequence[Path | str], num_channels: int | None = None) -> list[Volume]:
    """Read the image of a case: one file per channel, or one file with all channels.

    Args:
        paths: the files, in channel order.
        num_channels: the expected number; None takes the channels that the files have.

    Returns:
        One volume per channel.

    Raises:
        FileError: a file is missing or damaged, or there are more or fewer channels.
    """
    if len(paths) == 1 and num_channels != 1:
        channels = _read(Path(paths[0]), "channels")
    else:
        channels, problems = [], []
        for path in paths:
            try:
                channels.append(_one(_read(Path(path), "grey")))
            except FileError as error:
                problems.append(str(error))
        if problems:
            raise FileError("; ".join(problems))
    if num_channels not in (None, len(channels)):
        raise FileError(
            f"{paths[0]}: expected {num_channels} channels, in one file for each (CASE_0000, "
            f"CASE_0001, ...) or in one file together, got {len(channels)} in {len(paths)} file"
            f"{'s' if len(paths) > 1 else ''}"
        )
    return channels


def read_label(path: Path | str) -> Volume:
    """Read a label map; its array holds integers.

    Numbers that are whole but for the rounding of a scaled file are rounded. Types of more than
    16 bits become the smallest integer type that holds all values.

    Raises:
        FileError: see `read_volume`; or a value is not a whole number.
    """
    volume = _one(_read(Path(path), "label"))
    array = volume.array
    native = np.dtype(np.uint8) if array.dtype == np.bool_ else array.dtype.newbyteorder("=")
    if is_small(native):
        return replace(volume, array=array.astype(native, copy=False))
    order: Literal["C", "F"] = "F" if array.flags.f_contiguous else "C"
    small = whole_numbers(in_blocks(array.ravel(order)), array.size, volume.path)
    return replace(volume, array=small.reshape(array.shape, order=order))


def sized(volume: Volume, pixel_size: PixelSize) -> Volume:
    """The volume with the voxel size that counts.

    Args:
        volume: as read.
        pixel_size: "auto" takes the file's size, but 72 and 96 dots per inch, which are a screen's,
            count as unknown; "file" takes the file's size always; "ignore" takes none.
    """
    if pixel_size == "ignore":
        return replace(volume, spacing=None, screen_spacing=None)
    if pixel_size == "file" and volume.screen_spacing is not None:
        return replace(volume, spacing=volume.screen_spacing, screen_spacing=None)
    return volume


def write_volume(
    path: Path | str,
    array: np.ndarray[Any, Any],
    *,
    spacing: tuple[float, ...] | None,
    affine: np.ndarray[Any, Any] | None = None,
    header: nib.Nifti1Header | None = None,
) -> None:
    """Write an array (*S) to a file, which appears whole or not at all.

    Args:
        path: with an ending that `read_volume` knows. A PNG holds uint8 or uint16, a TIFF
            also int32 and float32, a NIfTI file any real dtype.
        array: the voxels.
        spacing: voxel size in mm in array-axis order; not used with `affine`. None means unknown,
            for 2D only.
        affine: (4, 4); None means axes along right, anterior, superior.
        header: of a NIfTI volume with this affine; a NIfTI file keeps its qform, sform and units.

    Raises:
        ValueError: the format cannot hold the array, or the header is of another grid.
    """
    refuse_mask("array", array)
    write_like(path, array, Volume(array, spacing, affine, Path(path), header))


def write_like(
    path: Path | str, array: np.ndarray[Any, Any], volume: Volume, names: Names | None = None
) -> None:
    """`write_volume` for an array (*S) on the grid of `volume`.

    Args:
        path: see `write_volume`.
        array: the voxels.
        volume: the image.
        names: of the structures in a label map, for formats that store them.
    """
    path = Path(path)
    format = _FORMATS.get(file_ending(path))
    if format is None or array.ndim not in format.dims:
        raise ValueError(f"path: expected an ending for {array.ndim} axes, got {path.name}")
    grid = replace(volume, spacing=volume.spacing or volume.screen_spacing)
    format.write(path, array, grid, names)


def _read(path: Path, content: Content) -> list[Volume]:
    """The channels of a file; see `read_volume` for errors."""
    format = _format_of(path)
    return _from(path, lambda file: list(map(_without_screen, format.read(file, content))))


def _format_of(path: Path) -> _Format:
    format = _FORMATS.get(file_ending(path))
    if format is None and path.is_dir():
        raise FileError(
            f"{path}: expected the DICOM files of a series in the folder itself, got none"
        )
    if format is None:
        raise FileError(f"{path}: expected a file ending in {', '.join(_FORMATS)}")
    return format


def _from(path: Path, read: Callable[[Path], _Result]) -> _Result:
    """What a function reads; its errors name the file."""
    if not path.is_file() and not (file_ending(path) == _DICOM and path.is_dir()):
        got = "a folder" if path.is_dir() else "a path that does not exist"
        got = "a link to nothing" if path.is_symlink() and not path.exists() else got
        raise FileError(f"{path}: expected a file, got {got}")
    try:
        return read(path)
    except FileError:
        raise
    except Exception as error:  # damaged bytes raise errors of any type in the libraries
        reason = " ".join(str(error).split()) or type(error).__name__
        ending = file_ending(path)
        raise FileError(f"{path}: expected a whole {ending} file, got: {reason}") from error


def _one(channels: list[Volume]) -> Volume:
    if len(channels) == 1:
        return channels[0]
    shape = (*channels[0].array.shape, len(channels))
    raise FileError(
        f"{channels[0].path}: expected one channel, got {len(channels)}, with shape {shape}; an "
        'image of several channels needs as many names in dataset.json ("channel_names")'
    )


def _without_screen(volume: Volume) -> Volume:
    """The volume, with the resolution of a screen as `screen_spacing`."""
    spacing = volume.spacing
    if spacing is None or len(spacing) != 2 or volume.affine is not None:
        return volume
    per_metre = [dots / 0.0254 for dots in _SCREEN_DPI]
    # Files hold whole pixels per metre, rounded or cut: 2834.6 is 2835 or 2834.
    if any(all(abs(1000 / size - screen) < 1 for size in spacing) for screen in per_metre):
        return replace(volume, spacing=None, screen_spacing=spacing)
    return volume
