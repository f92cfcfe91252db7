"""The table of scores."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from recycleseg.metrics import Scores


def make_scores(values: dict[str, list[list[float]]], batched: bool = True, **changes) -> Scores:
    arguments = {
        "labels": ("left", "right"),
        "table": {name: np.array(rows, dtype=np.float64) for name, rows in values.items()},
        "batched": batched,
        "spacing": (1.0, 2.5),
        "tolerances_mm": (1.0,),
        "percentile": 95.0,
        "definitions": ("voxel",),
        "border_is_outside": True,
    }
    return Scores(**arguments | changes)


BATCH = make_scores(
    {
        "dice": [[0.5, 0.25], [1.0, math.nan], [0.0, 0.75]],
        "hd": [[3, 4], [0, math.nan], [math.inf, 1]],
    }
)
ONE = make_scores({"dice": [[0.5, 0.25]], "hd": [[3.0, 4.0]]}, batched=False)


def test_is_a_mapping_of_labels_to_metrics() -> None:
    assert list(ONE) == ["left", "right"]
    assert len(ONE) == 2
    assert ONE["right"] == {"dice": 0.25, "hd": 4.0}
    assert isinstance(ONE["left"]["hd"], float)
    assert dict(ONE.items())["left"]["dice"] == 0.5
    assert (ONE.metrics, ONE.num_cases) == (("dice", "hd"), 1)
    np.testing.assert_array_equal(BATCH["left"]["hd"], [3, 0, math.inf])
    assert "middle" not in ONE
    with pytest.raises(KeyError, match="'middle'; there are 'left', 'right'"):
        ONE["middle"]


def test_rows_and_csv(tmp_path: Path) -> None:
    assert ONE.rows() == [
        {"label": "left", "dice": 0.5, "hd": 3.0},
        {"label": "right", "dice": 0.25, "hd": 4.0},
    ]
    rows = BATCH.rows()
    assert [(row["case"], row["label"]) for row in rows[:3]] == [
        (0, "left"),
        (0, "right"),
        (1, "left"),
    ]
    for scores in (ONE, BATCH):
        scores.to_csv(tmp_path / "scores.csv")
        with open(tmp_path / "scores.csv", newline="", encoding="utf-8") as file:
            read = list(csv.DictReader(file))
        assert list(read[0]) == list(scores.rows()[0])
        for row, expected in zip(read, scores.rows(), strict=True):
            assert row["label"] == expected["label"]
            np.testing.assert_equal(float(row["hd"]), expected["hd"])


def test_aggregate_counts_what_is_not_finite() -> None:
    table = BATCH.aggregate()
    assert list(table) == ["left", "right"]
    hd = table["left"]["hd"]
    assert (hd.mean, hd.median, hd.num_finite, hd.num_nan, hd.num_inf) == (1.5, 1.5, 2, 0, 1)
    assert table["right"]["dice"].mean == 0.5
    assert table["right"]["dice"].num_nan == 1


def test_joining_cases() -> None:
    joined = Scores.join([ONE, BATCH])
    assert joined.num_cases == 4
    assert joined.spacing == (1.0, 2.5)
    np.testing.assert_array_equal(joined["left"]["dice"], [0.5, 0.5, 1.0, 0.0])
    other = make_scores({"dice": [[0.5, 0.25]], "hd": [[3, 4]]}, spacing=(1.0, 1.0))
    assert Scores.join([ONE, other]).spacing is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("left", "wrong")}, "expected the same labels, got .*'wrong'"),
        ({"percentile": 99.0}, r"expected the same percentile, got 95\.0 and 99\.0"),
        ({"tolerances_mm": (2.0,)}, "expected the same tolerances_mm"),
        ({"unit": "pixels"}, "expected the same unit, got mm and pixels"),
        ({"table": {"dice": np.zeros((1, 2))}}, "expected the same metrics"),
        ({"border_is_outside": False}, "expected the same metrics of the same surfaces"),
    ],
)
def test_what_does_not_fit_is_not_joined(changes: dict, message: str) -> None:
    other = make_scores({"dice": [[0.5, 0.25]], "hd": [[3, 4]]}, **changes)
    with pytest.raises(ValueError, match=message):
        Scores.join([ONE, other])
    with pytest.raises(ValueError, match="scores: expected at least one, got none"):
        Scores.join([])


def test_prints_an_aligned_table() -> None:
    assert str(ONE).splitlines() == [
        "label  left  right",
        "dice    0.5   0.25",
        "hd        3      4",
        "surfaces: voxel; spacing 1 x 2.5 mm; tolerance 1 mm; "
        "the volume's border counts as outside",
    ]
    of_pixels = make_scores({"dice": [[0.5, 0.25]]}, spacing=None, unit="pixels")
    assert str(of_pixels).splitlines()[-1] == (
        "surfaces: voxel; spacing unknown, so distances are in pixels; tolerance 1 pixels; "
        "the volume's border counts as outside"
    )
    lines = str(BATCH).splitlines()
    assert lines[0] == "case  label  dice   hd"
    assert lines[5] == "2     left      0  inf"
    assert len(lines) == 8
