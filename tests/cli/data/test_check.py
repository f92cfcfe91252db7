"""`recycle-data check`: every planted fault is in one short table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recycleseg.cli.data import main
from recycleseg.data.check import inspect_dataset
from recycleseg.data.layout import read_dataset
from recycleseg.data.volumes import write_volume
from recycleseg.files import FileError

NUM_CASES = 24
SHAPE = (12, 11, 9)


class Planted:
    """A data set of two channels and two classes, with one writer per fault."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("imagesTr", "labelsTr"):
            (root / folder).mkdir(parents=True)
        self.rng = np.random.default_rng(0)
        for case in range(NUM_CASES):
            self.write(case)
        description = {
            "channel_names": {"0": "T1", "1": "T2"},
            "labels": {"background": 0, "organ": 1, "tumour": 2},
            "file_ending": ".nii.gz",
        }
        (root / "dataset.json").write_text(json.dumps(description))
        names = [f"c{case:02d}" for case in range(NUM_CASES)]
        split = {"train": names[:16], "val": names[16:20], "test": names[20:]}
        (root / "split.json").write_text(json.dumps(split))

    def image(self, case: int, channel: int = 0) -> Path:
        return self.root / f"imagesTr/c{case:02d}_{channel:04d}.nii.gz"

    def label(self, case: int) -> Path:
        return self.root / f"labelsTr/c{case:02d}.nii.gz"

    def write(
        self,
        case: int,
        *,
        shape: tuple[int, ...] = SHAPE,
        spacing: tuple[float, ...] = (1.0, 1.0, 2.0),
        values: tuple[int, ...] = (1, 2),
    ) -> None:
        label = np.zeros(shape, np.uint8)
        for place, value in enumerate(values):
            label[2 + 3 * place : 5 + 3 * place, 2:7, 2:6] = value
        for channel in range(2):
            image = self.rng.normal(100.0 + 50.0 * label, 10.0).astype(np.float32)
            write_volume(self.image(case, channel), image, spacing=spacing)
        write_volume(self.label(case), label, spacing=spacing)

    def unreadable(self) -> None:
        content = self.image(1).read_bytes()
        self.image(1).write_bytes(content[: len(content) // 2])

    def no_channel(self) -> None:
        self.image(2, 1).unlink()

    def no_label(self) -> None:
        self.label(3).unlink()

    def other_grid(self) -> None:
        array = np.ones(SHAPE, np.uint8)
        write_volume(self.label(4), array, spacing=None, affine=np.diag([1.0, 1.0, 3.0, 1.0]))

    def unknown_value(self) -> None:
        self.write(5, values=(1, 7))

    def not_finite(self) -> None:
        array = np.full(SHAPE, np.nan, np.float32)
        write_volume(self.image(6), array, spacing=(1.0, 1.0, 2.0))

    def other_spacing(self) -> None:
        self.write(7, spacing=(10.0, 10.0, 20.0))

    def other_intensities(self) -> None:
        array = self.rng.normal(0.1, 0.01, SHAPE).astype(np.float32)
        write_volume(self.image(8), array, spacing=(1.0, 1.0, 2.0))

    def other_shape(self) -> None:
        self.write(9, shape=(60, 11, 9))

    def empty(self) -> None:
        self.write(10, values=())

    def same_scan(self) -> None:
        for channel in range(2):
            shutil.copyfile(self.image(11, channel), self.image(21, channel))
        shutil.copyfile(self.label(11), self.label(21))

    def two_labels(self) -> None:
        self.write(12, values=(1,))
        for channel in range(2):
            shutil.copyfile(self.image(13, channel), self.image(12, channel))

    def same_channels(self) -> None:
        shutil.copyfile(self.image(14), self.image(14, 1))

    def rare(self) -> None:
        for case in range(NUM_CASES):
            self.write(case, values=(1, 2) if case == 0 else (1,))

    def two_sides(self) -> None:
        for path in (self.image(17), self.image(17, 1), self.label(17)):
            path.rename(path.with_name(path.name.replace("c17", "c00_scan2")))
        path = self.root / "split.json"
        path.write_text(path.read_text().replace("c17", "c00_scan2"))

    def stray(self) -> None:
        shutil.copyfile(self.image(15), self.root / "imagesTr/c15.nii.gz")


# What the table says of each, and examples.
FAULTS: dict[str, tuple[Callable[[Planted], None], str, str]] = {
    "unreadable": (Planted.unreadable, "unreadable file", "imagesTr/c01_0000.nii.gz: expected"),
    "no label": (Planted.no_label, "missing file", "labelsTr/c03.nii.gz: expected a file, got"),
    "no channel": (Planted.no_channel, "missing file", "imagesTr/c02_0001.nii.gz: expected a"),
    "grid": (Planted.other_grid, "different grids", "labelsTr/c04.nii.gz: expected affine"),
    "value": (Planted.unknown_value, "unknown label values", "labelsTr/c05.nii.gz: expected"),
    "NaN": (Planted.not_finite, "NaN, Inf or huge values", "imagesTr/c06_0000.nii.gz: expected"),
    "stray": (Planted.stray, "file names or split", "imagesTr/c15.nii.gz: expected a name"),
    "spacing": (Planted.other_spacing, "unusual voxel size", "c07: 10 x 10 x 20 mm, median 1 x 1"),
    "intensity": (Planted.other_intensities, "unusual intensities", "c08: T1: 0."),
    "shape": (Planted.other_shape, "unusual shape", "c09: 60 x 11 x 9 voxels, median 12 x 11 x 9"),
    "empty": (Planted.empty, "label without foreground", "c10: no voxel belongs to a class"),
    "twice": (Planted.same_scan, "same scan twice", "c11, c21: equal voxels (c11 in train, c21"),
    "two labels": (Planted.two_labels, "same scan with two labels", "c12, c13: equal voxels"),
    "channels": (Planted.same_channels, "same content in two channels", "c14: T1 and T2 are equal"),
    "patient": (
        Planted.two_sides,
        "patient on two sides of the split",
        "1 of 4 validation patients have another scan in training (for example c00_scan2 and c00)",
    ),
}
ERRORS = ("unreadable", "no label", "no channel", "grid", "value", "NaN", "stray")


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path / "Dataset001_Faulty")


def check(planted: Planted, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, Any]:
    code = main(["check", str(planted.root), *options])
    said = capsys.readouterr()
    assert said.err == ""
    return code, said.out.splitlines()


def test_a_sound_data_set(planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = check(planted, capsys)
    assert code == 0
    assert lines[-1] == f"{planted.root}: {NUM_CASES} cases, no problems"
    assert len(lines) == 2  # the progress bar comes first


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone(planted: Planted, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    plant, title, example = FAULTS[fault]
    plant(planted)
    code, lines = check(planted, capsys)
    severity = "error" if fault in ERRORS else "warning"
    assert code == (2 if severity == "error" else 0)
    assert lines[-3].startswith(severity + "s: ")
    assert title in lines[-2] and example in lines[-2]
    assert lines[-1].endswith(f"{NUM_CASES} cases, 1 {severity}")


def test_a_class_in_one_case(planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    planted.rare()
    code, lines = check(planted, capsys)
    assert code == 0
    assert "class in few cases" in lines[-2] and "tumour: in 1 of 24 cases (c00)" in lines[-2]


def test_all_faults_at_once_are_one_short_table(
    planted: Planted, capsys: pytest.CaptureFixture[str]
) -> None:
    for plant, _, _ in FAULTS.values():
        plant(planted)
    code, lines = check(planted, capsys)
    assert code == 2
    assert len(lines) < 25
    for fault, (_, title, example) in FAULTS.items():
        (line,) = (line for line in lines if title in line)
        assert example in line, fault
    heads = [index for index, line in enumerate(lines) if line.startswith(("errors:", "warnings:"))]
    for fault, (_, title, _) in FAULTS.items():
        (place,) = (index for index, line in enumerate(lines) if title in line)
        assert (place < heads[1]) == (fault in ERRORS)
    assert lines[-1] == f"{planted.root}: 24 cases, 7 errors, 8 warnings"


def test_like_problems_are_one_row_with_three_examples(
    planted: Planted, capsys: pytest.CaptureFixture[str]
) -> None:
    for case in range(5):
        planted.label(case).unlink()
    _, lines = check(planted, capsys)
    assert lines[-2].split()[:3] == ["missing", "file", "5"]
    assert lines[-2].count("expected a file") == 3
    assert lines[-2].endswith("; and 2 more (--all)")
    _, lines = check(planted, capsys, "--all", "--workers", "2")
    assert [line.startswith("error: missing file: labelsTr/c0") for line in lines[-6:-1]] == [
        True
    ] * 5


def test_training_refuses_exactly_the_errors(
    planted: Planted, capsys: pytest.CaptureFixture[str]
) -> None:
    for fault in FAULTS:
        if fault != "stray":  # read_dataset refuses it before a file is opened
            FAULTS[fault][0](planted)
    with pytest.raises(FileError) as error:
        inspect_dataset(read_dataset(planted.root))
    refused = str(error.value).splitlines()[1:]
    _, lines = check(planted, capsys, "--all")
    listed = [line.split(": ", 2)[2] for line in lines if line.startswith("error: ")]
    assert [line.removeprefix("  - ").replace(f"{planted.root}/", "") for line in refused] == listed
    assert len(listed) == 6


def test_voxel_size_in_some_files_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "flat"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    label = np.zeros((9, 8), np.uint8)
    label[2:5, 3:6] = 1
    for case in range(3):
        spacing = (0.4, 0.4) if case else None
        image = (100 * label + case).astype(np.uint8)
        write_volume(root / f"imagesTr/c{case}_0000.png", image, spacing=spacing)
        write_volume(root / f"labelsTr/c{case}.png", label, spacing=spacing)
    description = {
        "channel_names": {"0": "ultrasound"},
        "labels": {"background": 0, "head": 1},
        "file_ending": ".png",
    }
    (root / "dataset.json").write_text(json.dumps(description))
    assert main(["check", str(root), "--pixel-size", "ignore"]) == 0
    capsys.readouterr()
    assert main(["check", str(root), "--all"]) == 2
    said = capsys.readouterr().out
    assert "got 2 with it, such as c1_0000.png, and 1 without, such as c0_0000.png" in said


def test_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path)]) == 2
    assert "expected a data set in the nnU-Net raw layout" in capsys.readouterr().err
    assert main(["check", str(tmp_path), "--workers", "0"]) == 2
    assert "--workers: expected at least 1, got 0" in capsys.readouterr().err
    assert main(["chek", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("recycle-data: error: expected check, show")


def test_a_case_in_two_parts(planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    path = planted.root / "split.json"
    path.write_text(path.read_text().replace('"c17"', '"c17", "c01"'))
    code, lines = check(planted, capsys)
    assert code == 0
    assert len(lines) == 5  # after bar and heads, the warning stands in the table alone
    assert "patient on two sides of the split" in lines[-2]
    assert "1 case stands in several parts (c01 in train, val)" in lines[-2]
