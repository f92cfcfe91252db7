"""PNG: 2D images and label maps.

The chunks are taken apart here, and only those that decide the pixels and their size go to Pillow:
it would unpack compressed texts and profiles, too, and fill in missing pixels.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

from recycleseg.data.formats.raster import channels_of, check_pixels, pixel_size, size_options
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
# The chunks that Pillow gets besides header and pixels, and their longest content.
_LONGEST = {b"PLTE": 768, b"tRNS": 256, b"pHYs": 9}
_BLOCK = 2**16
_UNPACKED_BLOCK = 2**20


class _Header(NamedTuple):
    """The content of IHDR."""

    width: int
    height: int
    depth: int
    colour_type: int
    compression: int
    filter: int
    interlaced: int


def read_png(path: Path, content: Content) -> list[Volume]:
    """The channels of a PNG.

    The pixel size comes from the chunk pHYs (PNG specification, third edition, section 11.3.4.3),
    in pixels per metre. The number of pixels in IHDR is checked before memory is taken, and the
    pixels must be as many.
    """
    with path.open("rb") as file:
        header, small = _read_chunks(path, file)
    with PngImagePlugin.PngImageFile(io.BytesIO(small)) as image:  # not Image.open: it warns
        spacing = pixel_size(image)
        channels = channels_of(image, path, content)
    if header.colour_type == _GREY and header.depth in (2, 4):  # Pillow stretches them to 255
        channels = [channel // (255 // (2**header.depth - 1)) for channel in channels]
    return [Volume(channel, spacing, None, path) for channel in channels]


def write_png(path: Path, array: Array, grid: Volume, names: Names | None) -> None:
    """Write an array (height, width), uint8 or uint16."""
    if array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"array: expected uint8 or uint16 for a PNG, got {array.dtype}")
    with written_whole(path) as temporary:
        Image.fromarray(array).save(temporary, format="PNG", **size_options(grid.spacing))


def _read_chunks(path: Path, file: BinaryIO) -> tuple[_Header, bytes]:
    """The header, and the file without the chunks that do not decide the pixels and their size."""
    start = file.read(132)
    if not start.startswith(_SIGNATURE):
        raise ValueError(kind_of(start))
    file.seek(len(_SIGNATURE))
    header: _Header | None = None
    kept, packed = [_SIGNATURE], list[bytes]()
    for kind, length in _chunks(file):
        if header is None:
            header_bytes = _content(file, kind, length, 13 if kind == b"IHDR" else 0)
            header = _checked_header(path, header_bytes)
            kept.append(_chunk(kind, header_bytes))
            pixels = _Pixels(header)
        elif kind == b"IDAT":
            packed.extend(pixels.checked(_pieces(file, kind, length)))
        elif kind in _LONGEST and not packed:
            kept.append(_chunk(kind, _content(file, kind, length, _LONGEST[kind])))
        else:
            for _ in _pieces(file, kind, length):
                pass
    if header is None:
        raise ValueError("no header")
    pixels.check_end()
    return header, b"".join([*kept, _chunk(b"IDAT", b"".join(packed)), _chunk(b"IEND", b"")])


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and length of each chunk up to the last one; its content must be read in between."""
    kind = b""
    while kind != b"IEND":
        start = file.read(8)
        if len(start) < 8:
            raise ValueError("truncated PNG file")
        length, kind = struct.unpack(">I4s", start)
        yield kind, length


def _pieces(file: BinaryIO, kind: bytes, length: int) -> Iterator[bytes]:
    """The content of a chunk, whose checksum is verified at its end."""
    checksum = zlib.crc32(kind)
    while length > 0:
        piece = file.read(min(length, _BLOCK))
        if not piece:
            raise ValueError("truncated PNG file")
        checksum, length = zlib.crc32(piece, checksum), length - len(piece)
        yield piece
    if file.read(4) != struct.pack(">I", checksum):
        raise ValueError(f"broken PNG file: a wrong checksum of chunk {kind!r}")


def _content(file: BinaryIO, kind: bytes, length: int, longest: int) -> bytes:
    if length > longest:
        raise ValueError(f"a chunk {kind!r} of {length} bytes in the place of at most {longest}")
    return b"".join(_pieces(file, kind, length))


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
    return struct.pack(">I", len(content)) + kind + content + checksum


def _checked_header(path: Path, content: bytes) -> _Header:
    if len(content) != 13:
        raise ValueError(f"a header of {len(content)} bytes")
    header = _Header(*struct.unpack(">IIBBBBB", content))
    if header.colour_type not in _SAMPLES or header.depth not in (1, 2, 4, 8, 16):
        raise ValueError(f"colour type {header.colour_type} with {header.depth} bits")
    if header.depth == 16 and header.colour_type != _GREY:  # Pillow would cut them to 8 bits
        raise FileError(
            f"{path}: expected 16 bits in grey images only, got 16 bits per colour; save each "
            "channel as a grey file CASE_0000, CASE_0001, ..."
        )
    grey = header.colour_type == _GREY
    check_pixels(path, (header.width, header.height), header.depth // 8 or 1 if grey else 4)
    return header


class _Pixels:
    """Counts unpacked pixels while packed ones pass by.

    Args:
        header: declares how many there are.
    """

    def __init__(self, header: _Header) -> None:
        self._stream = zlib.decompressobj()
        self._there = 0
        self._needed = _scanline_bytes(header)

    def checked(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The same pieces; those behind the end of the stream are left out.

        Raises:
            ValueError: they hold more pixels than the header declares.
        """
        for piece in pieces:
            if self._stream.eof:
                continue
            yield piece
            rest = piece
            while True:
                unpacked = self._stream.decompress(rest, _UNPACKED_BLOCK)
                self._there += len(unpacked)
                if self._there > self._needed:
                    raise ValueError(f"more than {self._needed} bytes of pixels")
                rest = self._stream.unconsumed_tail
                # What is left inside the stream comes without further input.
                if not rest and len(unpacked) < _UNPACKED_BLOCK:
                    break

    def check_end(self) -> None:
        """Raise ValueError if pixels are missing, because Pillow would fill them in."""
        if self._there < self._needed:
            raise ValueError(f"{self._there} of {self._needed} bytes of pixels")
        if not self._stream.eof:
            raise ValueError("pixels without an end")


def _scanline_bytes(header: _Header) -> int:
    """Bytes of all pixels of a PNG, unpacked: each row of each pass begins with its filter."""
    bits, needed = header.depth * _SAMPLES[header.colour_type], 0
    for first_x, first_y, step_x, step_y in _ADAM7 if header.interlaced else ((0, 0, 1, 1),):
        columns = -(-(header.width - first_x) // step_x)
        rows = -(-(header.height - first_y) // step_y)
        needed += rows * (1 + (columns * bits + 7) // 8) if columns > 0 else 0
    return needed
