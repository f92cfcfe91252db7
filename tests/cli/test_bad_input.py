"""Bad input ends the command before training: exit code 2 and one clear message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recycleseg.cli.train import main
from recycleseg.data.volumes import read_volume, write_volume


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    volume = read_volume(path)
    write_volume(path, change(volume.array), spacing=volume.spacing, affine=volume.affine)


def shift(path: Path) -> None:
    volume = read_volume(path)
    assert volume.affine is not None
    affine = volume.affine + 0.5 * np.eye(4, k=3)
    write_volume(path, volume.array, spacing=volume.spacing, affine=affine)


def with_voxel(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[0, 0, 0] = value
        return array

    return change


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


# One fault per case: the file to break, how, and the message about it.
FAULTS: list[tuple[str, Callable[[Path], None], str]] = [
    (
        "labelsTr/c0.nii.gz",
        lambda path: rewrite(path, lambda array: array[:-1]),
        "expected shape (8, 8, 6) as c0_0000.nii.gz, got (7, 8, 6)",
    ),
    ("labelsTr/c1.nii.gz", shift, "expected affine "),
    (
        "labelsTr/c2.nii.gz",
        lambda path: rewrite(path, with_voxel(7)),
        "expected label values [0, 1] of dataset.json, got 7",
    ),
    (
        "imagesTr/c3_0000.nii.gz",
        lambda path: rewrite(path, with_voxel(np.nan)),
        "expected finite values, got 1 NaN and 0 Inf",
    ),
    (
        "imagesTr/c4_0000.nii.gz",
        lambda path: rewrite(path, with_voxel(np.inf)),
        "expected finite values, got 0 NaN and 1 Inf",
    ),
    ("imagesTr/c5_0000.nii.gz", truncate, "expected a whole .nii.gz file, got"),
    ("labelsTr/c6.nii.gz", Path.unlink, "expected a file, got a path that does not exist"),
    ("imagesTr/c7_0000.nii.gz", Path.unlink, "expected a file, got a path that does not exist"),
]


def error_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    error = capsys.readouterr().err
    assert error.startswith("recycle-train: error: ")
    return error.splitlines()


@pytest.mark.parametrize(("name", "break_file", "message"), FAULTS, ids=[f[0] for f in FAULTS])
def test_bad_case(
    arguments: list[str],
    data: Path,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    break_file: Callable[[Path], None],
    message: str,
) -> None:
    break_file(data / name)
    assert main(arguments) == 2
    first, *problems = error_of(capsys)
    assert first == f"recycle-train: error: data set {data}: 1 problem"
    assert len(problems) == 1
    assert problems[0].startswith(f"  - {data / name}: {message}")
    assert not run.exists()


def test_all_bad_cases_are_listed_at_once(
    arguments: list[str], data: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, break_file, _ in FAULTS:
        break_file(data / name)
    assert main(arguments) == 2
    first, *problems = error_of(capsys)
    assert first == f"recycle-train: error: data set {data}: {len(FAULTS)} problems"
    for problem, (name, _, message) in zip(problems, FAULTS, strict=True):
        assert problem.startswith(f"  - {data / name}: {message}")
    assert not run.exists()


def test_folder_that_is_no_data_set(
    arguments: list[str], tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    others = [argument for argument in arguments if not argument.startswith("--data")]
    assert main([*others, "--data", str(empty)]) == 2
    (line,) = error_of(capsys)
    assert f"{empty}: expected a data set in the nnU-Net raw layout (dataset.json" in line
    assert not run.exists()


def test_split_with_unknown_cases(
    arguments: list[str], data: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = {"train": ["c0", "left"], "val": ["c1"], "test": ["right"]}
    (data / "split.json").write_text(json.dumps(split))
    assert main(arguments) == 2
    assert "split.json: expected cases of imagesTr, got unknown ['left', 'right']" in "".join(
        error_of(capsys)
    )
    assert not run.exists()


def test_nothing_is_opened_when_an_option_is_wrong(
    arguments: list[str], data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FAULTS[0][1](data / FAULTS[0][0])
    assert main([*arguments, "--model.dropout", "1.5"]) == 2
    assert error_of(capsys) == [
        "recycle-train: error: --model.dropout: expected 0 to below 1, got 1.5"
    ]
    assert not run.exists() and not (tmp_path / "cache").exists()


def test_run_folder_that_exists(
    arguments: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.mkdir()
    (run / "thesis.txt").write_text("precious")
    assert main(arguments) == 2
    (line,) = error_of(capsys)
    assert f"--out: {run} exists and is not empty; use --resume" in line
    assert [path.name for path in run.iterdir()] == ["thesis.txt"]


def test_sound_cases_train_and_the_run_folder_alone_resumes(
    arguments: list[str], data: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncate(data / "imagesTr/c9_0000.nii.gz")  # c9 is in no part of the split
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "8 x 8 x 8 (7 training images are smaller: padded)" in said
    assert "checking" in said and "preprocessing" in said
    summary = (run / "summary.json").read_text()
    assert main(["--config", str(run / "config.yaml"), "--resume"]) == 0
    said = capsys.readouterr().out
    assert "checking" not in said and "preprocessing" not in said
    assert (run / "summary.json").read_text() == summary
