"""BMP: 2D images and label maps, 8 bits per channel."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import BmpImagePlugin, Image

from recycleseg.data.formats.raster import channels_of, pixel_size, size_options
from recycleseg.data.formats.volume import Array, Content, Names, Volume, kind_of
from recycleseg.files import written_whole


def read_bmp(path: Path, content: Content) -> list[Volume]:
    """The channels of a BMP; the pixel size comes from its pixels per metre."""
    stored = path.read_bytes()
    if not stored.startswith(b"BM"):
        raise ValueError(kind_of(stored))
    # Not Image.open, because it warns about large images.
    with BmpImagePlugin.BmpImageFile(io.BytesIO(stored)) as image:
        spacing = pixel_size(image)
        channels = channels_of(image, path, content)
    return [Volume(channel, spacing, None, path) for channel in channels]


def write_bmp(path: Path, array: Array, grid: Volume, names: Names | None) -> None:
    """Write an array (height, width) of uint8."""
    if array.dtype != np.uint8:
        raise ValueError(f"array: expected uint8 for a BMP, got {array.dtype}")
    with written_whole(path) as temporary:
        Image.fromarray(array).save(temporary, format="BMP", **size_options(grid.spacing))
