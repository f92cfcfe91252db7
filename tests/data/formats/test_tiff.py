"""TIFF, written by tifffile and read by us, and the reverse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from recycleseg.data.layout import read_dataset
from recycleseg.data.volumes import (
    read_image,
    read_label,
    read_volume,
    spatial_dims_of,
    write_like,
    write_volume,
)
from recycleseg.files import FileError

DTYPES = [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.float32]


def values(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    array = np.random.default_rng(0).integers(-120, 120, shape)
    return (np.abs(array) if np.dtype(dtype).kind == "u" else array).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_2d(tmp_path: Path, dtype: Any, order: str, compression: str | None) -> None:
    array = values((8, 9), dtype)
    path = tmp_path / "X.TIF"
    tifffile.imwrite(path, array, byteorder=order, compression=compression)
    if order == ">" and compression and dtype in (np.int16, np.int32, np.float32):
        with pytest.raises(FileError, match="bits uncompressed or in little-endian order"):
            read_volume(path)
        return
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array)
    assert (volume.spacing, volume.affine, spatial_dims_of(path)) == (None, None, 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_3d_with_the_voxel_size_of_nnu_net(tmp_path: Path, dtype: Any) -> None:
    array = values((5, 8, 9), dtype)
    tifffile.imwrite(tmp_path / "x_0000.tif", array)
    (tmp_path / "x.json").write_text(json.dumps({"spacing": [3, 0.5, 0.25]}))
    volume = read_image([tmp_path / "x_0000.tif"], 1)[0]
    np.testing.assert_array_equal(volume.array, array.transpose(2, 1, 0))
    assert volume.spacing == (0.25, 0.5, 3.0)
    assert spatial_dims_of(tmp_path / "x_0000.tif") == 3


def test_3d_without_voxel_size_and_of_one_slice(tmp_path: Path) -> None:
    array = values((5, 8, 9), np.uint8)
    tifffile.imwrite(tmp_path / "x.tiff", array)
    (tmp_path / "x.json").write_text(json.dumps({"Modality": "MR"}))
    assert read_volume(tmp_path / "x.tiff").spacing is None
    tifffile.imwrite(tmp_path / "y.tiff", array[:1])
    (tmp_path / "y.json").write_text(json.dumps({"spacing": [3, 2, 1]}))
    assert read_volume(tmp_path / "y.tiff").array.shape == (9, 8, 1)
    (tmp_path / "y.json").write_text(json.dumps({"spacing": [3, 0, 1]}))
    with pytest.raises(FileError, match=r"y.json: expected spacing \[z, y, x\] in mm, got \[3, 0"):
        read_volume(tmp_path / "y.tiff")


@pytest.mark.parametrize(
    ("unit", "dots", "spacing"),
    [
        ("CENTIMETER", (40, 20), (0.5, 0.25)),
        ("INCH", (254, 127), (0.2, 0.1)),
        ("NONE", (3, 2), None),
        ("INCH", (72, 72), None),
    ],
)
def test_pixel_size(tmp_path: Path, unit: str, dots: Any, spacing: Any) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, values((8, 9), np.uint8), resolution=dots, resolutionunit=unit)
    volume = read_volume(path)
    assert volume.spacing == (None if spacing is None else pytest.approx(spacing, rel=1e-12))
    assert (volume.screen_spacing is not None) == (dots == (72, 72))


@pytest.mark.parametrize("ending", [".tif", ".tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_what_we_write_is_read_by_others(tmp_path: Path, ending: str, dtype: Any) -> None:
    for shape, spacing in (((8, 9), (0.5, 0.25)), ((9, 8, 5), (0.25, 0.5, 3.0))):
        array = values(shape, dtype)
        write_volume(tmp_path / f"x{ending}", array, spacing=spacing)
        stored = tifffile.imread(tmp_path / f"x{ending}")
        np.testing.assert_array_equal(stored, array if len(shape) == 2 else array.transpose())
        volume = read_volume(tmp_path / f"x{ending}")
        np.testing.assert_array_equal(volume.array, array)
        # 20 and 40 dots per centimetre are whole numbers.
        assert volume.spacing == spacing
        write_like(tmp_path / f"y{ending}", array, volume)
        assert read_volume(tmp_path / f"y{ending}").spacing == spacing
    with pytest.raises(ValueError, match="expected uint8, uint16, int32 or float32, got float64"):
        write_volume(tmp_path / f"x{ending}", np.zeros((2, 3)), spacing=None)


def test_kinds_of_label_maps(tmp_path: Path) -> None:
    label = np.eye(8, dtype=np.uint8)
    kinds = {
        "bits": Image.fromarray(label.astype(bool)),
        "colours": Image.fromarray(label).convert("RGB"),
        "alpha": Image.fromarray(label).convert("LA"),
        "palette": Image.frombytes("P", (8, 8), label.tobytes()),
    }
    kinds["palette"].putpalette([1, 2, 3, 200, 100, 0])
    for name, image in kinds.items():
        image.save(tmp_path / f"{name}.tif")
        np.testing.assert_array_equal(read_label(tmp_path / f"{name}.tif").array, label)


def test_values_where_zero_is_white(tmp_path: Path) -> None:
    label = np.eye(8, dtype=np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", label, photometric="miniswhite")
    np.testing.assert_array_equal(read_label(tmp_path / "x.tif").array, label)
    tifffile.imwrite(tmp_path / "x.tif", label.astype(bool), photometric="miniswhite")
    np.testing.assert_array_equal(read_label(tmp_path / "x.tif").array, label)


def test_colours(tmp_path: Path) -> None:
    colours = values((8, 9, 3), np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", colours, photometric="rgb")
    channels = read_image([tmp_path / "x.tif"], 3)
    np.testing.assert_array_equal(np.stack([c.array for c in channels], -1), colours)
    tifffile.imwrite(tmp_path / "x.tif", values((8, 9, 3), np.uint16), photometric="rgb")
    with pytest.raises(FileError, match="x.tif: expected more than 8 bits in grey images only"):
        read_image([tmp_path / "x.tif"], 3)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.97])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_truncated_file(tmp_path: Path, keep: float, compression: str | None) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, values((5, 80, 90), np.uint8), compression=compression)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(FileError, match=r"x.tif: expected a whole .tif file, got"):
        read_volume(path)


def test_pages_of_different_shapes(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        writer.write(values((8, 9), np.uint8))
        writer.write(values((4, 5), np.uint8))
    with pytest.raises(FileError, match=r"pages of one shape, got \(8, 9\) and \(4, 5\)"):
        read_volume(tmp_path / "x.tif")


@pytest.mark.parametrize("shape", [(8, 9), (5, 8, 9)])
def test_data_set_has_the_axes_of_its_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for case in range(3):
        tifffile.imwrite(tmp_path / f"imagesTr/c{case}_0000.tif", values(shape, np.uint8))
        tifffile.imwrite(tmp_path / f"labelsTr/c{case}.tif", values(shape, np.uint8))
    (tmp_path / "imagesTr/c0_0000.tif").write_bytes(b"")
    description = {"channel_names": {"0": "US"}, "labels": {"background": 0, "a": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps({**description, "file_ending": ".tif"}))
    assert read_dataset(tmp_path).spatial_dims == len(shape)
