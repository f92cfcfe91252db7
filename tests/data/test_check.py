"""The check finds every bad case of a data set and lists them together."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from recycleseg.data import check
from recycleseg.data.check import inspect_dataset
from recycleseg.data.findings import MISSING, UNREADABLE
from recycleseg.data.layout import read_dataset
from recycleseg.data.volumes import Volume, read_image, read_label, read_volume, write_volume
from recycleseg.files import FileError

MakeDataset = Callable[..., Path]
SHAPE = (6, 7, 5)


def rewrite(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    write_volume(path, array, spacing=(1.0,) * array.ndim, affine=affine)


def set_voxel(path: Path, value: float) -> None:
    array = read_volume(path).array.astype(np.float32)
    array[0, 0, 0] = value
    rewrite(path, array)


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def add_axis(path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((*SHAPE, 2), np.float32), np.eye(4)), path)


SHIFTED = np.diag([1.0, 1.0, 1.0, 1.0]) + 0.1 * np.eye(4, k=3)
IMAGE, SECOND, LABEL = "imagesTr/c2_0000.nii.gz", "imagesTr/c2_0001.nii.gz", "labelsTr/c2.nii.gz"
FAULTS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "shape": (
        LABEL,
        lambda path: rewrite(path, np.zeros((6, 7, 4), np.uint8)),
        r"expected shape \(6, 7, 5\) as c2_0000.nii.gz, got \(6, 7, 4\)",
    ),
    "affine": (
        LABEL,
        lambda path: rewrite(path, np.zeros(SHAPE, np.uint8), SHIFTED),
        "expected affine .* as c2_0000.nii.gz, got .*0.1",
    ),
    "channel affine": (
        SECOND,
        lambda path: rewrite(path, np.zeros(SHAPE, np.uint8), SHIFTED),
        "expected affine .* as c2_0000.nii.gz, got .*0.1",
    ),
    "label value": (
        LABEL,
        lambda path: rewrite(path, np.full(SHAPE, 7, np.uint8)),
        r"expected label values \[0, 1, 2\] of dataset.json, got 7",
    ),
    "fractional label": (
        LABEL,
        lambda path: rewrite(path, np.linspace(0, 1, 210, dtype=np.float32).reshape(SHAPE)),
        r"expected labels that are whole numbers, got 0.0047.* and 203 more in 208 voxels",
    ),
    "NaN": (IMAGE, lambda path: set_voxel(path, np.nan), "expected finite.* 1 NaN and 0 Inf"),
    "Inf": (SECOND, lambda path: set_voxel(path, np.inf), "expected finite.* 0 NaN and 1 Inf"),
    "truncated image": (IMAGE, truncate, "expected a whole .nii.gz file"),
    "truncated label": (LABEL, truncate, "expected a whole .nii.gz file"),
    "no label": (LABEL, Path.unlink, "expected a file, got a path that does not exist"),
    "no channel": (SECOND, Path.unlink, "expected a file, got a path that does not exist"),
    "no image": (IMAGE, Path.unlink, "expected a file, got a path that does not exist"),
    "4D": (IMAGE, add_axis, "expected one channel, got 2"),
}


@pytest.fixture
def root(make_dataset: MakeDataset) -> Path:
    return make_dataset(channels=("T1", "T2"), num_cases=6)


def test_sound_data_set_passes(root: Path) -> None:
    done: list[tuple[int, int]] = []
    facts = inspect_dataset(read_dataset(root), progress=lambda *counts: done.append(counts))
    assert list(facts) == [f"c{case}" for case in range(6)]
    assert done == [(case, 6) for case in range(1, 7)]
    label = read_volume(root / LABEL).array
    expected = [read_volume(root / name).array[label > 0] for name in (IMAGE, SECOND)]
    np.testing.assert_array_equal(facts["c2"].foreground, expected)


def test_label_without_foreground_passes(root: Path) -> None:
    rewrite(root / LABEL, np.zeros(SHAPE, np.uint8))
    facts = inspect_dataset(read_dataset(root))["c2"]
    assert facts.foreground.shape == (2, 0)
    assert facts.class_voxels.tolist() == [0, 0]
    assert facts.foreground_box is None


# Axes of the file: towards posterior, superior and left, so canonical axes are 2, 0, 1 of it.
PSL = np.array([[0, 0, -2.0, 0], [-1.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 0, 1]])


def test_facts_are_along_canonical_axes(make_dataset: MakeDataset) -> None:
    root = make_dataset(affine=PSL, labels={"background": 0, "all": [1, 2], "core": [2]})
    facts = inspect_dataset(read_dataset(root))["c0"]
    label = nib.as_closest_canonical(nib.load(root / "labelsTr/c0.nii.gz")).get_fdata()
    places = np.argwhere(label > 0)
    assert facts.shape == label.shape == (5, 6, 7)
    assert facts.class_voxels.tolist() == [(label > 0).sum(), (label == 2).sum()]
    np.testing.assert_array_equal(facts.foreground_box, [places.min(0), places.max(0) + 1])


def test_affines_may_differ_by_rounding(root: Path) -> None:
    rewrite(root / LABEL, np.zeros(SHAPE, np.uint8), np.eye(4) + 5e-3 * np.eye(4, k=3))
    inspect_dataset(read_dataset(root))


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_named(root: Path, fault: str) -> None:
    name, break_file, message = FAULTS[fault]
    break_file(root / name)
    with pytest.raises(FileError, match=f"1 problem\n  - {root / name}: {message}") as error:
        inspect_dataset(read_dataset(root))
    assert len(str(error.value).splitlines()) == 2


def test_all_bad_cases_are_listed_at_once(root: Path) -> None:
    for case, fault in enumerate(["NaN", "truncated label", "no channel", "4D", "label value"]):
        name, break_file, _ = FAULTS[fault]
        break_file(root / name.replace("c2", f"c{case}"))
    with pytest.raises(FileError, match=f"data set {root}: 5 problems") as error:
        inspect_dataset(read_dataset(root))
    lines = str(error.value).splitlines()[1:]
    assert [f"c{case}" in line for case, line in enumerate(lines)] == [True] * 5


def test_png_faults(make_dataset: MakeDataset) -> None:
    root = make_dataset(shape=(9, 8), spacing=(0.5, 0.5))
    truncate(root / "imagesTr/c0_0000.png")
    write_volume(root / "labelsTr/c1.png", np.zeros((9, 8), np.uint8), spacing=(0.5, 0.4))
    write_volume(root / "labelsTr/c2.png", np.zeros((8, 9), np.uint8), spacing=(0.5, 0.5))
    with pytest.raises(FileError, match="3 problems") as error:
        inspect_dataset(read_dataset(root))
    lines = str(error.value).splitlines()[1:]
    assert "c0_0000.png: expected a whole .png file, got" in lines[0]
    assert "c1.png: expected pixel size (0.5, 0.5) mm as c1_0000.png, got (0.5, 0.4)" in lines[1]
    assert "c2.png: expected shape (9, 8) as c2_0000.png, got (8, 9)" in lines[2]


@pytest.mark.parametrize("name", ["Dataset004_Hippocampus", "Dataset018_FetalHeadUltrasound"])
def test_real_data_is_sound(data_root: Path, name: str) -> None:
    dataset = read_dataset(data_root / name)
    facts = inspect_dataset(dataset)
    assert len(facts) == len(dataset.cases)
    assert min(fact.foreground.shape[1] for fact in facts.values()) > 0


def test_one_worker_holds_one_case_at_a_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, weakref.ref[Volume]]] = []
    largest = 0

    def counted(volumes: list[Volume]) -> None:
        nonlocal largest
        read.extend((v.path.name.split(".")[0][:2], weakref.ref(v)) for v in volumes)
        largest = max(largest, len({case_id for case_id, ref in read if ref() is not None}))

    def read_images(paths: list[Path], number: int) -> list[Volume]:
        counted(volumes := read_image(paths, number))
        return volumes

    def read_labels(path: Path) -> Volume:
        counted([volume := read_label(path)])
        return volume

    monkeypatch.setattr(check, "read_image", read_images)
    monkeypatch.setattr(check, "read_label", read_labels)
    check.check_dataset(read_dataset(root), workers=1)
    assert len(read) == 18 and largest == 1


def test_findings_name_case_and_kind(root: Path) -> None:
    truncate(root / IMAGE)
    (root / "labelsTr/c4.nii.gz").unlink()
    facts, findings = check.check_dataset(read_dataset(root))
    found = [(finding.case_id, finding.kind, finding.severity) for finding in findings]
    assert found == [("c2", UNREADABLE, "error"), ("c4", MISSING, "error")]
    assert list(facts) == ["c0", "c1", "c3", "c5"]


def test_ignored_voxels_are_no_foreground(make_dataset: MakeDataset) -> None:
    root = make_dataset(labels={"background": 0, "shell": 1, "ignore": 2})
    facts = inspect_dataset(read_dataset(root))
    label = read_volume(root / "labelsTr/c2.nii.gz").array
    image = read_volume(root / "imagesTr/c2_0000.nii.gz").array
    assert (label == 2).any()
    np.testing.assert_array_equal(facts["c2"].foreground, image[label == 1][None])
    rewrite(root / "labelsTr/c2.nii.gz", np.full((6, 7, 5), 3, np.uint8))
    with pytest.raises(
        FileError, match=r"expected label values \[0, 1, 2\] of dataset.json, got 3"
    ):
        inspect_dataset(read_dataset(root))
