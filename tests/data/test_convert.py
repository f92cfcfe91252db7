"""Folders of images and masks become a data set."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from tests.data.dicom_series import write_series

from recycleseg.data.check import check_dataset
from recycleseg.data.convert import convert
from recycleseg.data.layout import read_dataset
from recycleseg.data.volumes import read_label, read_volume, write_like, write_volume
from recycleseg.files import FileError

LPS = np.diag([-1.0, -2.0, 3.0, 1.0])
SHAPE = (6, 7, 5)


class Sources:
    """Two folders of equal names; by default 3D with the mask values 0 and 255."""

    def __init__(self, root: Path) -> None:
        self.images, self.masks, self.out = root / "scans", root / "masks", root / "out"
        for folder in (self.images, self.masks):
            folder.mkdir()
        self.rng = np.random.default_rng(0)

    def add(
        self,
        name: str,
        mask_name: str | None = None,
        *,
        shape: tuple[int, ...] = SHAPE,
        values: tuple[int, ...] = (255,),
        dtype: type = np.uint8,
    ) -> None:
        grid = {"spacing": (1.0,) * len(shape), "affine": LPS if len(shape) == 3 else None}
        image = self.rng.integers(0, 200, shape).astype(np.uint8)
        mask = np.zeros(shape, dtype)
        for place, value in enumerate(values):
            mask[1 + place, 1:4] = value
        write_volume(self.images / name, image, **grid)
        write_volume(self.masks / (mask_name or name), mask, **grid)

    def content(self) -> dict[str, bytes]:
        folders = (self.images, self.masks)
        return {str(p): p.read_bytes() for folder in folders for p in folder.iterdir()}


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path)


def test_a_converted_data_set_is_sound(sources: Sources) -> None:
    for case in range(4):
        sources.add(f"scan_{case}.nii.gz", f"mask_{case}.nii.gz", values=(128, 255))
    before = sources.content()
    converted = convert(sources.images, sources.masks, sources.out, channel_names=["CT"])
    assert sources.content() == before
    assert sorted(p.name for p in sources.out.parent.iterdir()) == ["masks", "out", "scans"]
    dataset = read_dataset(sources.out)
    assert (dataset.name, dataset.channel_names) == ("out", ("CT",))
    assert dict(dataset.classes.labels) == {"background": 0, "label_1": 1, "label_2": 2}
    assert list(dataset.cases) == [f"scan_{case}" for case in range(4)]
    assert check_dataset(dataset)[1] == []
    case = dataset.cases["scan_2"]
    assert case.image_paths[0].read_bytes() == (sources.images / "scan_2.nii.gz").read_bytes()
    assert case.label_path is not None
    label, mask = read_volume(case.label_path), read_volume(sources.masks / "mask_2.nii.gz")
    np.testing.assert_array_equal(label.array, np.searchsorted([0, 128, 255], mask.array))
    np.testing.assert_array_equal(label.affine, LPS)
    assert label.array.dtype == np.uint8
    assert (
        converted.num_cases == json.loads((sources.out / "dataset.json").read_text())["numTraining"]
    )
    said = "\n".join(converted.notes)
    assert "scan_0.nii.gz with mask_0.nii.gz" in said
    assert "label_1 (mask value 128), label_2 (mask value 255)" in said
    assert "128 becomes 1, 255 becomes 2" in said


def test_formats_become_one(sources: Sources) -> None:
    sources.add("a.nii", "a.nii.gz", values=(1,))
    sources.add("b.nii.gz", "b.nii.gz", values=(1,), dtype=np.float32)
    assert convert(sources.images, sources.masks, sources.out).file_ending == ".nii.gz"
    written = read_volume(sources.out / "imagesTr/a_0000.nii.gz")
    np.testing.assert_array_equal(written.array, read_volume(sources.images / "a.nii").array)
    np.testing.assert_array_equal(written.affine, LPS)
    assert read_volume(sources.out / "labelsTr/b.nii.gz").array.dtype == np.uint8


def test_a_format_of_all_files_stays(sources: Sources) -> None:
    sources.add("a.nii")
    assert convert(sources.images, sources.masks, sources.out).file_ending == ".nii"


def test_2d_with_channels_and_links(sources: Sources) -> None:
    for channel in range(2):
        sources.add(f"a_{channel:04d}.png", "a.png", shape=(8, 9), values=(1,))
    convert(sources.images, sources.masks, sources.out, name="Two", link=True)
    description = description_of(sources.out)
    assert description["channel_names"] == {"0": "image_0", "1": "image_1"}
    assert (description["name"], description["file_ending"]) == ("Two", ".png")
    links = [sources.out / name for name in ("imagesTr/a_0001.png", "labelsTr/a.png")]
    assert [link.resolve() for link in links] == [
        sources.images / "a_0001.png",
        sources.masks / "a.png",
    ]


def description_of(root: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((root / "dataset.json").read_text())
    return content


def test_unpaired_files_are_refused_or_skipped(sources: Sources) -> None:
    sources.add("a.png", shape=(8, 9))
    (sources.images / "b.png").write_bytes((sources.images / "a.png").read_bytes())
    (sources.masks / "c.png").write_bytes((sources.masks / "a.png").read_bytes())
    with pytest.raises(FileError, match="got 2 without a partner beside 1 pairs") as error:
        convert(sources.images, sources.masks, sources.out)
    assert f"- {sources.images / 'b.png'}\n  - {sources.masks / 'c.png'}" in str(error.value)
    assert not sources.out.exists()
    converted = convert(sources.images, sources.masks, sources.out, skip_unpaired=True)
    assert converted.num_cases == 1
    assert "left out 2 files without a partner: b.png, c.png" in converted.notes


def test_all_bad_files_are_listed_and_nothing_is_written(sources: Sources) -> None:
    for name in "abc":
        sources.add(f"{name}.nii.gz")
    (sources.images / "a.nii.gz").write_bytes(b"no image")
    write_volume(sources.masks / "b.nii.gz", np.zeros((6, 7, 4), np.uint8), spacing=(1, 1, 1))
    half = np.full(SHAPE, 0.5, np.float32)
    half[0] = np.nan
    write_volume(sources.masks / "c.nii.gz", half, spacing=None, affine=LPS)
    with pytest.raises(FileError, match="3 problems") as error:
        convert(sources.images, sources.masks, sources.out)
    lines = str(error.value).splitlines()[1:]
    assert "a.nii.gz: expected a whole .nii.gz file" in lines[0]
    image = sources.images / "b.nii.gz"
    assert f"b.nii.gz: expected shape (6, 7, 5) as {image}, got (6, 7, 4)" in lines[1]
    assert "c.nii.gz: expected labels that are whole numbers, got 0.5" in lines[2]
    assert sorted(p.name for p in sources.out.parent.iterdir()) == ["masks", "scans"]


def test_2d_beside_3d_is_refused(sources: Sources) -> None:
    sources.add("a.png", shape=(8, 9))
    sources.add("b.nii.gz")
    with pytest.raises(
        FileError, match="numbers of axes in all images, got 2 in .*a.png, 3 in .*b.nii.gz"
    ):
        convert(sources.images, sources.masks, sources.out)


def test_the_folder_must_be_new_and_outside_the_sources(sources: Sources) -> None:
    sources.add("a.png", shape=(8, 9))
    with pytest.raises(FileError, match="expected an empty or new folder, got one with files"):
        convert(sources.images, sources.masks, sources.images)
    with pytest.raises(FileError, match="expected a folder outside"):
        convert(sources.images, sources.masks, sources.masks / "out")
    sources.out.mkdir()
    assert convert(sources.images, sources.masks, sources.out).num_cases == 1


def test_channels_must_fit(sources: Sources) -> None:
    sources.add("a.png", shape=(8, 9))
    with pytest.raises(ValueError, match="--channels: expected 1 names, got 2"):
        convert(sources.images, sources.masks, sources.out, channel_names=["T1", "T2"])
    sources.add("b_0000.png", "b.png", shape=(8, 9))
    sources.add("b_0001.png", "b.png", shape=(8, 9))
    with pytest.raises(
        FileError, match="numbers of channels in all images, got 1 in .*a.png, 2 in .*b_0000.png"
    ):
        convert(sources.images, sources.masks, sources.out)


def test_colour_stays_one_file_of_three_channels(sources: Sources) -> None:
    for case in range(3):
        sources.add(f"{case}.png", shape=(8, 9), values=(255,))
        colour = sources.rng.integers(0, 255, (8, 9, 3)).astype(np.uint8)
        Image.fromarray(colour).save(sources.images / f"{case}.png")
    names = ["red", "green", "blue"]
    convert(sources.images, sources.masks, sources.out, channel_names=names)
    dataset = read_dataset(sources.out)
    assert dataset.channel_names == tuple(names)
    facts, findings = check_dataset(dataset)
    assert findings == [] and facts["1"].foreground.shape[0] == 3


def test_grey_stored_as_colour_is_one_channel(sources: Sources) -> None:
    for name in "abc":
        sources.add(f"{name}.png", shape=(8, 9), values=(1,))
    grey = Image.open(sources.images / "b.png")
    grey.convert("RGB").save(sources.images / "b.png", dpi=grey.info["dpi"])
    convert(sources.images, sources.masks, sources.out)
    dataset = read_dataset(sources.out)
    assert dataset.channel_names == ("image",)
    assert check_dataset(dataset)[1] == []


def test_channels_in_one_file_beside_channels_in_files(sources: Sources) -> None:
    for name in "ab":
        for channel in range(2):
            sources.add(f"{name}_{channel:04d}.nii.gz", f"{name}.nii.gz", values=(1,))
    paths = [sources.images / f"b_{channel:04d}.nii.gz" for channel in range(2)]
    arrays = [read_volume(path).array for path in paths]
    for path in paths:
        path.unlink()
    nib.save(nib.Nifti1Image(np.stack(arrays, -1), LPS), sources.images / "b.nii.gz")
    convert(sources.images, sources.masks, sources.out)
    dataset = read_dataset(sources.out)
    assert check_dataset(dataset)[1] == []
    for path, array in zip(dataset.cases["b"].image_paths, arrays, strict=True):
        np.testing.assert_array_equal(read_volume(path).array, array)


def test_tiff_volumes_keep_values_and_voxel_size(sources: Sources) -> None:
    tifffile = pytest.importorskip("tifffile")
    array = sources.rng.integers(-1000, 2000, SHAPE).astype(np.int16)
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:3, 2:5, 1:3] = 255
    for folder, content in ((sources.images, array), (sources.masks, mask)):
        tifffile.imwrite(folder / "a.tif", content.transpose())
        (folder / "a.json").write_text('{"spacing": [3, 0.5, 0.25]}')
    converted = convert(sources.images, sources.masks, sources.out)
    assert converted.file_ending == ".tif"
    assert not any("a.json" in note for note in converted.notes)
    dataset = read_dataset(sources.out)
    assert check_dataset(dataset)[1] == []
    image = read_volume(dataset.cases["a"].image_paths[0])
    np.testing.assert_array_equal(image.array, array)
    assert image.spacing == (0.25, 0.5, 3.0)
    np.testing.assert_array_equal(read_label(sources.out / "labelsTr/a.tif").array, mask > 0)


def test_a_link_to_an_empty_folder(sources: Sources) -> None:
    sources.add("a.nii.gz")
    target = sources.out.with_name("disk")
    target.mkdir()
    sources.out.symlink_to(target)
    convert(sources.images, sources.masks, sources.out)
    assert sources.out.is_symlink() and (target / "dataset.json").exists()
    assert json.loads((target / "dataset.json").read_text())["name"] == "out"
    with pytest.raises(FileError, match="expected an empty or new folder, got one with files"):
        convert(sources.images, sources.masks, sources.out)


def test_a_mounted_disk_cannot_be_replaced(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container; the rename would fail after all the work."""
    sources.add("a.nii.gz")
    sources.out.mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: path == sources.out)
    with pytest.raises(FileError, match="expected a new folder, got a mounted disk"):
        convert(sources.images, sources.masks, sources.out)


def test_a_volume_without_voxel_size_is_no_nifti(sources: Sources) -> None:
    tifffile = pytest.importorskip("tifffile")
    sources.add("a.nii.gz")
    (sources.images / "a.nii.gz").unlink()
    tifffile.imwrite(sources.images / "a.tif", np.zeros(SHAPE[::-1], np.uint8))
    with pytest.raises(FileError, match="a.tif: expected a voxel size, because .* NIfTI, got none"):
        convert(sources.images, sources.masks, sources.out)


def test_dicom_series_and_nrrd(sources: Sources) -> None:
    for module in ("SimpleITK", "pydicom", "highdicom"):
        pytest.importorskip(module)
    array = sources.rng.integers(0, 2000, SHAPE).astype(np.int16)
    write_series(sources.images / "patient_1", array.transpose(), intercept=-1024)
    series = read_volume(sources.images / "patient_1")
    write_like(sources.images / "patient_2.nrrd", array + np.int16(1), series)
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:3, 2:5, 1:3] = 1
    write_like(sources.masks / "patient_1.dcm", mask, series, {"organ": 1})
    write_like(sources.masks / "patient_2_mask.nrrd", mask, series)
    assert convert(sources.images, sources.masks, sources.out).file_ending == ".nii.gz"
    assert sorted(p.name for p in (sources.out / "imagesTr").iterdir()) == [
        "patient_1_0000.nii.gz",
        "patient_2_0000.nii.gz",
    ]
    image = read_volume(sources.out / "imagesTr/patient_1_0000.nii.gz")
    np.testing.assert_array_equal(image.array, array - 1024)
    np.testing.assert_allclose(image.affine, series.affine, rtol=0, atol=1e-5)  # stored as float32
    for case in (1, 2):
        label = read_volume(sources.out / f"labelsTr/patient_{case}.nii.gz")
        np.testing.assert_array_equal(label.array, mask)


def test_masks_with_other_axes(sources: Sources) -> None:
    for name in "ab":
        sources.add(f"{name}.nii.gz", values=(1,))
    expected = {name: read_label(sources.masks / f"{name}.nii.gz").array for name in "ab"}
    flipped = nib.load(sources.masks / "b.nii.gz").as_reoriented([[0, 1], [1, -1], [2, 1]])
    nib.save(flipped, sources.masks / "b.nii.gz")
    converted = convert(sources.images, sources.masks, sources.out)
    (note,) = [note for note in converted.notes if "order of the axes" in note]
    assert note.endswith(": b.nii.gz")
    for name, label in expected.items():
        written = read_label(sources.out / f"labelsTr/{name}.nii.gz")
        np.testing.assert_array_equal(written.array, label)
        np.testing.assert_allclose(written.affine, LPS, rtol=0, atol=1e-6)  # float32
    assert check_dataset(read_dataset(sources.out))[1] == []


def test_segments_name_the_classes(sources: Sources) -> None:
    for module in ("pydicom", "highdicom"):
        pytest.importorskip(module)
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:3, 2:5], mask[4, 2:5] = 1, 2
    for case in ("p1", "p2"):
        write_series(sources.images / case, np.ones(SHAPE[::-1]))
        series = read_volume(sources.images / case)
        write_like(sources.masks / f"{case}.dcm", mask, series, {"liver": 1, "tumour": 2})
    converted = convert(sources.images, sources.masks, sources.out)
    assert converted.labels == {"background": 0, "liver": 1, "tumour": 2}
    write_like(sources.masks / "p2.dcm", mask, series, {"tumour": 1, "liver": 2})
    with pytest.raises(FileError) as error:
        convert(sources.images, sources.masks, sources.out.with_name("other"))
    assert str(error.value) == (
        f'{sources.masks}/p2.dcm: expected the name "liver" for segment 1 as in '
        f'{sources.masks}/p1.dcm, got "tumour"; export all masks with the same segments in the '
        "same order"
    )
