"""PNG: 2D images and label maps."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from recycleseg.data.formats.raster import channels_of, pixel_size, size_options
from recycleseg.data.formats.volume import Array, Content, Names, Volume, kind_of
from recycleseg.files import FileError, written_whole

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by the colour type
_GREY = 0
# Each pass of an interlaced PNG: first column, first row, and the steps between columns and rows.
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


def read_png(path: Path, content: Content) -> list[Volume]:
    """The channels of a PNG.

    The pixel size comes from the chunk pHYs (PNG specification, third edition, section 11.3.4.3),
    in pixels per metre.
    """
    stored = path.read_bytes()
    if not stored.startswith(_SIGNATURE):
        raise ValueError(kind_of(stored))
    # Not Image.open, because it warns about large images.
    with PngImagePlugin.PngImageFile(io.BytesIO(stored)) as image:
        image.verify()  # after this the image cannot be used
    with PngImagePlugin.PngImageFile(io.BytesIO(stored)) as image:
        depth, colour_type = stored[24], stored[25]
        if depth == 16 and colour_type != _GREY:  # Pillow would cut them to 8 bits
            raise FileError(
                f"{path}: expected 16 bits in grey images only, got 16 bits per colour; save each "
                "channel as a grey file CASE_0000, CASE_0001, ..."
            )
        image.load_prepare()
        pixels = zlib.decompress(b"".join(iter(lambda: image.load_read(0), b"")))
        _check_pixels(stored[16:29], pixels)
        spacing = pixel_size(image)
    with PngImagePlugin.PngImageFile(io.BytesIO(stored)) as image:
        channels = channels_of(image, path, content)
    if colour_type == _GREY and depth in (2, 4):  # Pillow stretches them to 0 ... 255
        channels = [channel // (255 // (2**depth - 1)) for channel in channels]
    return [Volume(channel, spacing, None, path) for channel in channels]


def write_png(path: Path, array: Array, grid: Volume, names: Names | None) -> None:
    """Write an array (height, width), uint8 or uint16."""
    if array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"array: expected uint8 or uint16 for a PNG, got {array.dtype}")
    with written_whole(path) as temporary:
        Image.fromarray(array).save(temporary, format="PNG", **size_options(grid.spacing))


def _check_pixels(header: bytes, pixels: bytes) -> None:
    """Raise ValueError for missing pixels, because Pillow would fill them in."""
    width, height, depth, colour_type, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * _SAMPLES[colour_type]
    needed = 0
    for first_x, first_y, step_x, step_y in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - first_x) // step_x), -(-(height - first_y) // step_y)
        needed += rows * (1 + (columns * bits + 7) // 8) if columns > 0 else 0
    if len(pixels) < needed:
        raise ValueError(f"{len(pixels)} of {needed} bytes of pixels")
