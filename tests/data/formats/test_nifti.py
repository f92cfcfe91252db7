"""Axes, channels and scaling of NIfTI files; their sizes and damages are in test_volumes.py."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from recycleseg.data.volumes import read_image, read_label, read_volume, write_like
from recycleseg.files import FileError

AFFINE = np.array([[0, -2.0, 0, 7], [1.5, 0, 0, -3], [0, 0, 0.5, 1], [0, 0, 0, 1]])


def save(path: Path, array: np.ndarray, slope: float | None = None, inter: float = 0.0) -> Path:
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    if slope is not None:
        stored = bytearray(path.read_bytes())
        stored[112:120] = np.array([slope, inter], "<f4").tobytes()
        path.write_bytes(stored)
    return path


@pytest.mark.parametrize("shape", [(4, 5, 6, 1), (4, 5, 6, 1, 1), (4, 5), (4, 1, 1, 1)])
def test_axes_of_one_do_not_count(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    volume = read_volume(save(tmp_path / "x.nii.gz", array))
    expected = array.reshape((*shape, 1)[:3])
    np.testing.assert_array_equal(volume.array, expected)
    np.testing.assert_array_equal(volume.affine, AFFINE)
    write_like(tmp_path / "y.nii.gz", volume.array, volume)
    written = nib.load(tmp_path / "y.nii.gz")
    assert written.shape == expected.shape
    np.testing.assert_array_equal(written.affine, AFFINE)


def test_slice_without_thickness(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((4, 5), np.uint8), None)
    image.header["pixdim"][:4] = 1, 0.5, 0.25, 0
    nib.save(image, tmp_path / "x.nii")
    assert read_volume(tmp_path / "x.nii").spacing == (0.5, 0.25, 1.0)


@pytest.mark.parametrize("shape", [(4, 5, 6, 3), (4, 5, 6, 1, 3)])
def test_last_axis_holds_channels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    path = save(tmp_path / "x.nii.gz", array)
    for channels in (read_image([path], 3), read_image([path])):
        assert len(channels) == 3
        for index, channel in enumerate(channels):
            np.testing.assert_array_equal(channel.array, array.reshape(4, 5, 6, 3)[..., index])
            np.testing.assert_array_equal(channel.affine, AFFINE)
    with pytest.raises(FileError, match=r"x.nii.gz: expected one channel, got 3, with shape \(4"):
        read_label(path)
    with pytest.raises(FileError, match="x.nii.gz: expected one channel, got 3"):
        read_image([path], 1)
    with pytest.raises(FileError, match="x.nii.gz: expected 2 channels, .* got 3 in 1 file"):
        read_image([path], 2)


def test_files_of_a_case_and_all_their_problems(tmp_path: Path) -> None:
    arrays = [np.full((2, 3, 4), c, np.uint8) for c in range(3)]
    paths = [save(tmp_path / f"x_{c:04d}.nii", a) for c, a in enumerate(arrays)]
    assert [int(v.array.max()) for v in read_image(paths, 3)] == [0, 1, 2]
    with pytest.raises(FileError, match=r"x_0000.nii: expected 3 channels, .* got 2 in 2 files"):
        read_image(paths[:2], 3)
    paths[1].unlink()
    paths[2].write_bytes(b"")
    with pytest.raises(FileError, match=r"x_0001.nii: .* not exist; .*x_0002.nii: .* empty file"):
        read_image(paths, 3)


@pytest.mark.parametrize(("stored", "label"), [(255, 1), (100, 7), (65535, 4095)])
def test_labels_of_a_scaled_file_are_rounded(tmp_path: Path, stored: int, label: int) -> None:
    array = np.zeros((3, 4, 5), np.uint16)
    array[1] = stored
    volume = read_label(save(tmp_path / "x.nii", array, label / stored))
    assert volume.array.dtype == (np.uint8 if label < 256 else np.uint16)
    np.testing.assert_array_equal(volume.array, np.where(array, label, 0))


def test_scaled_labels_that_are_not_whole_show_value_and_reason(tmp_path: Path) -> None:
    array = np.zeros((3, 4, 5), np.uint8)
    array[1], array[2] = 252, 255
    path = save(tmp_path / "x.nii", array, 1 / 255)
    with pytest.raises(FileError) as error:
        read_label(path)
    assert "whole numbers, got 0.98823535" in str(error.value)
    assert "in 20 voxels; the reason is the scaling in its header (scl_slope 0.0039" in str(
        error.value
    )


@pytest.mark.parametrize("value", [0.9, 1.002, np.nan, np.inf, 1e20])
def test_values_that_are_no_labels(tmp_path: Path, value: float) -> None:
    array = np.zeros((3, 4, 5), np.float32)
    array[1, 2, 3] = value
    with pytest.raises(FileError, match=r"whole numbers, got .* in 1 voxels$"):
        read_label(save(tmp_path / "x.nii", array))


def test_offset_that_was_left_out(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    path = save(tmp_path / "x.nii", array)
    stored = bytearray(path.read_bytes())
    stored[108:112] = bytes(4)
    path.write_bytes(stored)
    np.testing.assert_array_equal(read_volume(path).array, array)
