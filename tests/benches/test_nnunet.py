"""nnU-Net as a rival: its folders and its schedule, without nnU-Net."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from fingerprints import FINGERPRINTS
from rivals import nnunet, nnunet_data

SPLIT = {"train": ["b", "a"], "val": ["c"], "test": ["d", "e"]}
DESCRIPTION = {
    "channel_names": {"0": "T2", "1": "ADC"},
    "labels": {"background": 0, "prostate": 1},
    "numTraining": 5,
    "file_ending": ".nii.gz",
    "dataset": {"a": {}},
}


def write_dataset(root: Path, split: dict[str, list[str]] = SPLIT) -> Path:
    """Cases a to e with two channels; each file holds its own name."""
    files = [f"imagesTr/{case}_000{channel}.nii.gz" for case in "abcde" for channel in (0, 1)]
    files += [f"labelsTr/{case}.nii.gz" for case in "abcde"]
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    (root / "dataset.json").write_text(json.dumps(DESCRIPTION), encoding="utf-8")
    (root / "split.json").write_text(json.dumps(split), encoding="utf-8")
    return root


def test_nnunet_gets_the_test_cases_as_images_alone(tmp_path: Path) -> None:
    source = write_dataset(tmp_path / "Dataset123_Prostate")
    assert nnunet_data.convert(source, tmp_path / "raw") == "Dataset123_Prostate"
    target = tmp_path / "raw" / "Dataset123_Prostate"
    found = {
        folder.name: sorted(path.name for path in folder.iterdir())
        for folder in target.iterdir()
        if folder.is_dir()
    }
    assert found == {
        "imagesTr": [f"{case}_000{channel}.nii.gz" for case in "abc" for channel in (0, 1)],
        "imagesTs": [f"{case}_000{channel}.nii.gz" for case in "de" for channel in (0, 1)],
        "labelsTr": [f"{case}.nii.gz" for case in "abc"],
    }
    linked = (target / "imagesTs" / "d_0001.nii.gz").read_text(encoding="utf-8")
    assert linked == "imagesTr/d_0001.nii.gz"


def test_one_fold_holds_the_given_parts(tmp_path: Path) -> None:
    source = write_dataset(tmp_path / "Dataset123_Prostate")
    target = tmp_path / "raw" / nnunet_data.convert(source, tmp_path / "raw")
    folds = json.loads((target / "splits_final.json").read_text(encoding="utf-8"))
    assert folds == [{"train": ["a", "b"], "val": ["c"]}]
    description = json.loads((target / "dataset.json").read_text(encoding="utf-8"))
    expected = {**DESCRIPTION, "numTraining": 3}
    del expected["dataset"]  # nnU-Net would train on the files of this list
    assert description == expected


def test_a_folder_of_another_name_gets_a_number(tmp_path: Path) -> None:
    source = write_dataset(tmp_path / "prostate")
    assert nnunet_data.convert(source, tmp_path / "raw") == "Dataset999_prostate"


def test_every_part_must_hold_cases(tmp_path: Path) -> None:
    source = write_dataset(tmp_path / "Dataset123_Prostate", {**SPLIT, "test": []})
    with pytest.raises(ValueError, match="split.json: expected cases under 'test', got none"):
        nnunet_data.convert(source, tmp_path / "raw")


def test_a_missing_channel_is_named(tmp_path: Path) -> None:
    source = write_dataset(tmp_path / "Dataset123_Prostate")
    (source / "imagesTr" / "e_0001.nii.gz").unlink()
    with pytest.raises(ValueError, match="e_0001.nii.gz: expected a file, got none"):
        nnunet_data.convert(source, tmp_path / "raw")


@pytest.mark.parametrize(
    ("seconds", "iteration", "epoch_end", "epochs"),
    [
        (1200.0, 1.5, 2.0, 29),  # 5 % of the time for the ends of epochs
        (1200.0, 0.01, 0.001, 1000),  # nnU-Net's number
        (100.0, 1.0, 5.0, 10),  # ends of epochs take longer, but the rate falls in ten steps
        (31.0, 4.0, 2.0, 3),  # no ten iterations fit
    ],
)
def test_the_schedule_fills_the_time(
    seconds: float, iteration: float, epoch_end: float, epochs: int
) -> None:
    speed = nnunet.Speed(start=10.0, iteration=iteration, epoch_end=epoch_end, end=1.0)
    schedule = nnunet.choose_schedule(seconds, speed)
    assert schedule.epochs == epochs and schedule.iterations >= 1
    took = 11.0 + epochs * (schedule.iterations * iteration + epoch_end)
    # One more iteration per epoch would be too late.
    assert took <= seconds < took + epochs * iteration


def test_too_little_time_for_one_iteration() -> None:
    speed = nnunet.Speed(start=10.0, iteration=4.0, epoch_end=2.0, end=1.0)
    with pytest.raises(ValueError, match="--time: expected at least 17 s, got 16.5 s"):
        nnunet.choose_schedule(16.5, speed)


def test_times_are_read() -> None:
    assert [nnunet.parse_time(text) for text in ("30s", "20m", "1.5h")] == [30, 1200, 5400]
    with pytest.raises(argparse.ArgumentTypeError, match="expected a time"):
        nnunet.parse_time("20")


def test_made_up_data_sets_are_whole() -> None:
    assert len(FINGERPRINTS) == 8
    for name, facts in FINGERPRINTS.items():
        dims = len(facts["shapes"][0])
        rows = zip(facts["shapes"], facts["spacings"], facts["extents"], strict=True)
        for shape, spacing, extent in rows:
            assert len(shape) == len(spacing) == len(extent) == dims, name
            sides = (n * mm for n, mm in zip(shape, spacing, strict=True))
            assert all(0 < inner <= side for inner, side in zip(extent, sides, strict=True)), name
