"""Image files: NIfTI (3D) and PNG (2D) with their voxel size in millimetres."""

from __future__ import annotations

import gzip
import io
import logging
import math
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from PIL import Image, PngImagePlugin

from recycleseg.files import FileError, written_whole

SPATIAL_DIMS = {".nii.gz": 3, ".nii": 3, ".png": 2}
# Which voxel sizes count; see `sized`.
PixelSize = Literal["auto", "file", "ignore"]
_SCREEN_DPI = (72, 96)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY_MODES = ("1", "L", "I;16", "I;16B", "I")
_MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}
_NIFTI_SIZES: dict[int, type[nib.Nifti1Header]] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_GRID_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
_SIGNATURES = {
    b"\x1f\x8b": "a gzip stream",
    b"\x89PNG": "a PNG file",
    b"\xff\xd8\xff": "a JPEG file",
    b"PK\x03\x04": "a zip archive",
    **{struct.pack(order + "i", size): "a NIfTI file" for size in _NIFTI_SIZES for order in "<>"},
}
# Each pass of an interlaced PNG: first column, first row, and the steps between columns and rows.
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
# Without this logger nibabel prints each repair of a header to the terminal.
_SILENT = logging.Logger("silent")
_SILENT.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Volume:
    """One image or label file as stored.

    Attributes:
        array: (*S), any real dtype; a PNG is (height, width).
        spacing: voxel size in mm along the axes of `array`; None if it is unknown.
        affine: (4, 4) voxel index -> world coordinates in mm, NIfTI only.
        path: the file.
        header: of a NIfTI file, so that a result can be written with its orientation codes.
        screen_spacing: pixel size in mm that a 2D file gives by 72 or 96 dots per inch. Programs
            write these for screens, whatever the image shows, so `spacing` is None then.
    """

    array: np.ndarray[Any, Any]
    spacing: tuple[float, ...] | None
    affine: np.ndarray[Any, Any] | None
    path: Path
    header: nib.Nifti1Header | None = None
    screen_spacing: tuple[float, ...] | None = None


def file_ending(path: Path) -> str:
    """The ending of a supported file (".nii.gz", ".nii" or ".png"), or "" for any other."""
    return next((ending for ending in SPATIAL_DIMS if path.name.endswith(ending)), "")


def read_volume(path: Path | str) -> Volume:
    """Read a NIfTI or PNG file as stored, without reorienting it.

    A NIfTI file must have three axes. A PNG must be grey with 8 or 16 bits; colour is an error,
    because only the user knows how to turn it into intensities. The pixel size of a PNG comes from
    its pHYs chunk (PNG specification, third edition, section 11.3.4.3) in pixels per metre.

    Raises:
        FileError: the file is missing, truncated, corrupt or of another kind.
    """
    path = Path(path)
    readers = {".nii.gz": _read_nifti, ".nii": _read_nifti, ".png": _read_png}
    if (ending := file_ending(path)) not in readers:
        raise FileError(f"{path}: expected a file ending in {', '.join(readers)}")
    if not path.is_file():
        got = "a folder" if path.is_dir() else "a path that does not exist"
        got = "a link to nothing" if path.is_symlink() and not path.exists() else got
        raise FileError(f"{path}: expected a file, got {got}")
    try:
        return _without_screen(readers[ending](path))
    except FileError:
        raise
    except Exception as error:  # damaged bytes raise errors of any type in nibabel and Pillow
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileError(f"{path}: expected a whole {ending} file, got: {reason}") from error


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


def write_volume(
    path: Path | str,
    array: np.ndarray[Any, Any],
    *,
    spacing: tuple[float, ...] | None,
    affine: np.ndarray[Any, Any] | None = None,
    header: nib.Nifti1Header | None = None,
) -> None:
    """Write an array (*S) to a NIfTI file (3D, dtype kept) or a PNG (2D, uint8 or uint16).

    The file appears whole or not at all.

    Args:
        path: with an ending that `read_volume` knows.
        array: the voxels.
        spacing: voxel size in mm in array-axis order; not used for a NIfTI file with `affine`.
            None means unknown, for a PNG only.
        affine: (4, 4); None means axes along right, anterior, superior.
        header: of a volume with this affine; the file keeps its qform, sform and units.

    Raises:
        ValueError: the format cannot hold the array, or the header is of another grid.
    """
    path = Path(path)
    if SPATIAL_DIMS.get(file_ending(path)) != array.ndim:
        raise ValueError(f"path: expected an ending for {array.ndim} axes, got {path.name}")
    if array.ndim == 2:
        if array.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"array: expected uint8 or uint16 for a PNG, got {array.dtype}")
        options: dict[str, Any] = {}
        if spacing is not None:
            options["dpi"] = (25.4 / spacing[1], 25.4 / spacing[0])
        with written_whole(path) as temporary:
            Image.fromarray(array).save(temporary, **options)
        return
    if header is not None:
        image = _on_grid_of(header, array, affine)
    else:
        if affine is None and spacing is None:
            raise ValueError("spacing: expected mm for a NIfTI file without affine, got None")
        grid = np.diag([*(spacing or ()), 1.0]) if affine is None else affine
        image = nib.Nifti1Image(array, grid)
        image.header.set_xyzt_units("mm")
    with written_whole(path) as temporary:
        nib.save(image, temporary)


def write_like(path: Path | str, array: np.ndarray[Any, Any], volume: Volume) -> None:
    """`write_volume` for an array (*S) on the grid of `volume`."""
    spacing = volume.spacing or volume.screen_spacing
    write_volume(path, array, spacing=spacing, affine=volume.affine, header=volume.header)


def _on_grid_of(
    header: nib.Nifti1Header, array: np.ndarray[Any, Any], affine: np.ndarray[Any, Any] | None
) -> nib.Nifti1Image:
    """An image with only those fields of a header that place it in space."""
    if affine is not None and not np.allclose(affine, _affine_in_mm(header), rtol=1e-6, atol=1e-6):
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


def _affine_in_mm(header: nib.Nifti1Header) -> np.ndarray[Any, Any]:
    affine: np.ndarray[Any, Any] = np.array(header.get_best_affine(), dtype=np.float64)
    affine[:3] *= _MM_PER_UNIT.get(header.get_xyzt_units()[0], 1.0)
    return affine


def _read_nifti(path: Path) -> Volume:
    content = path.read_bytes()
    if path.name.endswith(".gz"):
        if not content.startswith(b"\x1f\x8b"):
            raise ValueError(_kind_of(content))
        # Reading the whole stream also verifies its checksum.
        content = gzip.decompress(content)
    header = _nifti_header(path, content)
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    if len(shape) != 3:
        raise FileError(
            f"{path}: expected 3 axes, got {len(shape)} with shape {shape}; "
            "several channels are separate files CASE_0000, CASE_0001, ..."
        )
    if min(shape) < 1:
        raise FileError(f"{path}: expected at least one voxel along each axis, got {shape}")
    if dtype.kind not in "buif":
        raise FileError(f"{path}: expected real numbers, got {dtype}")
    needed = math.prod(map(int, shape)) * dtype.itemsize
    there = max(len(content) - header.get_data_offset(), 0)
    if there < needed:
        raise ValueError(f"{there} of {needed} bytes of voxels")
    affine = _checked_affine(path, header)
    with np.errstate(all="ignore"):  # scaling may overflow; later code checks the numbers
        array = header.data_from_fileobj(io.BytesIO(content))
    spacing = tuple(float(size) for size in nib.affines.voxel_sizes(affine))
    return Volume(array, spacing, affine, path, header=header)


def _nifti_header(path: Path, content: bytes) -> nib.Nifti1Header:
    """The header of a NIfTI-1 or NIfTI-2 file, with nibabel's repairs of harmless errors."""
    orders = {struct.pack(o + "i", size): (o, size) for size in _NIFTI_SIZES for o in "<>"}
    if content[:4] not in orders:
        raise ValueError(_kind_of(content))
    order, size = orders[content[:4]]
    if len(content) < size:
        raise ValueError(f"{len(content)} of {size} bytes of a header")
    header = _NIFTI_SIZES[size](content[:size], endianness=order, check=False)
    voxel_sizes = header["pixdim"][1:4]
    if header["sform_code"] <= 0 and not (voxel_sizes > 0).all():
        raise FileError(
            f"{path}: expected positive voxel sizes, got pixdim {voxel_sizes.tolist()} and no sform"
        )
    if header["magic"].item().startswith(b"ni"):
        raise ValueError("the header of a .hdr/.img pair")
    header.check_fix(logger=_SILENT, error_level=40)
    return header


def _checked_affine(path: Path, header: nib.Nifti1Header) -> np.ndarray[Any, Any]:
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


def _kind_of(content: bytes) -> str:
    """The probable kind of a file whose content does not fit its ending."""
    if not content:
        return "an empty file"
    if content[128:132] == b"DICM":
        return "a DICOM file"
    kinds = [kind for start, kind in _SIGNATURES.items() if content.startswith(start)]
    return kinds[0] if kinds else f"a file of another kind, that begins with {content[:8]!r}"


def _read_png(path: Path) -> Volume:
    content = path.read_bytes()
    if not content.startswith(_PNG_SIGNATURE):
        raise ValueError(_kind_of(content))
    # Not Image.open, because it warns about large images.
    with PngImagePlugin.PngImageFile(io.BytesIO(content)) as image:
        image.verify()  # after this the image cannot be used
    with PngImagePlugin.PngImageFile(io.BytesIO(content)) as image:
        if image.mode not in _GREY_MODES:
            raise FileError(
                f"{path}: expected a grey PNG of 8 or 16 bits, got mode {image.mode}; "
                "save colour channels as separate files CASE_0000, CASE_0001, ..."
            )
        image.load_prepare()
        pixels = zlib.decompress(b"".join(iter(lambda: image.load_read(0), b"")))
        _check_pixels(content[16:29], pixels)
        # Pillow multiplies the pixels per metre of the chunk pHYs, integers, by 0.0254.
        per_metre = [round(dots / 0.0254) for dots in image.info.get("dpi", (0, 0))]
    with PngImagePlugin.PngImageFile(io.BytesIO(content)) as image:
        array = np.array(image)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    known = min(per_metre) > 0  # the chunk may be absent, or give only the ratio of the sizes
    spacing = (1000.0 / per_metre[1], 1000.0 / per_metre[0]) if known else None
    return Volume(array, spacing, None, path)


def _check_pixels(header: bytes, pixels: bytes) -> None:
    """Raise ValueError for missing pixels of a grey PNG, because Pillow would fill them in."""
    width, height, depth, _, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    needed = 0
    for first_x, first_y, step_x, step_y in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - first_x) // step_x), -(-(height - first_y) // step_y)
        needed += rows * (1 + (columns * depth + 7) // 8) if columns > 0 else 0
    if len(pixels) < needed:
        raise ValueError(f"{len(pixels)} of {needed} bytes of pixels")
