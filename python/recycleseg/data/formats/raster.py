"""The channels of a 2D image that Pillow has opened."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from recycleseg.data.formats.volume import Array, Content
from recycleseg.files import FileError
from recycleseg.limits import check_memory

_GREY = ("1", "L", "I;16", "I;16B", "I;16L", "I", "F")
_COLOURS = ("RGB", "RGBA", "RGBX")
_WITH_ALPHA = ("LA", "PA", "RGBA")


def channels_of(image: Image.Image, path: Path, content: Content) -> list[Array]:
    """The channels (height, width) of a page.

    A palette gives its indices as a label, and its colours otherwise. Red, green and blue that are
    equal everywhere are one grey channel, unless all channels are asked for.

    Raises:
        FileError: pixels are transparent, or there are colours where one channel is expected.
    """
    if image.mode in ("P", "PA") and content not in ("label", "stored"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    mode = image.mode
    if mode not in (*_GREY, *_COLOURS, *_WITH_ALPHA, "P"):
        raise FileError(f"{path}: expected grey, a palette or RGB, got mode {mode}")
    array = np.array(image)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if array.ndim == 2:
        return [array]
    channels = [np.ascontiguousarray(channel) for channel in np.moveaxis(array, -1, 0)]
    if mode in _WITH_ALPHA and (clear := int((channels[-1] != 255).sum())):
        raise FileError(
            f"{path}: expected opaque pixels, got {clear} with transparency; remove the alpha "
            "channel"
        )
    channels = channels[:3] if mode in _COLOURS else channels[:1]
    if content == "channels":
        return channels
    different = sum(channel != channels[0] for channel in channels[1:])
    if np.any(different):
        raise _colours(path, content, int(np.count_nonzero(different)))
    return channels[:1]


def check_pixels(path: Path, size: tuple[int, ...], pixel_bytes: int, pages: int = 0) -> None:
    """Check the size that a header declares, before Pillow takes the memory.

    Args:
        path: the file.
        size: width and height.
        pixel_bytes: bytes of a pixel in Pillow's memory.
        pages: pages of the same size that are in memory besides the one that is read.

    Raises:
        ValueError: there are no pixels.
        FileError: there are too many; see `check_memory`.
    """
    if min(size) < 1:
        raise ValueError(f"an image of {size[0]} by {size[1]} pixels")
    # Of a page there are Pillow's image, its bytes, and the array.
    check_memory(path, math.prod(size) * pixel_bytes * (3 + pages))


def bytes_of_pixel(image: Image.Image) -> int:
    """Bytes of a pixel in Pillow's memory; colours take 4, and a palette may become colours."""
    return {"1": 1, "L": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}.get(image.mode, 4)


def pixel_size(image: Image.Image) -> tuple[float, float] | None:
    """Height and width of a pixel in mm, in formats that store pixels per metre; None if unknown.

    Pillow multiplies the pixels per metre, which are integers, by 0.0254.
    """
    across, down = (round(dots / 0.0254) for dots in image.info.get("dpi", (0, 0)))
    # The sizes may be absent, or only their ratio may be known.
    return (1000.0 / down, 1000.0 / across) if min(across, down) > 0 else None


def size_options(spacing: tuple[float, ...] | None) -> dict[str, Any]:
    """What Pillow's `save` needs to store the height and width of a pixel in mm."""
    return {} if spacing is None else {"dpi": (25.4 / spacing[1], 25.4 / spacing[0])}


def _colours(path: Path, content: Content, number: int) -> FileError:
    if content in ("label", "stored"):
        return FileError(
            f"{path}: expected a label map, got colours in {number} pixels; save it as grey or "
            "palette, where the value of a pixel is the label of its class"
        )
    return FileError(
        f"{path}: expected one grey channel, got colours in {number} pixels; name three channels "
        'in dataset.json ("channel_names": red, green, blue), or save the image as grey'
    )
