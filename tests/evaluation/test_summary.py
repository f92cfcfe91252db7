"""summary.json, read in the way that nnU-Net documents."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evaluation.maps import cube_map, write_map

from recycleseg.evaluation import FolderScores, evaluate_folder, summarise_folder
from recycleseg.evaluation.summary import label_key, nnunet_metrics, summarise

NNUNET_METRICS = {"Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref"}


def nnunet_key(key: str) -> int | tuple[int, ...]:
    """The label or region of a key, found as nnU-Net's readers do."""
    try:
        return int(key)
    except ValueError:
        return tuple(int(part) for part in key.strip("()").split(",") if part)


def read_as_nnunet(path: Path) -> dict[str, Any]:
    """foreground_mean, mean and metric_per_case; their keys are labels and regions."""
    summary = json.loads(path.read_text())
    return {
        "foreground_mean": summary["foreground_mean"],
        "mean": {nnunet_key(key): values for key, values in summary["mean"].items()},
        "metric_per_case": [
            {**case, "metrics": {nnunet_key(key): m for key, m in case["metrics"].items()}}
            for case in summary["metric_per_case"]
        ],
    }


@pytest.fixture
def scores(folders: tuple[Path, Path]) -> FolderScores:
    """Scores of the three cases and of c5, which has no core; c6 fails."""
    pred, ref = folders
    for folder in folders:
        write_map(folder / "c5.nii.gz", cube_map(core=False))
    write_map(pred / "c6.nii.gz", cube_map()[:-1])
    write_map(ref / "c6.nii.gz", cube_map())
    return evaluate_folder(pred, ref, labels={"whole": (1, 2), "core": 2})


def test_nnunets_readers_find_their_keys(scores: FolderScores, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(summarise_folder(scores), allow_nan=False))
    summary = read_as_nnunet(path)
    assert set(summary["mean"]) == {(1, 2), 2}
    # Dice per case: core 1, 0.5, 0, not applicable; whole 1, 0.75, 1, 1
    assert summary["mean"][2]["Dice"] == pytest.approx(0.5)
    assert summary["mean"][2]["TP"] == (8 + 4 + 0 + 0) / 4
    assert summary["foreground_mean"]["Dice"] == pytest.approx((0.5 + 3.75 / 4) / 2)
    cases = summary["metric_per_case"]
    assert [Path(case["prediction_file"]).name for case in cases] == [
        f"c{i}.nii.gz" for i in (0, 1, 2, 5)
    ]
    assert all(Path(case["reference_file"]).is_file() for case in cases)
    shifted = cases[1]["metrics"][2]
    assert {name: shifted[name] for name in NNUNET_METRICS} == {
        "Dice": 0.5,
        "IoU": pytest.approx(1 / 3),
        "TP": 4,
        "FP": 4,
        "FN": 4,
        "TN": 12 * 8 * 8 - 12,
        "n_pred": 8,
        "n_ref": 8,
    }
    assert isinstance(shifted["TP"], int)
    assert cases[3]["metrics"][2]["Dice"] is None


def test_ours_stand_beside(scores: FolderScores) -> None:
    summary = summarise_folder(scores)
    expected = NNUNET_METRICS | set(scores.by_step[0].metrics) - {"dice", "iou"}
    assert set(summary["metric_per_case"][0]["metrics"]["2"]) == expected
    assert summary["metric_per_case"][1]["metrics"]["2"]["hd95"] == 1.0
    assert summary["metric_per_case"][2]["metrics"]["2"]["hd95"] is None
    assert (summary["num_inf"]["2"]["hd95"], summary["num_nan"]["2"]["hd95"]) == (1, 1)
    assert summary["mean"]["2"]["hd95"] == 0.5
    assert summary["std"]["2"]["hd95"] == pytest.approx(math.sqrt(0.5))
    assert summary["median"]["2"]["Dice"] == 0.5
    # Three values, of which no interval is given.
    assert summary["mean_interval_95"]["2"]["Dice"] == [None, None]
    assert (summary["num"]["2"]["Dice"], summary["range"]["2"]["Dice"]) == (3, [0.0, 1.0])
    assert (summary["num_cases"], summary["num_patients"]) == (4, 4)
    assert summary["by_step_num"] == [4] and "patients" not in summary
    assert summary["class_names"] == {"(1, 2)": "whole", "2": "core"}
    assert summary["by_step"] == [summary["foreground_mean"]["Dice"]]
    assert summary["settings"]["tolerances_mm"] == [1.0]
    assert list(summary["failed"]) == ["c6"]


def test_counts_give_what_evaluate_gives(scores: FolderScores) -> None:
    final = scores.by_step[0]
    metrics = nnunet_metrics(final.outcomes)
    np.testing.assert_allclose(metrics["Dice"], final.table["dice"], rtol=1e-15)
    np.testing.assert_allclose(metrics["IoU"], final.table["iou"], rtol=1e-15)
    millilitres = 1.0 * 1.0 * 2.0 / 1000
    np.testing.assert_allclose(
        metrics["n_pred"] * millilitres, final.table["pred_volume_ml"], rtol=1e-12
    )


def test_nothing_applies() -> None:
    outcomes = np.array([[[0, 0, 0, 8]]])
    summary = summarise(
        nnunet_metrics(outcomes),
        {"a": 1},
        prediction_files=[None],
        reference_files=["x.nii"],
        by_step=[np.full((1, 1), math.nan)],
        groups=np.zeros(1, np.int64),
    )
    json.dumps(summary, allow_nan=False)
    assert summary["foreground_mean"]["Dice"] is None
    assert summary["foreground_mean"]["TN"] == 8
    assert (summary["by_step"], summary["mean_interval_95"]["1"]["Dice"]) == ([None], [None, None])
    assert (summary["by_step_num"], summary["range"]["1"]["Dice"]) == ([0], [None, None])


@pytest.mark.parametrize("num", [1, 5, 6, 40])
def test_intervals_from_six_patients_on(num: int) -> None:
    rng = np.random.default_rng(num)
    outcomes = rng.integers(1, 99, (num, 1, 4))
    outcomes[..., 3] = 7
    for per_patient in (1, 2):
        summary = summarise(
            nnunet_metrics(outcomes),
            {"a": 1},
            prediction_files=[None] * num,
            reference_files=[None] * num,
            by_step=[rng.random((num, 1))],
            groups=np.arange(num) // per_patient,
        )
        patients = -(-num // per_patient)
        assert summary["num_patients"] == patients
        low, high = summary["mean_interval_95"]["1"]["Dice"]
        assert (low is None) == (high is None) == (patients < 6)
        assert summary["mean_interval_95"]["1"]["TN"] == [None, None]  # all equal
        smallest, largest = summary["range"]["1"]["Dice"]
        assert smallest <= summary["mean"]["1"]["Dice"] <= largest


def test_keys() -> None:
    assert [label_key(v) for v in (3, (3,), (1, 2, 3))] == ["3", "3", "(1, 2, 3)"]


def test_scores_without_counts_have_no_summary(scores: FolderScores) -> None:
    read = replace(scores, by_step=(replace(scores.by_step[0], outcomes=None),))
    with pytest.raises(ValueError, match="scores: expected evaluated maps, got scores that were"):
        summarise_folder(read)
