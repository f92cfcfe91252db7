"""DICOM series and DICOM-SEG, compared with SimpleITK, nibabel, pydicom and highdicom."""

from __future__ import annotations

import json
import locale
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from tests.data.dicom_series import COLUMN, ROW, write_series

from recycleseg.data.formats.dicom_seg import segment_names
from recycleseg.data.inputs import find_cases
from recycleseg.data.layout import read_dataset
from recycleseg.data.regrid import on_grid
from recycleseg.data.volumes import (
    file_ending,
    read_image,
    read_label,
    read_volume,
    write_like,
    write_volume,
)
from recycleseg.files import FileError

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")
sitk = pytest.importorskip("SimpleITK")

STORED = np.random.default_rng(0).integers(-100, 2000, (5, 4, 6))
LABEL = np.zeros((6, 4, 5), np.uint8)
LABEL[1:3, 1:3, 1:4], LABEL[4, 2, 2] = 1, 2


def message(path: Path) -> str:
    with pytest.raises(FileError) as error:
        read_volume(path)
    return str(error.value)


@pytest.mark.parametrize("suffix", ["", ".dcm"])
def test_series(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / f"case{suffix}"
    write_series(folder, STORED, slope=2, intercept=-1000)
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.array, (STORED * 2 - 1000).transpose())
    expected = np.eye(4)
    expected[:3, 0], expected[:3, 1] = np.array(ROW) * 0.5, np.array(COLUMN) * 0.75
    expected[:3, 2], expected[:3, 3] = (0, 0, 3), (-20, 30, 7.5)
    expected[:2] *= -1  # left and posterior become right and anterior
    assert volume.affine is not None and volume.spacing is not None
    np.testing.assert_allclose(volume.affine, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(volume.spacing, (0.5, 0.75, 3.0), rtol=1e-12)
    assert file_ending(folder) == ".dcm"


def test_a_single_slice_must_tell_its_thickness(tmp_path: Path) -> None:
    write_series(tmp_path / "case", STORED[:1])
    (path,) = (tmp_path / "case").iterdir()
    assert read_volume(tmp_path / "case").spacing == pytest.approx((0.5, 0.75, 3.0), rel=1e-12)
    header = pydicom.dcmread(path)
    header.SliceThickness = None
    header.save_as(path)
    assert message(tmp_path / "case").endswith(
        f"{path.name}: expected SliceThickness of the only slice, got None"
    )


def test_same_anatomy_in_every_format(tmp_path: Path) -> None:
    """Values at points in the world, of files by pydicom, SimpleITK and nibabel."""
    write_series(tmp_path / "case", STORED)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "case")))
    image = reader.Execute()
    for ending in (".mha", ".nrrd", ".nii.gz"):
        sitk.WriteImage(image, tmp_path / f"x{ending}")
    # By hand: the same voxels with x to the right and z down.
    series = read_volume(tmp_path / "case")
    assert series.affine is not None
    turn = np.diag([-1.0, 1, -1, 1])
    turn[[0, 2], 3] = 5, 4
    turned = STORED.transpose()[::-1, :, ::-1].astype(np.int16)
    nib.save(nib.Nifti1Image(turned, series.affine @ turn), tmp_path / "y.nii")
    corners = np.array([[i, j, k, 1] for i in (0, 5) for j in (0, 3) for k in (0, 4)]).T
    world = series.affine @ corners
    for name in ("case", "x.mha", "x.nrrd", "x.nii.gz", "y.nii"):
        volume = read_volume(tmp_path / name)
        assert volume.affine is not None
        index = np.linalg.solve(volume.affine, world)[:3]
        # Affines in float32 move a point by less than this.
        np.testing.assert_allclose(index, np.rint(index), rtol=0, atol=1e-4)
        there = volume.array[tuple(np.rint(index).astype(int))]
        np.testing.assert_array_equal(there, STORED.transpose()[tuple(corners[:3])], name)


def test_slices_against_the_normal_and_gantry_tilt(tmp_path: Path) -> None:
    write_series(tmp_path / "down", STORED, step=(0, 0, -3))
    down = read_volume(tmp_path / "down")
    np.testing.assert_array_equal(down.array, STORED.transpose()[:, :, ::-1])
    assert down.affine is not None
    np.testing.assert_allclose(down.affine[:3, 3], (20, -30, 7.5 - 12), rtol=0, atol=1e-12)
    write_series(tmp_path / "tilt", STORED, step=(0, 0.5, 3))
    tilted = read_volume(tmp_path / "tilt").affine
    assert tilted is not None
    np.testing.assert_allclose(tilted[:3, 2], (0, -0.5, 3), rtol=0, atol=1e-6)


def test_one_slice_takes_its_thickness(tmp_path: Path) -> None:
    write_series(tmp_path / "case", STORED[:1])
    for path in (tmp_path / "case", tmp_path / "case/000.dcm"):
        volume = read_volume(path)
        assert volume.array.shape == (6, 4, 1)
        assert volume.spacing == pytest.approx((0.5, 0.75, 3.0))


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ((0, 1, 2, 4, 5), "equal distances between slices, got 3 to 6 mm; .* 014.dcm to 001.dcm"),
        ((0, 1, 2, 2.9, 4), "expected equal distances between slices, got 2.7 to 3.3 mm"),
        ((0, 1, 1, 2, 2), "one slice at each position, got 2 more; a series of several phases"),
    ],
)
def test_uneven_slices(tmp_path: Path, places: Any, said: str) -> None:
    write_series(tmp_path / "case", STORED, places=places)
    text = message(tmp_path / "case")
    for part in said.split(" .* "):
        assert part in text.replace("004.dcm", "014.dcm")


def test_positions_may_be_rounded(tmp_path: Path) -> None:
    write_series(tmp_path / "case", STORED, places=(0, 1.01, 1.99, 3, 4))
    assert read_volume(tmp_path / "case").spacing == pytest.approx((0.5, 0.75, 3.0))


def test_folder_with_other_files(tmp_path: Path) -> None:
    write_series(tmp_path / "case", STORED)
    (tmp_path / "case/DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "case/notes.txt").write_text("x")
    volume = read_volume(tmp_path / "case")
    write_like(tmp_path / "case/label.dcm", LABEL, volume)  # a segmentation is no slice
    assert read_volume(tmp_path / "case").array.shape == (6, 4, 5)
    write_series(tmp_path / "other", STORED[:2], SeriesDescription="Scout")
    for path in (tmp_path / "other").iterdir():
        path.rename(tmp_path / f"case/other{path.name}")
    assert message(tmp_path / "case").splitlines() == [
        f"{tmp_path}/case: expected one series in a folder, got 2",
        "  - CT Chest: 5 files such as 000.dcm",
        "  - CT Scout: 2 files such as other000.dcm",
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"ImagePositionPatient": None}, "expected ImagePositionPatient with 3 numbers"),
        ({"PixelSpacing": [1, 1]}, "expected PixelSpacing"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, 1]}, "expected ImageOrientationPatient"),
        ({"SamplesPerPixel": 3}, "expected grey, got 3 colours"),
    ],
)
def test_slices_that_do_not_fit(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    write_series(tmp_path / "case", STORED)
    path = tmp_path / "case/004.dcm"
    header = pydicom.dcmread(path)
    for name, value in fields.items():
        setattr(header, name, value)
    header.save_as(path)
    assert said in message(tmp_path / "case")
    assert "004.dcm" in message(tmp_path / "case")


def test_damaged_and_missing_series(tmp_path: Path) -> None:
    write_series(tmp_path / "case", STORED)
    path = tmp_path / "case/002.dcm"
    path.write_bytes(path.read_bytes()[:-10])
    assert message(tmp_path / "case").startswith(f"{path}: expected a whole DICOM file, got: ")
    (tmp_path / "empty.dcm").mkdir()
    assert message(tmp_path / "empty.dcm").endswith("a DICOM series, got no DICOM image")
    (tmp_path / "x.dcm").write_bytes(b"text")
    assert message(tmp_path / "x.dcm").startswith(f"{tmp_path}/x.dcm: expected a whole .dcm file")


def test_lossless_jpeg(tmp_path: Path) -> None:
    """A compression that pydicom alone cannot undo."""
    before = locale.setlocale(locale.LC_ALL)
    write_series(tmp_path / "case", STORED)
    expected = read_volume(tmp_path / "case")
    (tmp_path / "jpeg").mkdir()
    for path in (tmp_path / "case").iterdir():
        writer = sitk.ImageFileWriter()
        writer.SetFileName(str(tmp_path / "jpeg" / path.name))
        writer.KeepOriginalImageUIDOn()
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG")
        writer.Execute(sitk.ReadImage(str(path)))
        written = pydicom.dcmread(tmp_path / "jpeg" / path.name).file_meta
        assert written.TransferSyntaxUID == pydicom.uid.JPEGLosslessSV1
    locale.setlocale(locale.LC_ALL, before)  # GDCM changes it, here as a writer
    volume = read_volume(tmp_path / "jpeg")
    assert locale.setlocale(locale.LC_ALL) == before
    np.testing.assert_array_equal(volume.array, expected.array)
    np.testing.assert_allclose(volume.affine, expected.affine, rtol=0, atol=1e-9)


def test_compressed_and_several_frames(tmp_path: Path) -> None:
    write_series(tmp_path / "case", STORED, slope=2, intercept=-1000)
    expected = read_volume(tmp_path / "case")
    files = sorted((tmp_path / "case").iterdir())
    (tmp_path / "frames").mkdir()
    frames = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        [pydicom.dcmread(file) for file in files],
        highdicom.UID(),
        1,
        highdicom.UID(),
        1,
    )
    frames.save_as(tmp_path / "frames/all.dcm")
    for path in files:
        image = pydicom.dcmread(path)
        image.compress(pydicom.uid.RLELossless)
        image.save_as(path)
    for path in (tmp_path / "case", tmp_path / "frames", tmp_path / "frames/all.dcm"):
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.array, expected.array)
        np.testing.assert_allclose(volume.affine, expected.affine, rtol=0, atol=1e-9)
        write_like(tmp_path / "label.dcm", LABEL, volume)
        label = read_label(tmp_path / "label.dcm")
        np.testing.assert_array_equal(label.array, LABEL)
        np.testing.assert_allclose(label.affine, expected.affine, rtol=0, atol=1e-9)


def test_segmentation_refers_to_its_series(tmp_path: Path) -> None:
    write_series(tmp_path / "case", STORED, step=(0, 0, -3))
    volume = read_volume(tmp_path / "case")
    write_like(tmp_path / "case.dcm", LABEL, volume, {"liver": 1, "tumour": 2})
    written = pydicom.dcmread(tmp_path / "case.dcm")
    source = [pydicom.dcmread(path) for path in (tmp_path / "case").iterdir()]
    assert [(s.SegmentNumber, s.SegmentLabel) for s in written.SegmentSequence] == [
        (1, "liver"),
        (2, "tumour"),
    ]
    assert written.SeriesDescription == "Segmentation (recycleseg)"
    assert len({tuple(s.RecommendedDisplayCIELabValue) for s in written.SegmentSequence}) == 2
    (series,) = written.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source[0].SeriesInstanceUID
    referred = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
    assert referred == {image.SOPInstanceUID for image in source}
    for name in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert written[name].value == source[0][name].value
    # Frame by frame: the mask of a segment lies on the slice that it refers to.
    place = {image.SOPInstanceUID: image.ImagePositionPatient[2] for image in source}
    for frame, mask in zip(
        written.PerFrameFunctionalGroupsSequence, written.pixel_array, strict=True
    ):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        image = frame.DerivationImageSequence[0].SourceImageSequence[0]
        z = round((place[image.ReferencedSOPInstanceUID] - (7.5 - 12)) / 3)
        np.testing.assert_array_equal(mask, (LABEL[:, :, z] == number).transpose())


@pytest.mark.parametrize("step", [(0, 0, 3), (0, 0, -3), (0, 0.5, 3)])
@pytest.mark.parametrize("label", [LABEL, np.zeros_like(LABEL), LABEL * 2], ids=["two", "no", "4"])
def test_segmentation_is_read_on_the_grid_of_its_series(
    tmp_path: Path, step: Any, label: np.ndarray
) -> None:
    write_series(tmp_path / "case", STORED, step=step)
    volume = read_volume(tmp_path / "case")
    names = {f"c{value}": value for value in range(1, 5)}
    write_like(tmp_path / "case.dcm", label, volume, names)
    again = read_label(tmp_path / "case.dcm")
    np.testing.assert_array_equal(again.array, label)
    np.testing.assert_allclose(again.affine, volume.affine, rtol=0, atol=1e-5)


def test_segmentation_of_one_structure(tmp_path: Path) -> None:
    write_series(tmp_path / "case", STORED)
    label = np.minimum(LABEL, 1)
    write_like(tmp_path / "case.dcm", label, read_volume(tmp_path / "case"), {"liver": 1})
    np.testing.assert_array_equal(read_label(tmp_path / "case.dcm").array, label)


def without_empty_frames(path: Path) -> None:
    """What other programs write: frames without a segment are left out."""
    image = highdicom.seg.segread(path)
    masks = image.pixel_array.astype(bool)
    keep = np.flatnonzero(masks.any(axis=(1, 2)))
    image.PerFrameFunctionalGroupsSequence = [
        image.PerFrameFunctionalGroupsSequence[int(number)] for number in keep
    ]
    image.NumberOfFrames = len(keep)
    image.PixelData = pydicom.pixels.pack_bits(masks[keep].astype(np.uint8))
    image.save_as(path)


@pytest.mark.parametrize("empty", [(0, 4), (2,), (1, 3), (0, 1, 3)])
def test_segmentation_may_leave_out_slices(tmp_path: Path, empty: tuple[int, ...]) -> None:
    write_series(tmp_path / "case", STORED)
    label = np.ones_like(LABEL)
    label[3:] = 2
    label[:, :, list(empty)] = 0
    volume = read_volume(tmp_path / "case")
    (tmp_path / "seg").mkdir()
    write_like(tmp_path / "seg" / "1.dcm", label, volume, {"liver": 1, "tumour": 2})
    without_empty_frames(tmp_path / "seg" / "1.dcm")
    for path in (tmp_path / "seg" / "1.dcm", tmp_path / "seg"):  # also alone in a folder
        stored = read_label(path)
        filled = np.flatnonzero(label.any(axis=(0, 1)))
        assert stored.array.shape[2] == filled[-1] - filled[0] + 1
        np.testing.assert_array_equal(on_grid(stored, volume).array, label)
        assert segment_names(path) == {1: "liver", 2: "tumour"}
    assert segment_names(tmp_path / "case") == {}
    with pytest.raises(FileError, match="expected a DICOM series, got no DICOM image, but SEG"):
        read_image([tmp_path / "seg"])  # a mask is no image


def test_regions_may_overlap(tmp_path: Path) -> None:
    write_series(tmp_path / "case", STORED)
    volume = read_volume(tmp_path / "case")
    write_like(tmp_path / "case.dcm", LABEL, volume, {"whole": (1, 2), "core": 2})
    masks = highdicom.seg.segread(tmp_path / "case.dcm").get_volume(dtype=np.uint8).array
    np.testing.assert_array_equal(masks[..., 0], (LABEL > 0).transpose())
    np.testing.assert_array_equal(masks[..., 1], (LABEL == 2).transpose())
    assert "expected segments that do not overlap" in message(tmp_path / "case.dcm")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("\u5de6\u5fc3\u5ba4", "\u5de6\u5fc3\u5ba4"),
        ("gr\u00f6\u00dfe", "gr\u00f6\u00dfe"),
        ("a\\b", "a/b"),
        ("\x1b[31m\n", "/x1b[31m/n"),
        ("caf\udce9", "caf/xe9"),
        ("n" * 65, "n" * 59 + "~1"),
    ],
)
def test_names_of_segments(tmp_path: Path, name: str, label: str) -> None:
    fields = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "M\u00fcller^J\u00f6rg"}
    write_series(tmp_path / "case", STORED, **fields)
    grid = read_volume(tmp_path / "case")
    path = tmp_path / "case.dcm"
    write_like(path, LABEL, grid, {name: 1, f"{name}2": 2})
    names = segment_names(path)
    assert names[1] == label and names[2] != label and len(names[2]) <= 64
    assert pydicom.dcmread(path).PatientName == fields["PatientName"]


def test_what_a_segmentation_cannot_hold(tmp_path: Path) -> None:
    write_series(tmp_path / "case", STORED)
    volume = read_volume(tmp_path / "case")
    with pytest.raises(ValueError, match="expected labels for DICOM-SEG, got float32"):
        write_like(tmp_path / "x.dcm", LABEL.astype(np.float32), volume)
    with pytest.raises(ValueError, match="expected another ending for an image that is no DICOM"):
        write_volume(tmp_path / "x.dcm", LABEL, spacing=(1.0, 1.0, 1.0))
    write_like(tmp_path / "x.nii.gz", LABEL, volume)
    assert nib.load(tmp_path / "x.nii.gz").affine == pytest.approx(volume.affine, abs=1e-5)


def test_cases_to_predict(tmp_path: Path) -> None:
    write_series(tmp_path / "scans/a", STORED)
    write_series(tmp_path / "scans/b_0000", STORED)
    (tmp_path / "scans/notes").mkdir()
    (tmp_path / "scans/notes/readme.txt").write_text("x")
    cases = find_cases([tmp_path / "scans"], ["CT"], 3)
    assert [case.case_id for case in cases] == ["a", "b"]
    (one,) = find_cases([tmp_path / "scans/a"], ["CT"], 3)
    assert (one.case_id, one.image_paths) == ("a", (tmp_path / "scans/a",))
    write_series(tmp_path / "scans/b_0001", STORED)
    (both,) = find_cases([tmp_path / "scans/b_0000"], ["CT", "PET"], 3)
    assert [path.name for path in both.image_paths] == ["b_0000", "b_0001"]
    assert len(read_image(both.image_paths, 2)) == 2


def test_data_set_of_series(tmp_path: Path) -> None:
    (tmp_path / "labelsTr").mkdir()
    for case in range(3):
        folder = tmp_path / f"imagesTr/c{case}_0000"
        write_series(folder, STORED)
        ending = ".nii.gz" if case else ".dcm"
        write_like(tmp_path / f"labelsTr/c{case}{ending}", LABEL, read_volume(folder))
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps({**description, "file_ending": ".dcm"}))
    dataset = read_dataset(tmp_path)
    assert (dataset.spatial_dims, dataset.notes) == (3, ())
    for case in dataset.cases.values():
        assert case.label_path is not None
        np.testing.assert_array_equal(read_label(case.label_path).array, LABEL)


@pytest.mark.parametrize("module", ["pydicom", "highdicom"])
def test_what_to_install(tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "case", STORED)
    monkeypatch.setitem(sys.modules, module, None)
    assert f"expected {module} to be installed" in message(tmp_path / "case")


@pytest.mark.parametrize("size", [4e-4, 0.5, 5.0])
def test_slices_are_compared_in_voxels(tmp_path: Path, size: float) -> None:
    """Slices of a microscope are not taken for one; a pixel twice as large is refused."""
    write_series(tmp_path / "case", STORED, step=(0, 0, 3 * size))
    paths = sorted((tmp_path / "case").iterdir())
    for path in paths:
        header = pydicom.dcmread(path)
        header.PixelSpacing = [1.5 * size, size]
        header.save_as(path)
    spacing = read_volume(tmp_path / "case").spacing
    assert spacing == pytest.approx((size, 1.5 * size, 3 * size), rel=1e-6)
    header.PixelSpacing = [3 * size, size]
    header.save_as(paths[-1])
    assert "expected PixelSpacing" in message(tmp_path / "case")
