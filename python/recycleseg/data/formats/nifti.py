"""NIfTI-1 and NIfTI-2, plain or compressed with gzip."""

from __future__ import annotations

import gzip
import io
import logging
import math
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from recycleseg.data.formats.volume import Array, Content, Names, Volume, kind_of, voxel_sizes
from recycleseg.data.grids import same_grid
from recycleseg.files import FileError, written_whole

_MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}
_SIZES: dict[int, type[nib.Nifti1Header]] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_GRID_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
# Without this logger nibabel prints each repair of a header to the terminal.
_SILENT = logging.Logger("silent")
_SILENT.addHandler(logging.NullHandler())


def read_nifti(path: Path, content: Content) -> list[Volume]:
    """The channels of a NIfTI file: one of (x, y, z), C of (x, y, z, C) or (x, y, z, 1, C).

    Trailing axes of one do not count, and (x, y) is one slice.
    """
    stored = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        if not stored.startswith(b"\x1f\x8b"):
            raise ValueError(kind_of(stored))
        # Reading the whole stream also verifies its checksum.
        stored = gzip.decompress(stored)
    header = _read_header(path, stored)
    grid, number = _grid_and_channels(path, header)
    dtype = header.get_data_dtype()
    if dtype.kind not in "buif":
        raise FileError(f"{path}: expected real numbers, got {dtype}")
    needed = math.prod(grid) * number * dtype.itemsize
    there = max(len(stored) - header.get_data_offset(), 0)
    if there < needed:
        raise ValueError(f"{there} of {needed} bytes of voxels")
    with np.errstate(all="ignore"):  # scaling may overflow; later code checks the numbers
        array = header.data_from_fileobj(io.BytesIO(stored))
    header.set_data_shape(grid)
    affine = _checked_affine(path, header)
    array, spacing = array.reshape(*grid, number, order="F"), voxel_sizes(affine)
    return [Volume(array[..., c], spacing, affine, path, header=header) for c in range(number)]


def write_nifti(path: Path, array: Array, grid: Volume, names: Names | None) -> None:
    """Write an array (x, y, z) of any real dtype; the file keeps the qform, sform and units."""
    if grid.header is not None:
        image = _on_grid_of(grid.header, array, grid.affine)
    else:
        if grid.affine is None and grid.spacing is None:
            raise ValueError("spacing: expected mm for a NIfTI file without affine, got None")
        affine = np.diag([*(grid.spacing or ()), 1.0]) if grid.affine is None else grid.affine
        image = nib.Nifti1Image(array, affine)
        image.header.set_xyzt_units("mm")
    with written_whole(path) as temporary:
        nib.save(image, temporary)


def _grid_and_channels(path: Path, header: nib.Nifti1Header) -> tuple[tuple[int, ...], int]:
    """The shape (x, y, z) of each channel, and the number of channels."""
    axes, shape = int(header["dim"][0]), tuple(map(int, header.get_data_shape()))
    if not 2 <= axes <= 7:
        raise FileError(f"{path}: expected 3 axes, got {axes}")
    if math.prod(shape[3:]) not in (1, *shape[3:]):
        raise FileError(f"{path}: expected 3 axes, or 4 with channels, got shape {shape}")
    if min(shape) < 1:
        raise FileError(f"{path}: expected at least one voxel along each axis, got {shape}")
    return (*shape, 1)[:3], math.prod(shape[3:])


def _on_grid_of(header: nib.Nifti1Header, array: Array, affine: Array | None) -> nib.Nifti1Image:
    """An image with only those fields of a header that place it in space."""
    if affine is not None and not same_grid(affine, _affine_in_mm(header), array.shape):
        raise ValueError(
            f"header: expected that of a file with affine {affine.tolist()}, "
            f"got {_affine_in_mm(header).tolist()}"
        )
    is_nifti2 = isinstance(header, nib.Nifti2Header)
    grid = nib.Nifti2Header() if is_nifti2 else nib.Nifti1Header()
    grid.set_data_shape(array.shape)  # decides the affine if there is no code
    for name in _GRID_FIELDS:
        grid[name] = header[name]
    kind: Any = nib.Nifti2Image if is_nifti2 else nib.Nifti1Image
    image: nib.Nifti1Image = kind(array, grid.get_best_affine(), grid, dtype=array.dtype)
    return image


def _affine_in_mm(header: nib.Nifti1Header) -> Array:
    affine: Array = np.array(header.get_best_affine(), dtype=np.float64)
    affine[:3] *= _MM_PER_UNIT.get(header.get_xyzt_units()[0], 1.0)
    return affine


def _read_header(path: Path, stored: bytes) -> nib.Nifti1Header:
    """The header of a NIfTI-1 or NIfTI-2 file, with nibabel's repairs of harmless errors."""
    orders = {struct.pack(o + "i", size): (o, size) for size in _SIZES for o in "<>"}
    if stored[:4] not in orders:
        raise ValueError(kind_of(stored))
    order, size = orders[stored[:4]]
    if len(stored) < size:
        raise ValueError(f"{len(stored)} of {size} bytes of a header")
    header = _SIZES[size](stored[:size], endianness=order, check=False)
    if header["dim"][0] == 2:
        header["pixdim"][3] = 1  # a slice need not have a thickness
    sizes = header["pixdim"][1:4]
    if header["sform_code"] <= 0 and not (sizes > 0).all():
        raise FileError(
            f"{path}: expected positive voxel sizes, got pixdim {sizes.tolist()} and no sform"
        )
    if header["magic"].item().startswith(b"ni"):
        raise ValueError("the header of a .hdr/.img pair")
    if header["vox_offset"] == 0:  # some programs leave it 0; others read behind the header too
        header["vox_offset"] = size + 4
    header.check_fix(logger=_SILENT, error_level=40)
    return header


def _checked_affine(path: Path, header: nib.Nifti1Header) -> Array:
    """Affine in mm.

    Raises:
        FileError: it does not place voxels in space.
    """
    try:
        affine = _affine_in_mm(header)
    except ValueError as error:  # quaternion longer than 1
        raise FileError(f"{path}: expected an orientation, got a qform with {error}") from error
    with np.errstate(all="ignore"):
        volume = np.abs(np.linalg.det(affine[:3, :3]))
        box = np.prod(nib.affines.voxel_sizes(affine))
        if not np.isfinite(affine).all() or not volume > 1e-6 * box:
            raise FileError(f"{path}: expected an invertible affine, got {affine.tolist()}")
    return affine
