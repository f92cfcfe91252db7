"""Kinds of PNG: palette, colours, alpha, few bits."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recycleseg.data.volumes import read_image, read_label, read_volume
from recycleseg.files import FileError

LABEL = np.zeros((8, 9), np.uint8)
LABEL[2:6, 2:6], LABEL[3:5, 3:5] = 1, 2
COLOURS = np.random.default_rng(0).integers(0, 255, (8, 9, 3)).astype(np.uint8)


def few_bits(path: Path, array: np.ndarray, depth: int) -> None:
    """A grey PNG with `depth` bits per pixel, as the specification packs them."""
    rows = b""
    for row in array:
        bits = "".join(f"{value:0{depth}b}" for value in row)
        rows += b"\0" + int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8))
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], depth, 0, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )


def palette(array: np.ndarray, colours: list[int]) -> Image.Image:
    image = Image.frombytes("P", array.shape[::-1], array.tobytes())
    image.putpalette(colours)
    return image


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_are_values_as_stored(tmp_path: Path, depth: int) -> None:
    array = np.arange(72, dtype=np.uint8).reshape(8, 9) % 2**depth
    few_bits(tmp_path / "x.png", array, depth)
    np.testing.assert_array_equal(read_label(tmp_path / "x.png").array, array)
    np.testing.assert_array_equal(read_image([tmp_path / "x.png"], 1)[0].array, array)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_palette_of_a_label_map_is_no_value(tmp_path: Path, bits: int) -> None:
    image = palette(LABEL, [9, 9, 9, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "x.png", bits=bits)
    np.testing.assert_array_equal(read_label(tmp_path / "x.png").array, LABEL)
    red, green, blue = read_image([tmp_path / "x.png"], 3)
    np.testing.assert_array_equal(red.array, np.array([9, 255, 0])[LABEL])
    np.testing.assert_array_equal(green.array, np.array([9, 0, 255])[LABEL])
    np.testing.assert_array_equal(blue.array, np.array([9, 0, 0])[LABEL])


def test_grey_palette_of_an_image_is_applied(tmp_path: Path) -> None:
    palette(LABEL, [7, 7, 7, 200, 200, 200, 90, 90, 90]).save(tmp_path / "x.png")
    np.testing.assert_array_equal(
        read_image([tmp_path / "x.png"], 1)[0].array, np.array([7, 200, 90])[LABEL]
    )


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_grey_in_colours_or_with_alpha_is_one_channel(tmp_path: Path, mode: str) -> None:
    Image.fromarray(LABEL).convert(mode).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_label(tmp_path / "x.png").array, LABEL)
    np.testing.assert_array_equal(read_image([tmp_path / "x.png"], 1)[0].array, LABEL)


def test_deep_grey_is_read_whole(tmp_path: Path) -> None:
    array = np.arange(72, dtype=np.uint16).reshape(8, 9) * 900
    Image.fromarray(array).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_label(tmp_path / "x.png").array, array)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_three_channels_of_one_file(tmp_path: Path, mode: str) -> None:
    Image.fromarray(COLOURS).convert(mode).save(tmp_path / "x.png")
    channels = read_image([tmp_path / "x.png"], 3)
    np.testing.assert_array_equal(np.stack([c.array for c in channels], -1), COLOURS)
    assert len(read_image([tmp_path / "x.png"])) == 3
    with pytest.raises(FileError, match="x.png: expected 2 channels, .* got 3 in 1 file"):
        read_image([tmp_path / "x.png"], 2)


def test_colours_where_one_channel_is_expected_say_what_to_do(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "x.png")
    with pytest.raises(FileError, match="expected one grey channel.*name three channels in"):
        read_image([tmp_path / "x.png"], 1)
    for read in (read_label, read_volume):
        with pytest.raises(FileError, match="expected a label map, got colours.*grey or palette"):
            read(tmp_path / "x.png")


def test_transparent_pixels_are_refused(tmp_path: Path) -> None:
    alpha = np.full_like(LABEL, 255)
    alpha[0, :2] = 3
    Image.fromarray(np.dstack([LABEL, alpha])).save(tmp_path / "x.png")
    with pytest.raises(FileError, match="expected opaque pixels, got 2 with transparency"):
        read_label(tmp_path / "x.png")
