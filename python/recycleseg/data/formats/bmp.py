"""BMP: 2D images and label maps, 8 bits per channel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import BmpImagePlugin, Image

from recycleseg.data.formats.raster import (
    bytes_of_pixel,
    channels_of,
    check_pixels,
    pixel_size,
    size_options,
)
from recycleseg.data.formats.volume import Array, Content, Names, Volume, kind_of
from recycleseg.files import written_whole


def read_bmp(path: Path, content: Content) -> list[Volume]:
    """The channels of a BMP; the pixel size comes from its pixels per metre.

    The number of pixels in the header is checked before memory is taken.
    """
    with path.open("rb") as file:
        start = file.read(132)
        if not start.startswith(b"BM"):
            raise ValueError(kind_of(start))
        file.seek(0)
        with BmpImagePlugin.BmpImageFile(file) as image:  # not Image.open: it warns of large images
            check_pixels(path, image.size, bytes_of_pixel(image))
            spacing = pixel_size(image)
            channels = channels_of(image, path, content)
    return [Volume(channel, spacing, None, path) for channel in channels]


def write_bmp(path: Path, array: Array, grid: Volume, names: Names | None) -> None:
    """Write an array (height, width) of uint8."""
    if array.dtype != np.uint8:
        raise ValueError(f"array: expected uint8 for a BMP, got {array.dtype}")
    with written_whole(path) as temporary:
        Image.fromarray(array).save(temporary, format="BMP", **size_options(grid.spacing))
