"""docs/planning.md shows the plans that the planner makes."""

from __future__ import annotations

from pathlib import Path

import plans

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "planning.md"


def test_the_table_is_the_planners() -> None:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    shown = [line for line in lines if line.startswith("| ")]
    assert shown == plans.table()
