"""Small files that declare much are refused before the memory is taken; large files are read."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tests.data.dicom_series import write_series

from recycleseg import limits
from recycleseg.data.probabilities import read_probabilities
from recycleseg.data.volumes import read_label, read_volume
from recycleseg.files import FileError, read_json
from recycleseg.run.yaml_file import read_yaml

# A refused file may take this much, which is far less than the hundreds of MB of an interpreter.
MOST_REFUSED = 30 * 2**20
ZEROS = gzip.compress(bytes(2**24), 1)


def nifti(shape: tuple[int, ...], dtype: type, *, slope: float = 1) -> bytes:
    """Everything in a NIfTI file before its voxels."""
    header = nib.Nifti2Header()
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header.set_sform(np.eye(4), code=1)
    header["scl_slope"], header["vox_offset"] = slope, 544
    return bytes(header.binaryblock) + bytes(4)


def packed(start: bytes, zeros: int) -> bytes:
    """A stream of gzip: `start`, and as many times 16 MiB of zeros in 16 KiB each."""
    return gzip.compress(start) + ZEROS * zeros


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*c) for c in ((b"IHDR", header), *chunks, (b"IEND", b""))
    )


def npz(shape: str, content: bytes = b"") -> bytes:
    array = io.BytesIO()
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    array.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content)
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("probabilities.npy", array.getvalue())
    return stored.getvalue()


def bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header + bytes(99)


def tiff(width: int, height: int) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
            (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 8)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    start = b"II*\0" + struct.pack("<I", 16) + zlib.compress(b"")
    return start + struct.pack("<H", len(tags)) + entries + bytes(4)


def mha(sizes: str, *lines: str) -> bytes:
    text = ["NDims = 3", f"DimSize = {sizes}", *lines, "ElementType = MET_UCHAR"]
    return "\n".join([*text, "ElementDataFile = LOCAL", ""]).encode() + zlib.compress(bytes(99))


NRRD = (
    b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 20000 20000 20000\nencoding: gzip\n"
    b"space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
)
LIMIT = r"to need at most 1 GiB of memory, got one that declares "
# Name of the file, its content, and a part of the message.
BOMBS: dict[str, tuple[bytes, str]] = {
    "declares_2_gib.nii.gz": (packed(nifti((2**11, 2**10, 2**10), np.uint8), 128), LIMIT + "2 GiB"),
    "declares_little.nii.gz": (
        packed(nifti((8, 8, 8), np.uint8), 128),
        "more than the 512 bytes of voxels",
    ),
    "short.nii.gz": (
        packed(nifti((2**10, 2**10, 2**9), np.uint8), 20),
        "335544320 of 536870912 bytes of voxels",
    ),
    "scaled.nii.gz": (
        packed(nifti((2**9, 2**9, 2**10), np.uint8, slope=0.1), 16),
        LIMIT + "2 GiB",
    ),
    "far.nii.gz": (
        packed(nifti((2**62, 2**62, 2**62), np.uint8), 1),
        LIMIT + r"9\.13e\+46 GiB",
    ),
    "huge.png": (png(2**15, 2**15, (b"IDAT", zlib.compress(bytes(99)))), LIMIT + "3 GiB"),
    "long.png": (png(8, 8, (b"IDAT", zlib.compress(bytes(2**26), 1))), "more than 72 bytes of pix"),
    "text.png": (
        png(8, 8, (b"zTXt", b"k\0\0" + zlib.compress(bytes(2**26), 1)), (b"IDAT", b"")),
        "0 of 72 bytes of pixels",
    ),
    "pieces.png": (png(8, 8, *[(b"IDAT", b"")] * 50_000), "0 of 72 bytes of pixels"),
    "huge.bmp": (bmp(2**15, 2**14), LIMIT + "6 GiB"),
    "huge.tif": (tiff(2**15, 2**15), LIMIT + "4 GiB"),
    "huge.nrrd": (NRRD + b"\n" + gzip.compress(bytes(99)), LIMIT + r"1\.49e\+04 GiB"),
    "short.nrrd": (
        NRRD.replace(b"20000 20000 20000", b"700 700 900") + b"\n" + gzip.compress(bytes(99)),
        "99 of 441000000 bytes of voxels",
    ),
    "long_line.nrrd": (
        NRRD.replace(b"encoding: gzip", b"endian: " + b"9" * 5000) + b"\n",
        "a line of more than 300 bytes in its header",
    ),
    "elsewhere.nrrd": (
        NRRD.replace(b"20000 20000 20000", b"7 7 9") + b"data file: /dev/zero\n",
        "expected the voxels in the file itself",
    ),
    "short.mha": (mha("900 900 900", "CompressedData = True"), "99 of 729000000 bytes of voxels"),
    "lie.mha": (
        mha("3 3 11", "CompressedData = True", "CompressedDataSize = 99999999999"),
        "of 99999999999 bytes of packed voxels",
    ),
    "huge.npz": (npz("(3, 500, 500, 500)", bytes(2**26)), "67108864 bytes in probabilities, whose"),
    "long.npz": (npz("(3, 4, 5, 6)", bytes(2**26)), "67108864 bytes in probabilities, whose hea"),
    "negative.npz": (npz("(-3, -4, 5, 6)"), r"an array probabilities of float32, shape \(-3, "),
    "deep.json": (b"[" * 100_000, "expected JSON of at most 100 levels, got more"),
    "deeper.json": (b'{"a":' * 101 + b"0" + b"}" * 101, "expected JSON of at most 100 levels"),
    "digits.json": (b"9" * 5000, "expected JSON, got: Exceeds the limit"),
    "deep.yaml": (b"[" * 100_000, "expected YAML of at most 100 levels, got more"),
    "dashes.yaml": (b"- " * 10_000, "expected YAML of at most 100 levels, got more"),
    "aliases.yaml": (
        b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(
            b"%c: &%c [%s]\n" % (98 + k, 98 + k, b",".join([b"*%c" % (97 + k)] * 9))
            for k in range(8)
        ),
        "expected at most 10000 values in YAML, got more",
    ),
    "merged.yaml": (
        b"a: &a {k: 1}\n"
        + b"".join(
            b"%c: &%c {<<: [%s]}\n" % (98 + k, 98 + k, b",".join([b"*%c" % (97 + k)] * 9))
            for k in range(8)
        ),
        "expected at most 10000 values in YAML, got more",
    ),
    "circle.yaml": (b"a: &a [*a]", "expected at most 10000 values in YAML, got more"),
}
READERS: dict[str, Callable[[Path], object]] = {
    ".json": read_json,
    ".yaml": read_yaml,
    ".npz": lambda path: read_probabilities(path, (6, 5, 4)),
}


def peak_of(read: Callable[[], object]) -> int:
    """Bytes that Python and NumPy take at the most."""
    tracemalloc.start()
    try:
        read()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("name", BOMBS)
def test_refused_in_little_memory(tmp_path: Path, name: str) -> None:
    if Path(name).suffix in (".nrrd", ".mha"):
        pytest.importorskip("SimpleITK")
    path, (content, message) = tmp_path / name, BOMBS[name]
    path.write_bytes(content)
    read = READERS.get(path.suffix, read_volume)

    def refused() -> None:
        with pytest.raises(FileError, match=f"^{re.escape(str(path))}: .*{message}"):
            read(path)

    assert peak_of(refused) < MOST_REFUSED


def test_probabilities_within_the_limit_or_of_known_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(npz("(3, 40, 50, 60)", bytes(4 * 360_000)))
    monkeypatch.setenv(limits.READ_LIMIT, "0.001")
    with pytest.raises(FileError, match="x.npz: expected a file of .* declares 1.37 MiB"):
        read_probabilities(path, (60, 50, 40))
    with pytest.raises(FileError, match=r"x.npz: expected at most 240000 numbers .* \(3, 40, 50"):
        read_probabilities(path, (60, 50, 40), most_channels=2)
    monkeypatch.delenv(limits.READ_LIMIT)
    assert read_probabilities(path, (60, 50, 40), most_channels=3).shape == (3, 60, 50, 40)


def test_dicom_with_many_frames(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    write_series(tmp_path / "case", np.zeros((1, 4, 4)), NumberOfFrames=2_000_000_000)
    with pytest.raises(FileError, match=LIMIT + "238 GiB"):
        read_volume(tmp_path / "case")
    write_series(tmp_path / "wide", np.zeros((1, 4, 4)), Rows=65535, Columns=65535)
    with pytest.raises(FileError, match=LIMIT + "32 GiB"):
        read_volume(tmp_path / "wide")


def test_dicom_element_that_claims_to_be_long(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    write_series(tmp_path / "case", np.zeros((1, 4, 4)))
    path = tmp_path / "case" / "000.dcm"
    content = path.read_bytes()
    at = content.find(b"OW\0\0") + 4  # the length of the pixels
    path.write_bytes(content[:at] + struct.pack("<I", 2**32 - 2) + content[at + 4 :])

    # Rows and columns tell how many pixels there are, and they are there.
    assert peak_of(lambda: read_volume(tmp_path / "case")) < MOST_REFUSED


def test_dicom_that_is_packed_as_a_whole(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    write_series(tmp_path / "case", np.ones((1, 4, 4)))
    path = tmp_path / "case" / "000.dcm"
    header = pydicom.dcmread(path)
    header.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    header.save_as(path, enforce_file_format=True)
    assert (read_volume(tmp_path / "case").array == 1).all()
    path.write_bytes(path.read_bytes() + bytes(2**20))
    with pytest.raises(FileError, match="000.dcm: expected a file .* declares 2.02 GiB"):
        read_volume(tmp_path / "case")


def test_a_map_of_float64_is_kept_small(tmp_path: Path) -> None:
    shape = (256, 256, 256)
    (tmp_path / "x.nii.gz").write_bytes(packed(nifti(shape, np.float64), 8))
    maps = []
    peak = peak_of(lambda: maps.append(read_label(tmp_path / "x.nii.gz")))
    assert maps[0].array.dtype == np.uint8 and maps[0].array.shape == shape
    assert not maps[0].array.any()
    # The map, and some pieces of 8 MiB; as float64 it has 128 MiB.
    assert peak < 16 * 2**20 + 60 * 2**20


def test_one_gibibyte_of_labels_is_within_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "free_main_memory", lambda: 2**35)
    path = tmp_path / "x.nii.gz"
    path.write_bytes(b"")
    limits.check_memory(path, 2**30)
    with pytest.raises(
        FileError,
        match="of 0 bytes to need at most 1 GiB .*; if you trust it, set RECYCLESEG_READ_LIMIT=2 ",
    ):
        limits.check_memory(path, 2**30 + 1)


def test_a_ct_of_float64_is_within_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "free_main_memory", lambda: 2**35)
    limits.check_memory(tmp_path, 512 * 512 * 1500 * 8, stored=100 * 2**20)


def test_the_variable_moves_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "free_main_memory", lambda: 2**35)
    monkeypatch.setenv(limits.READ_LIMIT, "2.5")
    limits.check_memory(tmp_path, 5 * 2**29, stored=1)
    with pytest.raises(FileError, match=r"at most 2\.5 GiB of memory, got one that declares 3 GiB"):
        limits.check_memory(tmp_path, 3 * 2**30, stored=2**40)
    for wrong in ("0", "-1", "much", "nan", "inf"):
        monkeypatch.setenv(limits.READ_LIMIT, wrong)
        with pytest.raises(ValueError, match=f"READ_LIMIT: expected a number .* got '{wrong}'"):
            limits.check_memory(tmp_path, 1)


def test_no_file_takes_more_than_the_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "free_main_memory", lambda: 2**28)
    with pytest.raises(FileError, match="at most the free memory, 256 MiB, got one .* 512 MiB"):
        limits.check_memory(tmp_path, 2**29)


def test_a_name_that_no_file_may_have(tmp_path: Path) -> None:
    for name in ("a\0b.json", "x" * 300):
        with pytest.raises(FileError, match="expected JSON, got"):
            read_json(tmp_path / name)
    with pytest.raises(FileError, match="expected JSON, got no file"):
        read_json(tmp_path)


def test_utf_16_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(json.dumps({"a": "ä"}).encode("utf-16"))
    assert read_json(tmp_path / "x.json") == {"a": "ä"}
    (tmp_path / "x.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(FileError, match="x.json: expected JSON, got: 'utf-16-le' codec"):
        read_json(tmp_path / "x.json")
