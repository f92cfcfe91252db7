"""Damaged images of every format, and probabilities: read or refused, in little memory."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from PIL import Image
from tests.data.dicom_series import write_series
from tests.fuzz.harness import fuzz
from tests.fuzz.mutations import Field, damaged, damaged_text

from recycleseg.data.probabilities import read_probabilities, write_probabilities
from recycleseg.data.volumes import (
    read_image,
    read_label,
    read_volume,
    spatial_dims_of,
    write_like,
    write_volume,
)

SHAPE = (5, 4, 3)
LABEL = (np.arange(60) % 3).reshape(SHAPE).astype(np.uint8)
READERS: tuple[Callable[[Path], object], ...] = (
    read_volume,
    read_label,
    lambda path: read_image([path]),
)


def read_all_ways(path: Path, readers: Sequence[Callable[[Path], object]] = READERS) -> None:
    """Read a file as a volume, a label map and an image; the last error counts."""
    error: Exception | None = None
    for read in (spatial_dims_of, *readers):
        try:
            read(path)
        except Exception as caught:
            error = caught
            if not isinstance(caught, ValueError):
                break
    if error is not None:
        raise error


def fields_of(header: type[nib.Nifti1Header], order: str = "<") -> list[Field]:
    """The numbers of a NIfTI header."""
    fields = []
    for name, (dtype, offset, *_) in header.template_dtype.fields.items():
        base, count = dtype.base, int(np.prod(dtype.shape, dtype=int))
        if base.kind in "iuf":
            kind = (
                order
                + {"i2": "h", "i4": "i", "i8": "q", "f4": "f", "f8": "d", "u1": "B"}[
                    base.str[1:] if base.itemsize > 1 else "u1"
                ]
            )
            at_each = [offset + index * base.itemsize for index in range(count)]
            # The shape matters most.
            fields += [(at, kind) for at in at_each] * (5 if name == "dim" else 1)
    return fields


def packed(inner: SearchStrategy[bytes]) -> SearchStrategy[bytes]:
    """Streams of gzip of damaged files, of which some have a second member or are damaged too."""
    whole = inner.map(lambda content: gzip.compress(content, 1, mtime=0))
    return whole | whole.map(lambda b: b + b) | whole.flatmap(damaged)


@pytest.mark.parametrize("kind", ["nifti1", "nifti2", "scaled"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti(tmp_path: Path, kind: str, ending: str) -> None:
    image_type = nib.Nifti2Image if kind == "nifti2" else nib.Nifti1Image
    array = LABEL.astype(np.int16) if kind == "scaled" else LABEL.astype(np.float32)
    image = image_type(array, np.diag([1, 2, 3, 1]))
    if kind == "scaled":
        image.header.set_slope_inter(2, 1)
    inputs = damaged(image.to_bytes(), fields_of(image_type.header_class))
    path = tmp_path / f"x{ending}"
    fuzz(f"{ending} {kind}", path, packed(inputs) if ending == ".nii.gz" else inputs, read_all_ways)


def with_checksums(content: bytes) -> bytes:
    """A PNG whose chunks have right checksums, so that what is in them is looked at."""
    made, at = content[:8], 8
    while at + 8 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunk = content[at + 4 : at + 8 + min(length, len(content))]
        made += content[at : at + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        at += 12 + length
    return made


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "1", "I;16"])
def test_png(tmp_path: Path, mode: str) -> None:
    array = (np.arange(72).reshape(8, 9) % 3).astype(np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(array)
    stored = io.BytesIO()
    (image if mode == "I;16" else image.convert(mode)).save(stored, "PNG", dpi=(50, 60))
    fields = [(16, ">I"), (20, ">I"), (24, "B"), (25, "B"), (28, "B"), (33, ">I")]
    inputs = damaged(stored.getvalue(), fields)
    fuzz(f".png {mode}", tmp_path / "x.png", inputs | inputs.map(with_checksums), read_all_ways)


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_bmp(tmp_path: Path, mode: str) -> None:
    stored = io.BytesIO()
    array = (np.arange(72).reshape(8, 9) % 3).astype(np.uint8)
    Image.fromarray(array).convert(mode).save(stored, "BMP")
    fields = [(2, "<I"), (10, "<I"), *((at, "<I") for at in range(14, 54, 4)), (28, "<H")]
    fuzz(f".bmp {mode}", tmp_path / "x.bmp", damaged(stored.getvalue(), fields), read_all_ways)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_tiff(tmp_path: Path, compression: str | None) -> None:
    pages = [Image.fromarray((np.arange(72).reshape(8, 9) % 3).astype(np.uint8)) for _ in range(2)]
    stored = io.BytesIO()
    pages[0].save(stored, "TIFF", compression=compression, save_all=True, append_images=pages[1:])
    content = stored.getvalue()
    (first,) = struct.unpack("<I", content[4:8])
    (number,) = struct.unpack("<H", content[first : first + 2])
    entries = [first + 2 + 12 * index for index in range(number)]
    fields = [(4, "<I"), (first, "<H")]
    fields += [
        (at + part, kind) for at in entries for part, kind in ((2, "<H"), (4, "<I"), (8, "<I"))
    ]
    fuzz(f".tif {compression}", tmp_path / "x.tif", damaged(content, fields), read_all_ways)


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd", ".gipl"])
def test_itk(tmp_path: Path, ending: str, compressed: bool) -> None:
    sitk = pytest.importorskip("SimpleITK")
    path = tmp_path / f"x{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(LABEL.astype(np.int16)), str(path), compressed)
    content = path.read_bytes()
    header = content[: content.find(b"LOCAL") if ending == ".mha" else content.find(b"\n\n")]
    length = 256 if ending == ".gipl" else len(content) if ending == ".mhd" else len(header)
    voxels = content[length:]
    text = damaged(content[:length], [(at, ">H") for at in range(0, 8, 2)])
    if ending != ".gipl":
        text = damaged_text(content[:length])
    inputs = damaged(content) | text.map(lambda start: start + voxels)
    fuzz(f"{ending} {'packed' if compressed else 'plain'}", path, inputs, read_all_ways)


def dicom_fields(content: bytes) -> list[Field]:
    """The whole numbers of 16 bits in a DICOM file, and the lengths of other values."""
    fields, at = [], content.find(b"US\x02\x00")
    while at >= 0:
        fields += [(at + 4, "<H")] * 3
        at = content.find(b"US\x02\x00", at + 1)
    for kind in (b"IS", b"DS", b"UI", b"CS", b"OW", b"OB", b"SQ"):
        at = content.find(kind)
        while at >= 0:
            fields.append((at + 2, "<H"))
            at = content.find(kind, at + 1)
    return fields


@pytest.mark.parametrize("kind", ["slice", "segmentation"])
def test_dicom(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("highdicom")
    write_series(tmp_path / "series", LABEL.transpose(2, 1, 0))
    source = tmp_path / "series" / "000.dcm"
    if kind == "segmentation":
        source = tmp_path / "made.dcm"
        write_like(source, LABEL, read_volume(tmp_path / "series"), {"a": 1, "b": 2})
    content = source.read_bytes()
    inputs = damaged(content, dicom_fields(content))
    # Only label maps may be segmentations.
    readers = READERS[:2] if kind == "segmentation" else READERS
    fuzz(f".dcm {kind}", tmp_path / "x.dcm", inputs, lambda path: read_all_ways(path, readers))


def test_dicom_series(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    folder = tmp_path / "series"
    write_series(folder, LABEL.transpose(2, 1, 0))
    path = folder / "001.dcm"
    content = path.read_bytes()
    inputs = damaged(content, dicom_fields(content))
    fuzz(".dcm series", path, inputs, lambda _: read_all_ways(folder), named="series")


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "numpy's"])
def test_npz(tmp_path: Path, ours: bool) -> None:
    path = tmp_path / "x.npz"
    probs = np.full((3, *SHAPE), 1 / 3, np.float32)
    if ours:
        write_probabilities(path, probs)
    else:
        np.savez(path, probabilities=probs.transpose(0, 3, 2, 1))

    def read(path: Path) -> None:
        try:
            read_probabilities(path, SHAPE)
        finally:
            read_probabilities(path, SHAPE, most_channels=6)

    content = path.read_bytes()
    inner = content.find(b"NUMPY")
    shape = st.sampled_from([b"(3, 3, 4, 5)", b"(3,3,4,500)", b"(30, 3,4,5)", b"(-3,-3,4,5)"])
    other = shape.map(lambda text: content.replace(b"(3, 3, 4, 5)", text))
    inputs = damaged(content, [(inner + at, "<H") for at in range(5, 12)]) | other.flatmap(damaged)
    fuzz(f".npz {'ours' if ours else 'plain'}", path, inputs, read)


def test_the_sound_files_are_read(tmp_path: Path) -> None:
    """What is damaged above is sound before."""
    for ending in (".nii", ".nii.gz", ".tif", ".mha", ".mhd", ".nrrd"):
        write_volume(tmp_path / f"x{ending}", LABEL, spacing=(1.0, 2.0, 3.0))
        np.testing.assert_array_equal(read_label(tmp_path / f"x{ending}").array, LABEL)
