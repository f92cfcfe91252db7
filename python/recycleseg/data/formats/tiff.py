"""TIFF: a page is a 2D image; several pages, or a .json beside the file, are a volume.

nnU-Net keeps the voxel size of a 3D TIFF in CASE.json, {"spacing": [z, y, x]}, without the channel
number. Its arrays are (z, y, x); ours are (x, y, z).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from recycleseg.data.formats.raster import bytes_of_pixel, channels_of, check_pixels
from recycleseg.data.formats.volume import (
    Array,
    Content,
    Names,
    Volume,
    case_and_channel,
    kind_of,
)
from recycleseg.files import FileError, read_json_object, write_json, written_whole

_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MM_PER_UNIT = {2: 25.4, 3: 10.0}
# Tags of the TIFF specification, revision 6.0.
_BITS, _COMPRESSION, _PHOTOMETRIC, _KIND = 258, 259, 262, 339
_RESOLUTION_X, _RESOLUTION_Y, _UNIT = 282, 283, 296
_WHITE_IS_ZERO, _SIGNED = 0, 2


def read_tiff(path: Path, content: Content) -> list[Volume]:
    """The channels of a TIFF: (height, width), or (x, y, z) of several pages.

    The pixel size of a 2D image comes from its resolution in dots per inch or centimetre. The
    number of pages and of their pixels is checked before memory is taken.
    """
    with _opened(path) as image:
        sidecar, count = _sidecar(path), image.n_frames
        size, stacks = image.size, list[Array]()
        for index in range(count):
            image.seek(index)
            if image.size != size:
                raise FileError(
                    f"{path}: expected pages of one shape, got {size[::-1]} and {image.size[::-1]}"
                )
            check_pixels(path, size, bytes_of_pixel(image), count)
            page = _page(image, path, content)
            if index == 0:
                stacks = [np.empty((count, *channel.shape), channel.dtype) for channel in page]
            if [(c.shape, c.dtype) for c in page] != [(s.shape[1:], s.dtype) for s in stacks]:
                raise FileError(f"{path}: expected pages of one kind, got another on page {index}")
            for stack, channel in zip(stacks, page, strict=True):
                stack[index] = channel
        if count == 1 and sidecar is None:
            spacing = _pixel_size(image)
            return [Volume(stack[0], spacing, None, path) for stack in stacks]
    spacing = None if sidecar is None else _voxel_size(sidecar)
    return [Volume(stack.transpose(2, 1, 0), spacing, None, path) for stack in stacks]


def tiff_dims(path: Path) -> int:
    """Number of axes, from the header alone."""
    with _opened(path) as image:
        return 2 if image.n_frames == 1 and _sidecar(path) is None else 3


def files_beside_tiff(path: Path) -> list[Path]:
    """The .json files of the name of a TIFF, with and without channel number."""
    names = dict.fromkeys((path.stem, case_and_channel(path.stem)[0]))
    files = (path.with_name(f"{name}.json") for name in names)
    return [file for file in files if file.is_file()]


def write_tiff(path: Path, array: Array, grid: Volume, names: Names | None) -> None:
    """Write an array (height, width) or (x, y, z) of uint8, uint16, int32 or float32."""
    if array.dtype not in (np.uint8, np.uint16, np.int32, np.float32):
        raise ValueError(f"array: expected uint8, uint16, int32 or float32, got {array.dtype}")
    options: dict[str, Any] = {"format": "TIFF", "compression": "tiff_adobe_deflate"}
    pages = [array] if array.ndim == 2 else list(array.transpose(2, 1, 0))
    if array.ndim == 3 and grid.spacing is not None:
        write_json(path.with_suffix(".json"), {"spacing": list(reversed(grid.spacing))})
    elif grid.spacing is not None:
        rows, columns = grid.spacing
        options |= {"resolution_unit": 3, "x_resolution": 10 / columns, "y_resolution": 10 / rows}
    first, *others = (Image.fromarray(np.ascontiguousarray(page)) for page in pages)
    with written_whole(path) as temporary:
        first.save(temporary, save_all=True, append_images=others, **options)


@contextmanager
def _opened(path: Path) -> Iterator[TiffImagePlugin.TiffImageFile]:
    with path.open("rb") as file:
        start = file.read(132)
        if not start.startswith(_SIGNATURES):
            raise ValueError(kind_of(start))
        file.seek(0)
        with TiffImagePlugin.TiffImageFile(file) as image:  # not Image.open: it warns
            yield image


def _page(image: TiffImagePlugin.TiffImageFile, path: Path, content: Content) -> list[Array]:
    bits = max(image.tag_v2.get(_BITS, (1,)))
    signed = _SIGNED in image.tag_v2.get(_KIND, ())
    if bits > 8 and len(image.getbands()) > 1:  # Pillow would cut them to 8 bits
        raise FileError(
            f"{path}: expected more than 8 bits in grey images only, got {bits} bits per colour; "
            "save each channel as a grey file CASE_0000, CASE_0001, ..."
        )
    big_endian, unsigned_16 = image.tag_v2.prefix == b"MM", bits == 16 and not signed
    if big_endian and bits > 8 and not unsigned_16 and image.tag_v2.get(_COMPRESSION, 1) != 1:
        raise FileError(  # Pillow would swap the bytes twice
            f"{path}: expected {bits} bits uncompressed or in little-endian order, got big-endian "
            "and compressed; save it again in another way"
        )
    channels = channels_of(image, path, content)
    if signed and bits == 8:  # Pillow reads them as unsigned
        channels = [channel.view(np.int8) for channel in channels]
    if image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO and bits <= 8:  # Pillow turns them round
        channels = [(1 if image.mode == "1" else 255) - channel for channel in channels]
    return channels


def _sidecar(path: Path) -> Path | None:
    """The .json file that tells the voxel size, or None."""
    return next((f for f in files_beside_tiff(path) if "spacing" in read_json_object(f)), None)


def _voxel_size(sidecar: Path) -> tuple[float, ...]:
    sizes = read_json_object(sidecar)["spacing"]
    numbers = isinstance(sizes, list) and all(isinstance(size, int | float) for size in sizes)
    if not numbers or len(sizes) != 3 or not all(0 < size < math.inf for size in sizes):
        raise FileError(f"{sidecar}: expected spacing [z, y, x] in mm, got {sizes}")
    return tuple(float(size) for size in reversed(sizes))


def _pixel_size(image: TiffImagePlugin.TiffImageFile) -> tuple[float, ...] | None:
    """Height and width of a pixel in mm; None if the file gives no length, or only their ratio."""
    mm = _MM_PER_UNIT.get(image.tag_v2.get(_UNIT, 2))
    dots = [float(image.tag_v2.get(tag, 0)) for tag in (_RESOLUTION_Y, _RESOLUTION_X)]
    if mm is None or not all(0 < number < math.inf for number in dots):
        return None
    return tuple(mm / number for number in dots)
