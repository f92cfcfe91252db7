"""Label maps in the smallest integer type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recycleseg.data.formats import label_values
from recycleseg.data.formats.label_values import in_blocks, whole_numbers
from recycleseg.files import FileError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "x.nii").touch()
    return tmp_path / "x.nii"


@pytest.mark.parametrize(
    ("values", "stored", "dtype"),
    [
        ([0, 1, 255], np.float64, np.uint8),
        ([0, 256], np.float32, np.uint16),
        ([0, 11101, 12175], np.int64, np.uint16),
        ([255, -1], np.int32, np.int16),
        ([0, 2**31], np.float64, np.uint32),
        ([-1, 2**31], np.int64, np.int64),
        ([0, 2**64 - 1], np.uint64, np.uint64),
        ([0, 1, 2], ">i4", np.uint8),
    ],
)
def test_type_that_holds_all_values(
    monkeypatch: pytest.MonkeyPatch, path: Path, values: list[int], stored: Any, dtype: type
) -> None:
    monkeypatch.setattr(label_values, "BLOCK", 1)  # the type grows from value to value
    array = np.array(values, stored)
    found = whole_numbers(in_blocks(array), len(array), path)
    assert found.dtype == dtype and found.tolist() == values


def test_values_near_whole_numbers_are_rounded(path: Path) -> None:
    values = np.array([0.9995, 2.0004, -0.0003, 1.0])
    assert whole_numbers([values], 4, path).tolist() == [1, 2, 0, 1]


def test_other_values_are_told_and_counted(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setattr(label_values, "BLOCK", 2)
    values = np.array([0.0, 0.5, 1.0, np.nan, 0.5, np.inf, 1e300, 1.0])
    with pytest.raises(FileError) as error:
        whole_numbers(in_blocks(values), 8, path, "; because")
    assert str(error.value) == (
        f"{path}: expected labels that are whole numbers, got 0.5, 1e+300, inf, nan in 5 voxels; "
        "because"
    )


def test_no_integer_type_holds_all(path: Path) -> None:
    with pytest.raises(FileError, match="x.nii: expected labels of one integer type, got -1 to -1"):
        whole_numbers([np.array([2**64 - 1], np.uint64), np.array([-1])], 2, path)
