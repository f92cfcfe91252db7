"""NIfTI-1 and NIfTI-2, plain or compressed with gzip."""

from __future__ import annotations

import gzip
import logging
import math
import os
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np

from recycleseg.data.formats.label_values import BLOCK, is_small, whole_numbers
from recycleseg.data.formats.volume import (
    Array,
    Content,
    Names,
    Volume,
    check_channels,
    kind_of,
    voxel_sizes,
)
from recycleseg.data.grids import same_grid
from recycleseg.files import FileError, written_whole
from recycleseg.limits import check_memory

_MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}
_SIZES: dict[int, type[nib.Nifti1Header]] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
# Of NIfTI-2, with the four bytes that tell whether extensions follow.
_LONGEST_HEADER = 544
# Some programs fill up the last block of a file.
_PADDING = 4096
_FARTHEST = 2**40
# Streams that are packed more tightly than images are, and are not small, are unpacked twice.
_ALWAYS_TAKEN, _TIGHT = 2**27, 32
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

    Trailing axes of one do not count, and (x, y) is one slice. The voxels are read in pieces, as
    many as the header declares; that number is checked before memory is taken. A label map is
    kept in a small integer type, also if the file stores float64.
    """
    with path.open("rb") as file, _unpacked(path, file) as stream:
        header = _read_header(path, stream.read(_LONGEST_HEADER))
        grid, number = _grid_and_channels(path, header)
        if (dtype := header.get_data_dtype()).kind not in "buif":
            raise FileError(f"{path}: expected real numbers, got {dtype}")
        header.set_data_shape(grid)
        affine = _checked_affine(path, header)
        count, is_label = math.prod(grid) * number, content == "label"
        size = os.fstat(file.fileno()).st_size
        _check_size(path, stream, size, header, count, is_label)
        stream.seek(header.get_data_offset())
        array = _read_voxels(path, stream, header, count, is_label)
        needed = count * dtype.itemsize
        # At its end the checksum of a stream is verified.
        _check_length(needed + len(stream.read(_PADDING + 1)), needed)
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


def _unpacked(path: Path, file: BinaryIO) -> AbstractContextManager[BinaryIO]:
    """The file, or the stream that is packed in it."""
    if not path.name.lower().endswith(".gz"):
        return nullcontext(file)
    start = file.read(_LONGEST_HEADER)
    if not start.startswith(b"\x1f\x8b"):
        raise ValueError(kind_of(start))
    file.seek(0)
    return cast("AbstractContextManager[BinaryIO]", gzip.GzipFile(fileobj=file, mode="rb"))


def _check_length(there: int, needed: int) -> None:
    """Raise ValueError if there are fewer bytes of voxels than the header declares, or more."""
    if there < needed:
        raise ValueError(f"{there} of {needed} bytes of voxels")
    if there > needed + _PADDING:
        raise ValueError(f"more than the {needed} bytes of voxels that its header declares")


def _check_size(
    path: Path,
    stream: BinaryIO,
    size: int,
    header: nib.Nifti1Header,
    count: int,
    is_label: bool,
) -> None:
    """Refuse a file of `size` bytes before its `count` values take memory.

    Raises:
        FileError: they take too much.
        ValueError: the file has fewer bytes than the header declares, or more.
    """
    offset, needed = header.get_data_offset(), count * header.get_data_dtype().itemsize
    is_packed = isinstance(stream, gzip.GzipFile)
    if not is_packed:
        _check_length(max(size - offset, 0), needed)
    if offset > _FARTHEST:
        raise ValueError(f"voxels at byte {offset}")
    check_memory(path, _bytes_taken(header, count, is_label), size)
    if is_packed and needed > max(_ALWAYS_TAKEN, _TIGHT * size):
        _check_length(_length_of_rest(stream, offset, needed + _PADDING + 1), needed)


def _length_of_rest(stream: BinaryIO, offset: int, most: int) -> int:
    """How many bytes follow a place in a stream; beyond `most` nobody counts."""
    stream.seek(offset)
    there = 0
    while there < most and (piece := stream.read(BLOCK)):
        there += len(piece)
    return there


def _bytes_taken(header: nib.Nifti1Header, count: int, is_label: bool) -> int:
    """Bytes of so many voxels in memory; of labels in the smallest type that there is."""
    if is_label and not is_small(_type_of_values(header)):
        return count
    return count * _type_of_values(header).itemsize


def _type_of_values(header: nib.Nifti1Header) -> np.dtype[Any]:
    """The type of the scaled values."""
    one = _scaled(np.zeros(1, header.get_data_dtype()), header.get_slope_inter())
    dtype: np.dtype[Any] = one.dtype
    return dtype


def _read_voxels(
    path: Path, stream: BinaryIO, header: nib.Nifti1Header, count: int, is_label: bool
) -> Array:
    """The scaled values (count,) from the place of the stream."""
    result, scaling = _type_of_values(header), header.get_slope_inter()
    blocks = _blocks(stream, header.get_data_dtype(), count, scaling)
    if is_label and not is_small(result):
        reason = "" if scaling in ((None, None), (1, 0)) else _reason(scaling)
        return whole_numbers(blocks, count, path, reason)
    array: Array = np.empty(count, result)
    position = 0
    for block in blocks:
        array[position : position + len(block)] = block
        position += len(block)
    return array


def _blocks(
    stream: BinaryIO, dtype: Any, count: int, scaling: tuple[float | None, float | None]
) -> Iterator[Array]:
    """Pieces of the scaled values."""
    for start in range(0, count, BLOCK):
        wanted = min(BLOCK, count - start) * dtype.itemsize
        content = stream.read(wanted)
        if len(content) < wanted:
            there = start * dtype.itemsize + len(content)
            raise ValueError(f"{there} of {count * dtype.itemsize} bytes of voxels")
        yield _scaled(np.frombuffer(content, dtype), scaling)


def _scaled(block: Array, scaling: tuple[float | None, float | None]) -> Array:
    with np.errstate(all="ignore"):  # scaling may overflow; later code checks the numbers
        scaled: Array = nib.volumeutils.apply_read_scaling(block, *scaling)
        return scaled


def _reason(scaling: tuple[float | None, float | None]) -> str:
    """What to say about the scaling of a label map."""
    return (
        f"; the reason is the scaling in its header (scl_slope {scaling[0]}, scl_inter "
        f"{scaling[1]}), which multiplies the stored numbers: save the labels without it"
    )


def _grid_and_channels(path: Path, header: nib.Nifti1Header) -> tuple[tuple[int, ...], int]:
    """The shape (x, y, z) of each channel, and the number of channels."""
    axes, shape = int(header["dim"][0]), tuple(map(int, header.get_data_shape()))
    if not 2 <= axes <= 7:
        raise FileError(f"{path}: expected 3 axes, got {axes}")
    if math.prod(shape[3:]) not in (1, *shape[3:]):
        raise FileError(f"{path}: expected 3 axes, or 4 with channels, got shape {shape}")
    if min(shape) < 1:
        raise FileError(f"{path}: expected at least one voxel along each axis, got {shape}")
    check_channels(path, math.prod(shape[3:]))
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
    if header["vox_offset"] < size + 4:  # some programs leave it 0; the standard allows no less
        if stored[size : size + 1] not in (b"", b"\0"):
            raise ValueError(f"header extensions and a vox_offset of {header['vox_offset'].item()}")
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
