"""Reading and writing NIfTI and PNG files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from recycleseg.data.volumes import read_volume, sized, write_like, write_volume
from recycleseg.files import FileError


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_phys(path: Path, phys: bytes) -> None:
    """Insert a pHYs chunk after the header chunk (8 bytes signature, 25 bytes IHDR)."""
    content = path.read_bytes()
    path.write_bytes(content[:33] + png_chunk(b"pHYs", phys) + content[33:])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_keeps_values_dtype_and_affine(tmp_path: Path, ending: str, dtype: type) -> None:
    array = np.random.default_rng(0).integers(0, 200, (3, 4, 5)).astype(dtype)
    affine = np.array([[0, -2.0, 0, 7], [1.5, 0, 0, -3], [0, 0, 0.5, 1], [0, 0, 0, 1]])
    write_volume(tmp_path / f"x{ending}", array, spacing=(1.5, 2.0, 0.5), affine=affine)
    volume = read_volume(tmp_path / f"x{ending}")
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array, array)
    # The affine is stored in float32; these numbers are exact in it.
    np.testing.assert_array_equal(volume.affine, affine)
    assert volume.spacing == (1.5, 2.0, 0.5)


def test_nifti_scaling_and_units_are_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.diag([1, 2, 3, 1000]))
    image.header.set_xyzt_units("micron")
    image.header.set_slope_inter(2.0, -1.0)
    nib.save(image, tmp_path / "x.nii.gz")
    volume = read_volume(tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(volume.array.ravel(), 2.0 * np.arange(8) - 1.0)
    np.testing.assert_allclose(volume.spacing, (1e-3, 2e-3, 3e-3), rtol=1e-12)


def test_nifti2_is_read(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(np.ones((2, 3, 4), np.float32), np.eye(4)), tmp_path / "x.nii.gz")
    assert read_volume(tmp_path / "x.nii.gz").array.shape == (2, 3, 4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_keeps_values_and_pixel_size(tmp_path: Path, dtype: type) -> None:
    array = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (4, 6)).astype(dtype)
    write_volume(tmp_path / "x.png", array, spacing=(0.25, 0.1))
    volume = read_volume(tmp_path / "x.png")
    assert volume.array.dtype.itemsize >= array.dtype.itemsize
    np.testing.assert_array_equal(volume.array, array)
    # 4000 and 10 000 pixels per metre: whole numbers, so exact.
    assert volume.spacing == (0.25, 0.1)
    assert volume.affine is None


@pytest.mark.parametrize(
    ("phys", "spacing"),
    [
        (None, None),
        # x comes first in the chunk, rows first in ours; 6667 is no whole number of dots per inch.
        (struct.pack(">IIB", 6667, 2000, 1), (0.5, 1000 / 6667)),
        (struct.pack(">IIB", 3, 2, 0), None),
        (struct.pack(">IIB", 0, 0, 1), None),
    ],
    ids=["absent", "metre", "ratio only", "zero"],
)
def test_png_pixel_size_comes_from_its_phys_chunk(
    tmp_path: Path, phys: bytes | None, spacing: tuple[float, float] | None
) -> None:
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "x.png")
    if phys is not None:
        with_phys(tmp_path / "x.png", phys)
    volume = read_volume(tmp_path / "x.png")
    assert (volume.spacing, volume.screen_spacing) == (spacing, None)


@pytest.mark.parametrize("size", [2834, 2835, 3779, 3780])  # 72 and 96 dpi, cut and rounded
def test_resolution_of_a_screen_is_no_pixel_size(tmp_path: Path, size: int) -> None:
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "x.png")
    with_phys(tmp_path / "x.png", struct.pack(">IIB", size, size, 1))
    volume = read_volume(tmp_path / "x.png")
    stated = (1000 / size, 1000 / size)
    assert (volume.spacing, volume.screen_spacing) == (None, stated)
    assert sized(volume, "auto") is volume
    assert sized(volume, "file").spacing == stated
    assert sized(volume, "ignore").spacing is None
    write_like(tmp_path / "label.png", volume.array, volume)
    assert read_volume(tmp_path / "label.png").screen_spacing == stated


@pytest.mark.parametrize("size", [(2833, 2833), (2836, 2836), (2835, 3780), (2835, 5000)])
def test_other_resolutions_are_pixel_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "x.png")
    with_phys(tmp_path / "x.png", struct.pack(">IIB", *size, 1))
    volume = read_volume(tmp_path / "x.png")
    assert volume.spacing == (1000 / size[1], 1000 / size[0])
    assert sized(volume, "auto") is volume
    assert sized(volume, "file") is volume
    assert sized(volume, "ignore").spacing is None


def test_voxels_of_a_scan_may_be_as_large_as_pixels_of_a_screen(tmp_path: Path) -> None:
    spacing = (25.4 / 72, 25.4 / 72, 3.0)
    write_volume(tmp_path / "x.nii", np.zeros((2, 3, 4), np.float32), spacing=spacing)
    volume = read_volume(tmp_path / "x.nii")
    assert volume.spacing == pytest.approx(spacing, rel=1e-6)  # float32 in the file
    assert volume.screen_spacing is None


def test_one_bit_png_becomes_integers(tmp_path: Path) -> None:
    Image.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "x.png")
    array = read_volume(tmp_path / "x.png").array
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, np.eye(4))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".png"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.97])
def test_truncated_file_is_named(tmp_path: Path, ending: str, keep: float) -> None:
    array = np.random.default_rng(0).integers(0, 255, (9, 8, 7)[: 2 if ending == ".png" else 3])
    path = tmp_path / f"scan{ending}"
    write_volume(path, array.astype(np.uint8), spacing=(1.0,) * array.ndim)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(FileError, match=rf"scan{ending}: expected a whole {ending} file, got"):
        read_volume(path)


@pytest.mark.parametrize("ending", [".nii.gz", ".png"])
def test_corrupt_byte_is_found_by_the_checksum(tmp_path: Path, ending: str) -> None:
    array = np.random.default_rng(0).integers(0, 255, (19, 18, 17)[: 2 if ending == ".png" else 3])
    path = tmp_path / f"scan{ending}"
    write_volume(path, array.astype(np.uint8), spacing=(1.0,) * array.ndim)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(FileError, match=f"scan{ending}: expected a whole"):
        read_volume(path)


def test_colours_in_nifti_are_refused(tmp_path: Path) -> None:
    colours = np.zeros((2, 2, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colours, np.eye(4)), tmp_path / "x.nii.gz")
    with pytest.raises(FileError, match="x.nii.gz: expected real numbers"):
        read_volume(tmp_path / "x.nii.gz")


def test_singular_affine_is_refused(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4))
    image.header["srow_x"] = 0
    image.header["sform_code"] = 1
    (tmp_path / "x.nii").write_bytes(image.header.binaryblock + bytes(4) + bytes(32))
    with pytest.raises(FileError, match="x.nii: expected an invertible affine"):
        read_volume(tmp_path / "x.nii")


def test_missing_file_and_unknown_ending(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="x.nii.gz: expected a file, got a path that does not"):
        read_volume(tmp_path / "x.nii.gz")
    with pytest.raises(FileError, match="x.jpg: expected a file ending in .nii.gz, .nii, .png"):
        read_volume(tmp_path / "x.jpg")


def test_write_volume_refuses_what_the_format_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="path: expected an ending for 2 axes, got x.nii"):
        write_volume(tmp_path / "x.nii", np.zeros((2, 2), np.uint8), spacing=(1.0, 1.0))
    with pytest.raises(ValueError, match="array: expected uint8 or uint16 .* got float32"):
        write_volume(tmp_path / "x.png", np.zeros((2, 2), np.float32), spacing=(1.0, 1.0))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("codes", [(1, 0), (0, 2), (1, 4), (0, 0)], ids=str)
def test_a_label_lies_on_the_grid_of_its_image(
    tmp_path: Path, ending: str, kind: Any, codes: tuple[int, int]
) -> None:
    """Both affines, which may differ, their codes and the unit; not the display of intensities."""
    affine = np.array([[-0.7, 0, 0.1, 9.3], [0, 0.1, 1.2, -4], [0, 2.1, 0, 3], [0, 0, 0, 1]])
    image = kind(np.full((4, 5, 6), 300, np.int16), affine)
    image.header.set_xyzt_units("micron")
    image.header["cal_max"] = 400
    image.set_sform(affine, codes[1])
    image.set_qform(np.diag([0.7, 2.1, 1.2, 1.0]), codes[0])
    nib.save(image, tmp_path / f"scan{ending}")
    label = np.arange(120, dtype=np.uint8).reshape(4, 5, 6)
    write_like(tmp_path / f"label{ending}", label, read_volume(tmp_path / f"scan{ending}"))
    scan, written = (nib.load(tmp_path / f"{name}{ending}") for name in ("scan", "label"))
    assert type(written) is kind and written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), label)
    np.testing.assert_array_equal(written.affine, scan.affine)
    for form in ("get_sform", "get_qform"):
        (matrix, code), (expected, its_code) = (
            getattr(one, form)(coded=True) for one in (written, scan)
        )
        assert code == its_code
        assert (matrix is None) == (expected is None)
        if matrix is not None:
            np.testing.assert_array_equal(matrix, expected)
    assert written.header.get_xyzt_units()[0] == "micron"
    assert written.header["cal_max"] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"label{ending}", f"scan{ending}"]


@pytest.mark.parametrize("known", [True, False])
def test_a_png_keeps_its_pixel_size_where_it_has_one(tmp_path: Path, known: bool) -> None:
    spacing = (0.25, 0.5) if known else None
    write_volume(tmp_path / "scan.png", np.zeros((3, 4), np.uint8), spacing=spacing)
    write_like(
        tmp_path / "label.png", np.ones((3, 4), np.uint8), read_volume(tmp_path / "scan.png")
    )
    label = read_volume(tmp_path / "label.png")
    assert label.spacing == spacing  # exact for whole pixels per metre
    assert label.array.all()


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    with pytest.raises(Exception, match="complex|data dtype|unicode|<U"):
        write_volume(path, np.full((2, 2, 2), "a"), spacing=(1.0, 1.0, 1.0))
    assert list(tmp_path.iterdir()) == []
