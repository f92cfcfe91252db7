"""The table of all cases: what the page prints of it, and what its script sorts by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recycleseg.evaluation import FolderScores
from recycleseg.names import printable
from recycleseg.report.columns import Column
from recycleseg.report.sentences import HARDLY, Presence

_IN_NEITHER = "in neither"


@dataclass(frozen=True)
class CaseTable:
    """B x C rows; row r is of case r // C and structure r % C.

    Attributes:
        cases: printable names of the B cases.
        structures: printable names of the C structures.
        texts: per column of numbers, what is printed in each row.
        keys: per column of numbers, six digits of each number to sort by: None for NaN, and
            "Infinity", for which JSON has no number.
        remarks: per row "missed", "Dice below 0.1", "not in reference", "in neither" or empty.
        noted: the rows with a remark other than "in neither".
        pictured: indices of the cases that are shown in pictures.
    """

    cases: list[str]
    structures: list[str]
    texts: list[list[str]]
    keys: list[list[float | str | None]]
    remarks: list[str]
    noted: list[int]
    pictured: list[int]

    @classmethod
    def of(
        cls, scores: FolderScores, columns: Sequence[Column], pictured: Sequence[int]
    ) -> CaseTable:
        """The final predictions in `columns`."""
        remarks = _remarks(Presence.of(scores.by_step[-1]))
        numbers = [column.values.ravel().tolist() for column in columns]
        return cls(
            cases=[printable(case_id) for case_id in scores.case_ids],
            structures=[printable(name) for name in scores.labels],
            texts=[
                [column.text(value) for value in values]
                for column, values in zip(columns, numbers, strict=True)
            ],
            keys=[[_key(value) for value in values] for values in numbers],
            remarks=remarks,
            noted=[row for row, remark in enumerate(remarks) if remark not in ("", _IN_NEITHER)],
            pictured=list(pictured),
        )

    def __len__(self) -> int:
        return len(self.remarks)

    def rows(self, number: int) -> Iterator[tuple[int, int, list[str]]]:
        """Case, structure and the texts behind their names, of the first rows."""
        for row in range(min(number, len(self))):
            case, structure = divmod(row, len(self.structures))
            yield case, structure, [*(texts[row] for texts in self.texts), self.remarks[row]]

    def data(self) -> dict[str, Any]:
        """All of it for JSON."""
        return vars(self)


def _remarks(presence: Presence) -> list[str]:
    where = [presence.missed, presence.hardly, presence.extra, presence.absent]
    words = ["missed", f"Dice below {HARDLY}", "not in reference", _IN_NEITHER]
    remarks: list[str] = np.select(where, words, "").ravel().tolist()
    return remarks


def _key(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return float(f"{value:.6g}") if math.isfinite(value) else "Infinity"
