"""The warnings of a data set in a few lines."""

from __future__ import annotations

from recycleseg.data import findings as kinds
from recycleseg.data.findings import Finding, Kind, warning_lines


def test_one_line_for_each_kind_of_warning() -> None:
    found = [
        *(Finding(kinds.SHAPE, f"c{case}", f"c{case}: 9 x 9 x 9 voxels") for case in range(5)),
        Finding(kinds.GRID, "c1", "c1: an error"),
        Finding(kinds.RARE_CLASS, "", "tumour: in 1 of 24 cases (c00)"),
        Finding(kinds.SHAPE, "c7", "c7: 8 x 8 x 8 voxels"),
    ]
    assert warning_lines(found) == [
        f"warning: unusual shape (6): c0, c1, c2 and 3 more; {kinds.SHAPE.advice}",
        f"warning: class in few cases (1): tumour: in 1 of 24 cases (c00); "
        f"{kinds.RARE_CLASS.advice}",
    ]


def test_all_warnings_at_once_are_few_lines() -> None:
    every = [kind for kind in vars(kinds).values() if isinstance(kind, Kind)]
    assert 8 < len(warning_lines(Finding(kind, "c", "text") for kind in every)) < 12
