"""`recycle-data convert`, and then the check of what it made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recycleseg.cli.data import main
from recycleseg.data.volumes import write_volume


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Five grey pictures, and masks of 0 and 255."""
    rng = np.random.default_rng(0)
    mask = np.zeros((20, 24), np.uint8)
    mask[5:12, 6:15] = 255
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for case in range(5):
        image = rng.integers(0, 200, mask.shape).astype(np.uint8)
        write_volume(tmp_path / f"images/scan {case}.png", image, spacing=None)
        write_volume(tmp_path / f"masks/scan {case}_mask.png", mask, spacing=None)
    return [str(tmp_path / name) for name in ("images", "masks", "Dataset007_Scans")]


def test_the_result_passes_the_check(
    folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = folders[2]
    options = ["--labels", '{"organ": 1}', "--channels", "ultrasound", "--name", "Scans"]
    assert main(["convert", *folders, *options]) == 0
    said = capsys.readouterr().out
    assert "mask value 255 becomes 1, because labels are numbered from 1" in said
    assert "for example scan 0.png with scan 0_mask.png" in said
    assert f"{out}: 5 cases, labels background 0, organ 1" in said
    assert main(["check", out]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{out}: 5 cases, no problems"


def test_made_up_names_are_told(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", *folders]) == 0
    said = capsys.readouterr().out
    assert "no --labels, so the classes are called label_1 (mask value 255)" in said
    assert "no --channels, so images are not treated as CT (--channels CT)" in said


def test_unpaired_files(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (Path(folders[1]) / "scan 3_mask.png").unlink()
    assert main(["convert", *folders]) == 2
    said = capsys.readouterr().err
    assert said.startswith("recycle-data: error: ")
    assert "got 1 without a partner beside 4 pairs (--skip-unpaired leaves them out)" in said
    assert not Path(folders[2]).exists()
    assert main(["convert", *folders, "--skip-unpaired"]) == 0
    assert "left out 1 files without a partner: scan 3.png" in capsys.readouterr().out


def test_a_folder_with_files_is_refused(
    folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", *folders]) == 0
    capsys.readouterr()
    assert main(["convert", *folders]) == 2
    assert f"{folders[2]}: expected an empty or new folder" in capsys.readouterr().err


def test_missing_arguments_are_named_as_the_help_names_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["convert", "scans"]) == 2
    assert capsys.readouterr().err.startswith("recycle-data: error: MASKS, OUT: expected a value")
