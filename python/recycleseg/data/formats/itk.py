"""MHA, MHD, NRRD and GIPL, through SimpleITK."""

from __future__ import annotations

import errno
import math
from pathlib import Path
from typing import Any

import numpy as np

from recycleseg.data.formats.extra import needed
from recycleseg.data.formats.itk_header import (
    check_nrrd,
    check_nrrd_stream,
    gives_size,
    without_size,
)
from recycleseg.data.formats.itk_process import ItkHeader, open_itk
from recycleseg.data.formats.metaimage import check_metaimage, voxels_of_mhd
from recycleseg.data.formats.volume import (
    Array,
    Content,
    Names,
    Volume,
    check_channels,
    kind_of,
    swap_lps_ras,
    voxel_sizes,
)
from recycleseg.files import FileError, written_whole
from recycleseg.limits import check_memory

# ITK's own choice of a reader does not know endings in upper case.
_READERS = {
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
    ".nrrd": "NrrdImageIO",
    ".gipl": "GiplImageIO",
}
_GIPL_HEADER = 256  # bytes


def read_itk(path: Path, content: Content) -> list[Volume]:
    """The channels of a file of ITK: (x, y, z), or one slice; a fourth axis holds channels.

    The number of voxels in the header is checked before memory is taken. If the file does not give
    the size of its voxels, the affine has voxels of length 1.
    """
    needed("SimpleITK", path)
    ending = path.suffix.lower()
    if ending in (".mha", ".mhd"):
        check_metaimage(path)
    elif ending == ".nrrd":
        check_nrrd(path)
    try:
        with open_itk(path, _READERS[ending]) as file:
            header = file.header
            _check_header(path, header)
            array = file.voxels()
    except FileError:
        raise
    except ValueError as error:
        with path.open("rb") as damaged:
            raise ValueError(f"{error} ({kind_of(damaged.read(132))})") from error
    affine = swap_lps_ras(_affine_of(header))
    if not abs(np.linalg.det(affine)) > 0:
        raise FileError(f"{path}: expected an invertible affine, got {affine.tolist()}")
    if len(header.size) == 2:
        array = array[None]
    if header.components > 1:
        channels = [array[..., c] for c in range(header.components)]
    else:
        channels = list(array) if array.ndim == 4 else [array]
    spacing = voxel_sizes(affine) if gives_size(path) else None
    return [Volume(channel.transpose(2, 1, 0), spacing, affine, path) for channel in channels]


def write_itk(path: Path, array: Array, grid: Volume, names: Names | None) -> None:
    """Write an array (x, y, z), compressed; without voxel size if that of `grid` is unknown."""
    sitk = needed("SimpleITK", path)
    if grid.affine is None and grid.spacing is None:
        raise ValueError(f"spacing: expected mm for {path.suffix}, got None")
    affine = np.diag([*(grid.spacing or ()), 1.0]) if grid.affine is None else grid.affine
    lps, spacing = swap_lps_ras(affine), voxel_sizes(affine)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(spacing)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    writer = sitk.ImageFileWriter()
    writer.SetImageIO(_READERS[path.suffix.lower()])
    writer.UseCompressionOn()
    with written_whole(path) as temporary:
        # An .mhd file may hold the voxels too, as an .mha file does; then it is one file.
        packed = temporary.with_suffix(".mha") if path.suffix.lower() == ".mhd" else temporary
        writer.SetFileName(str(packed))
        try:
            _execute(writer, image)
            if grid.spacing is None:
                packed.write_bytes(without_size(packed.read_bytes(), path.suffix.lower()))
            packed.replace(temporary)
        except BaseException:
            packed.unlink(missing_ok=True)
            raise


def _execute(writer: Any, image: Any) -> None:
    try:
        writer.Execute(image)
    except RuntimeError as error:  # ITK does not tell what the system answered
        raise OSError(errno.EIO, "ITK cannot write the file") from error


def _check_header(path: Path, header: ItkHeader) -> None:
    """Refuse what is no image, or takes too much memory, or lacks voxels."""
    if len(header.size) not in (2, 3, 4):
        raise FileError(f"{path}: expected 3 axes, got {len(header.size)}")
    check_channels(path, header.components * (*header.size, 1, 1)[3])
    dtype = np.dtype(header.dtype)
    if dtype.kind not in "buif":
        raise FileError(f"{path}: expected real numbers, got {dtype}")
    voxels = math.prod(header.size) * header.components * dtype.itemsize
    if path.suffix.lower() == ".gipl":
        _check_gipl(path, voxels)
    check_memory(path, 2 * voxels, _stored(path))  # ITK's image, and the array
    if path.suffix.lower() == ".nrrd":
        check_nrrd_stream(path, voxels)


def _stored(path: Path) -> int:
    """Bytes of a file on disk, and of the file with the voxels of an .mhd header."""
    beside = voxels_of_mhd(path) if path.suffix.lower() == ".mhd" else []
    return sum(file.stat().st_size for file in [path, *beside])


def _check_gipl(path: Path, voxels: int) -> None:
    """Raise ValueError for missing voxels, because ITK would fill them in."""
    there = path.stat().st_size - _GIPL_HEADER
    if there < voxels:
        raise ValueError(f"{max(there, 0)} of {voxels} bytes of voxels")


def _affine_of(header: ItkHeader) -> Array:
    """Voxel index -> left, posterior, superior in mm; (4, 4) also for one slice."""
    dims = len(header.size)
    direction = np.eye(4)
    direction[:dims, :dims] = np.reshape(header.direction, (dims, dims))
    spacing, affine = np.ones(4), np.eye(4)
    spacing[:dims] = header.spacing
    affine[:3, :3] = direction[:3, :3] * spacing[:3]
    affine[: min(dims, 3), 3] = header.origin[:3]
    return affine
