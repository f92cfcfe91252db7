"""metrics.csv, written and read again."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.maps import cube_map, write_map
from tests.pixel_sizes import write_png

from recycleseg.evaluation import FolderScores, compare, evaluate_folder, summarise_folder
from recycleseg.evaluation.table import metrics_csv, read_evaluation
from recycleseg.files import FileError


@pytest.fixture
def scores(folders: tuple[Path, Path]) -> FolderScores:
    for case in range(3):
        for step in (1, 2):
            path = folders[0] / f"steps/step_{step}/c{case}.nii.gz"
            write_map(path, cube_map(shift=2 - step))
    return evaluate_folder(
        *folders, labels={"whole, all": (1, 2), "core": 2}, tolerance_mm=[1.0, 2.0]
    )


@pytest.fixture
def evaluation(scores: FolderScores, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    (out / "metrics.csv").write_text(metrics_csv(scores))
    (out / "summary.json").write_text(json.dumps(summarise_folder(scores)))
    return out


def test_a_row_for_every_case_step_and_label(scores: FolderScores, evaluation: Path) -> None:
    with open(evaluation / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["case", "step", "label", *scores.by_step[0].metrics]
    assert [(r["case"], r["step"], r["label"]) for r in rows[:5]] == [
        ("c0", "1", "whole, all"),
        ("c0", "1", "core"),
        ("c0", "2", "whole, all"),
        ("c0", "2", "core"),
        ("c1", "1", "whole, all"),
    ]
    missed = rows[-1]
    assert (missed["case"], missed["step"], missed["label"]) == ("c2", "2", "core")
    assert (missed["dice"], missed["hd95"], missed["nsd_2mm"]) == ("0.0", "inf", "0.0")


def test_reading_back_gives_the_same_numbers(scores: FolderScores, evaluation: Path) -> None:
    read = read_evaluation(evaluation)
    assert (read.case_ids, read.labels) == (scores.case_ids, scores.labels)
    assert read.settings() == scores.settings()
    assert read.prediction_files == scores.prediction_files
    assert read.reference_files == scores.reference_files
    assert read.prediction_roots == scores.prediction_roots
    for again, once in zip(read.by_step, scores.by_step, strict=True):
        assert list(again.table) == list(once.table)
        for metric, values in once.table.items():
            np.testing.assert_array_equal(again.table[metric], values)


def test_reading_back_keeps_the_unit(tmp_path: Path) -> None:
    for folder, shift in (("pred", 1), ("ref", 0)):
        write_png(tmp_path / folder / "a.png", cube_map(shift)[:, :, 4], None)
    scores = evaluate_folder(tmp_path / "pred", tmp_path / "ref", tolerance_mm=[1.0, 2.0])
    table, summary = metrics_csv(scores), json.dumps(summarise_folder(scores))
    assert '"unit": "pixels"' in summary
    assert "mm" not in table and "mm" not in summary.replace("summary", "")
    (tmp_path / "metrics.csv").write_text(table)
    (tmp_path / "summary.json").write_text(summary)
    read = read_evaluation(tmp_path)
    assert read.by_step[-1].unit == "pixels"
    assert read.settings() == scores.settings()
    assert read.settings()["tolerances_pixels"] == [1.0, 2.0]


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(out: Path) -> None:
        text = (out / name).read_text()
        assert old in text
        (out / name).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: (out / "summary.json").unlink(), "summary.json: expected this file beside me"),
        (replaced("summary.json", "settings", "other"), "expected a summary of recycle-evaluate"),
        (replaced("summary.json", "{", "["), "summary.json: expected JSON, got"),
        (replaced("metrics.csv", "case,", "patient,"), "expected columns case, step, label and"),
        (replaced("metrics.csv", "c1,2,core", "c1,2,rim"), r"one row per case, .* \(whole, all"),
        (replaced("metrics.csv", "inf", "endless"), "metrics.csv: expected numbers, got"),
        (lambda out: (out / "metrics.csv").write_text(""), "metrics.csv: expected columns"),
        (replaced("metrics.csv", "c2,", "c1,"), "expected one row per case, step and label"),
    ],
)
def test_what_is_no_evaluation(
    evaluation: Path, change: Callable[[Path], None], message: str
) -> None:
    change(evaluation)
    with pytest.raises(FileError, match=message):
        read_evaluation(evaluation)


def test_the_ignore_label_is_read_back(folders: tuple[Path, Path], tmp_path: Path) -> None:
    scores = evaluate_folder(*folders, labels={"whole": (1, 2), "ignore": 3})
    (tmp_path / "metrics.csv").write_text(metrics_csv(scores))
    (tmp_path / "summary.json").write_text(json.dumps(summarise_folder(scores)))
    read = read_evaluation(tmp_path)
    assert read.ignore_label == 3
    assert read.all_labels == scores.all_labels == {"whole": (1, 2), "ignore": 3}
    assert compare(read, scores).rows
    plain = evaluate_folder(*folders, labels={"whole": (1, 2)})
    with pytest.raises(ValueError, match="expected the same settings, got .*'ignore_label': 3"):
        compare(scores, plain)
