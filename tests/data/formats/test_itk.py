"""MHA, MHD, NRRD and GIPL, compared with SimpleITK and nibabel."""

from __future__ import annotations

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from recycleseg.data.check import grid_problems
from recycleseg.data.formats import itk_process
from recycleseg.data.formats.itk_process import open_itk
from recycleseg.data.volumes import read_image, read_label, read_volume, write_like, write_volume
from recycleseg.files import FileError

sitk = pytest.importorskip("SimpleITK")

ENDINGS = [".mha", ".mhd", ".nrrd", ".gipl"]
# GIPL holds no axes.
ORIENTED = ENDINGS[:3]
# Columns: left, anterior and up, each turned a little.
TURN = np.array([[-0.96, 0.28, 0], [-0.28, -0.96, 0], [0, 0, 1.0]])
SPACING, ORIGIN = (0.5, 0.75, 3.0), (-20.0, 30.0, 7.5)


def values(shape: tuple[int, ...] = (4, 5, 6), dtype: Any = np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def save(path: Path, array: np.ndarray, *, vector: bool = False, compress: bool = False) -> Path:
    """Write an array (z, y, x) with SimpleITK; with `vector`, (z, y, x, channel)."""
    image = sitk.GetImageFromArray(array, isVector=vector)
    dims = image.GetDimension()
    image.SetSpacing((*SPACING, 1.0)[:dims])
    image.SetOrigin((*ORIGIN, 0.0)[:dims])
    if path.suffix.lower() != ".gipl":
        direction = np.eye(dims)
        direction[: min(dims, 3), : min(dims, 3)] = TURN[:dims, :dims]
        image.SetDirection(direction.ravel().tolist())
    sitk.WriteImage(image, str(path), compress)
    return path


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_values_and_place(tmp_path: Path, ending: str, compress: bool) -> None:
    array = values()
    volume = read_volume(save(tmp_path / f"x{ending}", array, compress=compress))
    np.testing.assert_array_equal(volume.array, array.transpose())
    turn = np.eye(3) if ending == ".gipl" else TURN
    expected = np.eye(4)
    expected[:3, :3], expected[:3, 3] = turn * SPACING, ORIGIN
    expected[:2] *= -1  # left and posterior become right and anterior
    assert volume.affine is not None
    # Text with six digits at least.
    np.testing.assert_allclose(volume.affine, expected, rtol=0, atol=1e-5)
    assert volume.spacing == pytest.approx(SPACING, rel=1e-6)


@pytest.mark.parametrize("ending", ORIENTED)
def test_same_place_as_nifti(tmp_path: Path, ending: str) -> None:
    image = sitk.ReadImage(save(tmp_path / f"x{ending}", values()))
    sitk.WriteImage(image, tmp_path / "x.nii.gz")
    ours, nifti = (read_volume(tmp_path / name) for name in (f"x{ending}", "x.nii.gz"))
    np.testing.assert_array_equal(ours.array, nifti.array)
    assert ours.affine is not None and nifti.affine is not None
    # NIfTI stores float32.
    np.testing.assert_allclose(ours.affine, nifti.affine, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ending", ENDINGS)
def test_label_is_written_like_its_image(tmp_path: Path, ending: str) -> None:
    volume = read_volume(save(tmp_path / f"x{ending}", values()))
    label = values((6, 5, 4), np.uint8)
    write_like(tmp_path / f"y{ending}", label, volume)
    assert sorted(p.name for p in tmp_path.glob(".*")) == []
    assert sorted(p.name for p in tmp_path.glob("y*")) == [f"y{ending}"]
    image, written = (sitk.ReadImage(tmp_path / f"{name}{ending}") for name in "xy")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), label.transpose())
    assert written.GetPixelID() == sitk.sitkUInt8
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        # The affine is a product of spacing and direction: float64 rounding.
        np.testing.assert_allclose(
            getattr(written, get)(), getattr(image, get)(), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize(
    ("ending", "line", "replacement"),
    [
        (".mha", rb"ElementSpacing = .*\n", b""),
        (".mhd", rb"ElementSpacing = .*\n", b""),
        (".nrrd", rb"space.*\n", b""),
        (".nrrd", rb"space directions: .*\n", b"spacings: nan nan nan\n"),
    ],
)
def test_no_voxel_size_is_not_1_mm(
    tmp_path: Path, ending: str, line: bytes, replacement: bytes
) -> None:
    array = values()
    path = save(tmp_path / f"x{ending}", array, compress=True)
    path.write_bytes(re.sub(line, replacement, path.read_bytes()))
    volume = read_volume(path)
    assert volume.spacing is None
    np.testing.assert_array_equal(volume.array, array.transpose())
    write_like(tmp_path / f"label{ending}", volume.array.astype(np.uint8), volume)
    label = read_volume(tmp_path / f"label{ending}")
    assert label.spacing is None
    np.testing.assert_array_equal(label.array, volume.array)
    assert grid_problems(label, volume) == []
    assert sorted(p.suffix for p in tmp_path.glob("label*")) == [ending]


@pytest.mark.parametrize("ending", ORIENTED)
def test_nifti_written_in_another_format(tmp_path: Path, ending: str) -> None:
    affine = np.array([[0, -2.0, 0, 7], [1.5, 0, 0, -3], [0, 0, 0.5, 1], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(values(), affine), tmp_path / "x.nii")
    volume = read_volume(tmp_path / "x.nii")
    write_like(tmp_path / f"x{ending}", volume.array.astype(np.float32), volume)
    again = read_volume(tmp_path / f"x{ending}")
    np.testing.assert_array_equal(again.array, volume.array)
    assert again.affine is not None
    np.testing.assert_allclose(again.affine, affine, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=f"spacing: expected mm for {ending}, got None"):
        write_volume(tmp_path / f"x{ending}", volume.array, spacing=None)


@pytest.mark.parametrize("ending", ENDINGS)
def test_upper_case(tmp_path: Path, ending: str) -> None:
    save(tmp_path / f"x{ending}", values()).rename(tmp_path / f"X{ending.upper()}")
    if ending == ".mhd":  # its voxels are in x.raw
        assert (tmp_path / "x.raw").is_file()
    volume = read_label(tmp_path / f"X{ending.upper()}")
    np.testing.assert_array_equal(volume.array, values().transpose())


@pytest.mark.parametrize("ending", ORIENTED)
def test_channels_and_slices(tmp_path: Path, ending: str) -> None:
    array = values((4, 5, 6, 3))
    save(tmp_path / f"x{ending}", array, vector=True)
    channels = read_image([tmp_path / f"x{ending}"], 3)
    stacked = np.stack([c.array for c in channels])
    np.testing.assert_array_equal(stacked, array.transpose(3, 2, 1, 0))
    series = save(tmp_path / f"y{ending}", values((2, 4, 5, 6)))
    channels = read_image([series], 2)
    np.testing.assert_array_equal(
        np.stack([c.array for c in channels]), values((2, 4, 5, 6)).transpose(0, 3, 2, 1)
    )
    with pytest.raises(FileError, match=f"y{ending}: expected one channel, got 2"):
        read_label(series)
    one = read_volume(save(tmp_path / f"z{ending}", values((5, 6))))
    np.testing.assert_array_equal(one.array, values((5, 6)).transpose()[..., None])
    assert one.spacing == pytest.approx((0.5, 0.75, 1.0), rel=1e-6)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.97])
@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".gipl"])
def test_truncated_file(
    tmp_path: Path, ending: str, keep: float, compress: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / f"x{ending}", values((14, 15, 16)), compress=compress)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(FileError, match=rf"x{ending}: expected a whole {ending} file, got"):
        read_volume(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_changed_byte_in_compressed_voxels(tmp_path: Path, ending: str) -> None:
    path = save(tmp_path / f"x{ending}", values((14, 15, 16)), compress=True)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(FileError, match=rf"x{ending}: expected a whole {ending} file, got"):
        read_volume(path)


def test_voxels_beside_the_header(tmp_path: Path) -> None:
    save(tmp_path / "x.mhd", values())
    (tmp_path / "x.raw").write_bytes(bytes(10))
    with pytest.raises(FileError, match="x.mhd: .* got: 10 of 240 bytes of voxels"):
        read_volume(tmp_path / "x.mhd")
    (tmp_path / "x.raw").unlink()
    with pytest.raises(FileError, match="x.mhd: expected its voxels in .*x.raw, got a path that"):
        read_volume(tmp_path / "x.mhd")
    text = (tmp_path / "x.mhd").read_text()
    (tmp_path / "x.mhd").write_text(text[: text.index("ElementDataFile")])
    with pytest.raises(FileError, match="x.mhd: .* got: a header without ElementDataFile"):
        read_volume(tmp_path / "x.mhd")


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_of_another_kind(tmp_path: Path, ending: str) -> None:
    for content in (b"", b"Patient: Jane Doe\n" * 40, bytes(128) + b"DICM" + bytes(400)):
        (tmp_path / f"x{ending}").write_bytes(content)
        with pytest.raises(FileError, match=rf"x{ending}: expected a whole {ending} file, got"):
            read_volume(tmp_path / f"x{ending}")


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_to_install(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / f"x{ending}", values())
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(FileError) as error:
        read_volume(tmp_path / f"x{ending}")
    assert str(error.value) == (
        f"{tmp_path}/x{ending}: expected SimpleITK to be installed for files of this kind, got "
        'none; run: pip install "recycleseg[formats]"'
    )


def crashing(path: Path) -> Path:
    """A header with a line of which ITK copies more than there is place for."""
    path.write_bytes(b"NRRD0004\ntype: short\ndimension: 3\nspace: " + b"x" * 5000 + b"\n\n")
    return path


def test_a_crash_of_itk_ends_one_file(tmp_path: Path) -> None:
    good = save(tmp_path / "good.nrrd", values())
    for _ in range(2):
        with (
            pytest.raises(ValueError, match="^a file at which ITK ends with SIG"),
            open_itk(crashing(tmp_path / "bad.nrrd"), "NrrdImageIO"),
        ):
            pass
        np.testing.assert_array_equal(read_volume(good).array, values().transpose())


def test_one_process_reads_one_file_after_the_other(tmp_path: Path) -> None:
    path = save(tmp_path / "x.mha", values())
    read_volume(path)
    before = list(itk_process._IDLE[os.getpid()])
    process = before[-1]
    with pytest.raises(ValueError, match="No such file"):
        with open_itk(tmp_path / "none.mha", "MetaImageIO"):
            pass
    read_volume(path)
    assert itk_process._IDLE[os.getpid()] == before
    process._child.kill()  # as the system may, where memory is short
    process._child.wait()
    np.testing.assert_array_equal(read_volume(path).array, values().transpose())
    assert process not in itk_process._IDLE[os.getpid()]


def test_threads_read_at_the_same_time(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{n}.nrrd", values() + n) for n in range(12)]
    with ThreadPoolExecutor(4) as pool:
        for number, volume in enumerate(pool.map(read_volume, paths * 3)):
            np.testing.assert_array_equal(volume.array, values().transpose() + number % 12)


def test_an_interrupted_read_leaves_nothing_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [save(tmp_path / f"{n}.mha", values() + n) for n in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(itk_process.np, "empty", interrupted)
        with pytest.raises(KeyboardInterrupt):
            read_volume(paths[0])
    np.testing.assert_array_equal(read_volume(paths[1]).array, values().transpose() + 1)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt
