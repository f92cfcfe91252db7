"""Files that are not images, or do not fit the run: each gives one clear line."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from tests.tiny_runs import write_tiny_run

from recycleseg.classes import Classes
from recycleseg.cli.predict import main
from recycleseg.data.inputs import find_cases
from recycleseg.data.intensity import ChannelIntensity
from recycleseg.data.preprocess import Plan, preprocess_image
from recycleseg.data.volumes import read_image, read_volume, write_volume
from recycleseg.files import FileError

SHAPE = (6, 7, 5)
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
         (0, 1, 1, 2))  # fmt: skip
Write = Callable[[Path], object]


def nifti(
    change: Callable[[Any], object] = lambda header: None,
    *,
    array: np.ndarray | None = None,
    order: str = "<",
) -> bytes:
    """A NIfTI-1 file with voxels of 1 mm; `change` may edit its header."""
    if array is None:
        array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    header = nib.Nifti1Header(endianness=order)
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header.set_sform(np.eye(4), code=1)
    header["vox_offset"] = 352
    change(header)
    data = array.astype(array.dtype.newbyteorder(order)).tobytes(order="F")
    return bytes(header.binaryblock) + bytes(4) + data


def field(name: str, value: object, at: object = ()) -> Callable[[Any], None]:
    def change(header: Any) -> None:
        header[name][at] = value

    return change


def without_sform(name: str, value: object, at: object = ()) -> Callable[[Any], None]:
    def change(header: Any) -> None:
        header.set_sform(None, code=0)
        header[name][at] = value

    return change


def scaled(slope: float, inter: float) -> Callable[[Any], None]:
    def change(header: Any) -> None:
        header["scl_slope"], header["scl_inter"] = slope, inter

    return change


def voxels(*values: float, dtype: type = np.float32) -> np.ndarray:
    array = np.zeros(SHAPE, dtype)
    array.flat[: len(values)] = values
    return array


def file(content: bytes) -> Write:
    return lambda path: path.write_bytes(content)


def packed(content: bytes) -> Write:
    return lambda path: path.write_bytes(gzip.compress(content, mtime=0))


def flipped_byte(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int = 9, height: int = 8, *, interlace: int = 0, data: bytes | None = None) -> bytes:
    """A grey PNG of 8 bits; `data` is the content of IDAT, None gives pixels 0, 1, 2, ..."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, interlace)
    if data is None:
        pixels = np.arange(width * height, dtype=np.uint8).reshape(height, width)
        passes = [(0, 0, 1, 1)] if interlace == 0 else list(ADAM7)
        rows = [row for x, y, dx, dy in passes for row in pixels[y::dy, x::dx] if row.size]
        data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = (b"IHDR", header), (b"IDAT", data), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in chunks)


def picture(mode: str, kind: str = "png", colour: Any = 0) -> bytes:
    written = io.BytesIO()
    Image.new(mode, (9, 8), colour).save(written, kind)
    return written.getvalue()


def deep_colour() -> bytes:
    """A PNG of 16 bits in red, green and blue."""
    header = struct.pack(">IIBBBBB", 9, 8, 16, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(bytes(8 * 55))), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in chunks)


def extended(content: bytes) -> bytes:
    """A NIfTI-1 file that says that extensions follow its header."""
    return content[:348] + b"\1" + content[349:]


COLOURS = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
TEXT = b"Patient: Jane Doe\n" * 40
DICOM = bytes(128) + b"DICM" + bytes(400)
WHOLE = r"expected a whole \.nii file, got: "
WHOLE_GZ = r"expected a whole \.nii\.gz file, got: "
WHOLE_PNG = r"expected a whole \.png file, got: "
GREY = "expected one grey channel"

# How each bad file is written, and the error message after its path.
BAD_NIFTI: dict[str, tuple[Write, str]] = {
    "empty.nii.gz": (file(b""), WHOLE_GZ + "an empty file"),
    "empty.nii": (file(b""), WHOLE + "an empty file"),
    "four_bytes.nii": (file(nifti()[:4]), WHOLE + "4 of 348 bytes of a header"),
    "half_header.nii": (file(nifti()[:200]), WHOLE + "200 of 348 bytes of a header"),
    "truncated.nii": (file(nifti()[:800]), WHOLE + "448 of 840 bytes of voxels"),
    "header_alone.nii": (file(nifti()[:352]), WHOLE + "0 of 840 bytes of voxels"),
    "truncated.nii.gz": (file(gzip.compress(nifti())[:300]), WHOLE_GZ + "Compressed file ended"),
    "changed_byte.nii.gz": (file(flipped_byte(gzip.compress(nifti()))), WHOLE_GZ),
    "text.nii": (file(TEXT), WHOLE + "a file of another kind, that begins with b'Patient:'"),
    "text.nii.gz": (file(TEXT), WHOLE_GZ + "a file of another kind"),
    "garbage.nii.gz": (packed(bytes(range(256)) * 4), WHOLE_GZ + "a file of another kind"),
    "dicom.nii": (file(DICOM), WHOLE + "a DICOM file"),
    "dicom.nii.gz": (packed(DICOM), WHOLE_GZ + "a DICOM file"),
    "jpeg.nii": (file(picture("L", "jpeg")), WHOLE + "a JPEG file"),
    "not_packed.nii.gz": (file(nifti()), WHOLE_GZ + "a NIfTI file"),
    "packed.nii": (packed(nifti()), WHOLE + "a gzip stream"),
    "magic.nii": (file(nifti(field("magic", b"xyz"))), WHOLE + "magic string"),
    "pair.nii": (file(nifti(field("magic", b"ni1"))), WHOLE + "the header of a .hdr/.img pair"),
    "datatype.nii": (file(nifti(field("datatype", 999))), WHOLE + "data code 999"),
    "one_bit.nii": (file(nifti(field("datatype", 1))), WHOLE + "data code 1 not supported"),
    "offset_beyond.nii": (
        file(nifti(field("vox_offset", 1e6))),
        WHOLE + "0 of 840 bytes of voxels",
    ),
    "offset_nan.nii": (file(nifti(field("vox_offset", np.nan))), WHOLE),
    "offset_and_extension.nii": (
        file(extended(nifti(field("vox_offset", 16)))),
        WHOLE + "header extensions and a vox_offset of 16",
    ),
    "offset_far.nii.gz": (
        packed(nifti(field("vox_offset", 1e6))),
        WHOLE_GZ + "0 of 840 bytes of voxels",
    ),
    "longer.nii": (file(nifti() + bytes(9999)), WHOLE + "more than the 840 bytes of voxels"),
    "longer.nii.gz": (packed(nifti() + bytes(9999)), WHOLE_GZ + "more than the 840 bytes of vox"),
    "shorter.nii.gz": (packed(nifti()[:800]), WHOLE_GZ + "448 of 840 bytes of voxels"),
    "second_member.nii.gz": (
        file(gzip.compress(nifti()) + flipped_byte(gzip.compress(bytes(99)))),
        WHOLE_GZ,
    ),
    "many_channels.nii": (
        file(nifti(array=np.zeros((1, 1, 1, 5000), "u1"))),
        "expected at most 4096 channels, got 5000",
    ),
    "bomb.nii.gz": (
        packed(nifti(field("dim", 2000, slice(1, 4)))),
        r"expected a file of .* to need at most 1 GiB of memory, got one that declares 29\.8 GiB",
    ),
    "more_claimed.nii": (
        file(nifti(field("dim", 50, 1))),
        WHOLE + "840 of 7000 bytes of voxels",
    ),
    "huge_claimed.nii": (
        file(nifti(field("dim", 32767, slice(1, 4)))),
        WHOLE + "840 of 140724603846652 bytes of voxels",
    ),
    "negative_size.nii": (
        file(nifti(field("dim", -6, 1))),
        r"expected at least one voxel along each axis, got \(-6, 7, 5\)",
    ),
    "no_voxel.nii": (
        file(nifti(field("dim", 0, 2))),
        r"expected at least one voxel along each axis, got \(6, 0, 5\)",
    ),
    "no_axis.nii": (file(nifti(field("dim", 0, 0))), "expected 3 axes, got 0"),
    "one_axis.nii": (file(nifti(field("dim", 1, 0))), "expected 3 axes, got 1"),
    "nine_axes.nii": (file(nifti(field("dim", 9, 0))), "expected 3 axes, got 9"),
    "4d.nii.gz": (
        packed(nifti(array=np.zeros((*SHAPE, 2), "f4"))),
        r"expected one channel, got 2, with shape \(6, 7, 5, 2\)",
    ),
    "5d.nii.gz": (packed(nifti(array=np.zeros((*SHAPE, 1, 3), "f4"))), "expected one channel"),
    "no_channel.nii": (
        file(nifti(array=np.zeros((*SHAPE, 0), "f4"))),
        "expected at least one voxel along each axis",
    ),
    "5d_both.nii.gz": (
        packed(nifti(array=np.zeros((*SHAPE, 2, 3), "f4"))),
        r"expected 3 axes, or 4 with channels, got shape \(6, 7, 5, 2, 3\)",
    ),
    "complex.nii": (
        file(nifti(array=voxels(dtype=np.complex64))),
        "expected real numbers, got complex64",
    ),
    "colours.nii": (file(nifti(array=COLOURS)), "expected real numbers, got .*'R'"),
    "nan.nii.gz": (
        packed(nifti(array=voxels(np.nan))),
        "expected finite values, got 1 NaN and 0 Inf",
    ),
    "inf.nii.gz": (
        packed(nifti(array=voxels(np.inf, -np.inf))),
        "expected finite values, got 0 NaN and 2 Inf",
    ),
    "all_nan.nii": (
        file(nifti(array=np.full(SHAPE, np.nan))),
        "expected finite values, got 210 NaN and 0 Inf",
    ),
    "huge_value.nii": (
        file(nifti(array=voxels(1e300, dtype=np.float64))),
        r"expected values up to 1e\+37, got 1e\+300",
    ),
    "huge_slope.nii": (
        file(nifti(scaled(3e38, 0), array=voxels(1000, dtype=np.int16))),
        r"expected values up to 1e\+37, got 3e\+41",
    ),
    "inf_intercept.nii": (file(nifti(scaled(1, np.inf))), WHOLE + ".*intercept inf"),
    "singular.nii": (file(nifti(field("srow_x", 0))), "expected an invertible affine, got"),
    "nan_affine.nii": (
        file(nifti(field("srow_y", np.nan))),
        "expected an invertible affine, got .*nan",
    ),
    "long_quaternion.nii": (
        file(nifti(lambda h: (without_sform("qform_code", 1)(h), field("quatern_b", 2)(h)))),
        "expected an orientation, got a qform with ",
    ),
    "no_voxel_size.nii": (
        file(nifti(without_sform("pixdim", 0, 2))),
        r"expected positive voxel sizes, got pixdim \[1.0, 0.0, 1.0\] and no sform",
    ),
    "negative_voxel_size.nii": (
        file(nifti(without_sform("pixdim", -2, 3))),
        r"expected positive voxel sizes, got pixdim \[1.0, 1.0, -2.0\] and no sform",
    ),
    "folder.nii.gz": (Path.mkdir, "expected a file, got a folder"),
    "link.nii.gz": (lambda p: p.symlink_to(p.parent / "gone"), "expected a file, got a link to"),
}  # fmt: skip

BAD_PNG: dict[str, tuple[Write, str]] = {
    "empty.png": (file(b""), WHOLE_PNG + "an empty file"),
    "text.png": (file(TEXT), WHOLE_PNG + "a file of another kind"),
    "jpeg.png": (file(picture("L", "jpeg")), WHOLE_PNG + "a JPEG file"),
    "nifti.png": (file(nifti()), WHOLE_PNG + "a NIfTI file"),
    "truncated.png": (file(png()[:60]), WHOLE_PNG + "truncated PNG file"),
    "no_end.png": (file(png()[:-12]), WHOLE_PNG + "truncated PNG file"),
    "changed_byte.png": (file(flipped_byte(png())), WHOLE_PNG),
    "changed_checksum.png": (
        file(png()[:-13] + b"?" + png()[-12:]),
        WHOLE_PNG + "broken PNG file: a wrong checksum of chunk b'IDAT'",
    ),
    "garbage.png": (file(png(data=b"no deflate stream")), WHOLE_PNG),
    "few_rows.png": (
        file(png(data=zlib.compress(bytes(20)))),
        WHOLE_PNG + "20 of 80 bytes of pixels",
    ),
    "many_rows.png": (
        file(png(data=zlib.compress(bytes(2**24)))),
        WHOLE_PNG + "more than 80 bytes of pixels",
    ),
    "huge_claimed.png": (
        file(png(60000, 60000, data=zlib.compress(bytes(20)))),
        "expected a file of 68 bytes to need at most 1 GiB of memory, got one that declares 10.1 G",
    ),
    "no_pixels.png": (file(png(0, 8, data=b"")), WHOLE_PNG + "an image of 0 by 8 pixels"),
    "colour.png": (file(picture("RGB", colour=(1, 2, 3))), GREY + ", got colours in 72 pixels"),
    "palette.png": (file(picture("P", colour="red")), GREY + ", got colours in 72 pixels"),
    "grey_alpha.png": (file(picture("LA")), "expected opaque pixels, got 72 with transparency"),
    "colour_alpha.png": (file(picture("RGBA")), "expected opaque pixels, got 72"),
    "deep_colour.png": (file(deep_colour()), "expected 16 bits in grey images only"),
}  # fmt: skip
BAD = {**BAD_NIFTI, **BAD_PNG}


def plan_of(spatial_dims: int, channels: tuple[str, ...] = ("MRI",)) -> Plan:
    return Plan(
        channel_names=channels,
        classes=Classes(("background", "a")),
        spatial_dims=spatial_dims,
        spacing=None,
        shape=None,
        intensities=(ChannelIntensity("percentile"),) * len(channels),
    )


def problem(*paths: Path) -> str:
    """The message of reading or preprocessing; it must be one line."""
    plan = plan_of(2 if paths[0].suffix == ".png" else 3, ("MRI",) * len(paths))
    with pytest.raises(FileError) as error:
        preprocess_image(read_image(paths, len(paths)), plan, case_id="x")
    said = str(error.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("name", BAD)
def test_bad_file_gives_one_line(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write, expected = BAD[name]
    write(tmp_path / name)
    said = problem(tmp_path / name)
    assert said.startswith(f"{tmp_path / name}: expected ") and ", got" in said
    assert re.match(expected, said.removeprefix(f"{tmp_path / name}: ")), said
    assert capfd.readouterr() == ("", "")  # nibabel prints what it repairs if nothing stops it


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "x.nii"
    path.write_bytes(nifti())
    path.chmod(0)
    assert "Permission denied" in problem(path)


GOOD_NIFTI: dict[str, bytes] = {
    "big-endian": nifti(order=">"),
    "no scaling": nifti(scaled(0, 7)),
    "scaling NaN": nifti(scaled(np.nan, np.nan)),
    "voxel size 0 beside a sform": nifti(field("pixdim", 0, 2)),
    "qfac 0": nifti(field("pixdim", 0, 0)),
    "unknown units": nifti(field("xyzt_units", 0)),
    "more bytes than voxels": nifti() + bytes(99),
    "offset 0": nifti(field("vox_offset", 0)),
    "offset too small": nifti(field("vox_offset", 16)),
    "offset negative": nifti(field("vox_offset", -352)),
    "offset of the header's size": nifti(field("vox_offset", 348)),
}


@pytest.mark.parametrize("name", GOOD_NIFTI)
def test_odd_nifti_that_is_sound(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.nii").write_bytes(GOOD_NIFTI[name])
    volume = read_volume(tmp_path / "x.nii")
    expected = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    np.testing.assert_array_equal(volume.array, expected)
    np.testing.assert_array_equal(volume.affine, np.eye(4))
    assert preprocess_image([volume], plan_of(3)).image.shape == (1, *SHAPE)
    assert capfd.readouterr() == ("", "")


def test_small_voxels_in_metres_are_no_singular_affine(tmp_path: Path) -> None:
    def microscope(header: Any) -> None:
        header.set_sform(np.diag([1e-6, 1e-6, 1e-6, 1]), code=1)
        header.set_xyzt_units("meter")

    (tmp_path / "x.nii").write_bytes(nifti(microscope))
    # The affine is stored in float32.
    np.testing.assert_allclose(read_volume(tmp_path / "x.nii").spacing, (1e-3,) * 3, rtol=1e-6)


@pytest.mark.parametrize("size", [(9, 8), (1, 1), (3, 17)])
def test_interlaced_png_is_sound(tmp_path: Path, size: tuple[int, int]) -> None:
    for interlace in (0, 1):
        (tmp_path / f"{interlace}.png").write_bytes(png(*size, interlace=interlace))
    plain, interlaced = (read_volume(tmp_path / f"{i}.png").array for i in (0, 1))
    np.testing.assert_array_equal(interlaced, plain)
    assert plain.shape == size[::-1]


def test_large_png_is_read_without_a_warning(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9500, 9500), np.uint8)).save(tmp_path / "x.png")
    assert read_volume(tmp_path / "x.png").array.shape == (9500, 9500)


def test_channels_that_do_not_fit_each_other(tmp_path: Path) -> None:
    paths = [tmp_path / f"x_000{channel}.nii" for channel in range(3)]
    shifted = np.eye(4) + 0.5 * np.eye(4, k=3)
    write_volume(paths[0], voxels(), spacing=(1.0,) * 3)
    write_volume(paths[1], voxels()[1:], spacing=(1.0,) * 3)
    write_volume(paths[2], voxels(), spacing=None, affine=shifted)
    assert problem(*paths[:2]) == (
        f"{paths[1]}: expected shape (6, 7, 5) as x_0000.nii, got (5, 7, 5)"
    )
    assert problem(paths[0], paths[2]).startswith(f"{paths[2]}: expected affine [[1.0, ")
    both = problem(*paths)
    assert "x_0001.nii: expected shape" in both and "; " in both and "expected affine" in both
    paths[1].unlink()
    with pytest.raises(FileError) as error:
        find_cases([tmp_path], ("T1", "T2", "FLAIR"), 3)
    missing = f"{paths[1]}: expected channel 1 of case x, got a path that does not exist"
    assert str(error.value) == missing


@pytest.mark.parametrize(("spatial_dims", "bad"), [(3, BAD_NIFTI), (2, BAD_PNG)], ids=["3D", "2D"])
def test_the_sound_case_among_bad_ones_is_predicted(
    tmp_path: Path,
    spatial_dims: int,
    bad: dict[str, tuple[Write, str]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = write_tiny_run(tmp_path / "run", spatial_dims=spatial_dims)
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for name, (write, _) in bad.items():
        # Otherwise x.nii and x.nii.gz would be the same case.
        path = images / name.replace(".", "_packed." if name.endswith(".gz") else ".", 1)
        write(path)
    good = images / ("good.png" if spatial_dims == 2 else "good.nii")
    good.write_bytes(png() if spatial_dims == 2 else nifti())
    assert main(["-m", str(run), "-i", str(images), "-o", str(out), "--device", "cpu"]) == 3
    said, errors = capfd.readouterr()
    assert f"predicted 1, already there 0, failed {len(bad)}: {out}" in said
    first, *lines = errors.splitlines()
    assert first == f"recycle-predict: {len(bad)} failed"
    assert len(lines) == len(bad)
    assert all(line.startswith(f"  - {images}") and "expected" in line for line in lines)
    assert sorted(p.name for p in out.iterdir()) == [good.name, "predict.json"]
    assert read_volume(out / good.name).array.shape == read_volume(good).array.shape
    record = json.loads((out / "predict.json").read_text())
    assert list(record["images"]) == ["good"] and len(record["failed"]) == len(bad)
