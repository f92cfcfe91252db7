"""The table that an evaluation gives."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recycleseg.metrics.aggregate import Summary, summarise
from recycleseg.units import Unit


@dataclass(frozen=True, eq=False)
class Scores(Mapping[str, dict[str, Any]]):
    """Metrics of every structure: `scores["liver"]["hd95"]` is a float, of a batch an array (B,).

    labels: the C structures' names. table: metric -> float64 (B, C). batched: whether a batch was
    evaluated, rather than one case, where B is 1. unit: of distances and tolerances: "mm", or
    "pixels" where the spacing is unknown. spacing: in mm; None where it is unknown, or where cases
    of different spacing were joined. tolerances_mm (in `unit`), percentile, definitions,
    border_is_outside: as they were asked for; see `evaluate`. outcomes: int64 (B, C, 4), voxels
    that are true positives, false positives, false negatives and true negatives; None where scores
    were read from a file.
    """

    labels: tuple[str, ...]
    table: dict[str, NDArray[np.float64]]
    batched: bool
    spacing: tuple[float, ...] | None
    tolerances_mm: tuple[float, ...]
    percentile: float
    definitions: tuple[str, ...]
    border_is_outside: bool
    outcomes: NDArray[np.int64] | None = None
    unit: Unit = "mm"

    @classmethod
    def join(cls, scores: Iterable[Scores]) -> Scores:
        """One batch of all cases of several evaluations of the same structures and metrics."""
        parts = list(scores)
        if not parts:
            raise ValueError("scores: expected at least one, got none")
        first = parts[0]
        for other in parts[1:]:
            for name in ("labels", "unit", "tolerances_mm", "percentile", "definitions"):
                expected, got = getattr(first, name), getattr(other, name)
                if expected != got:
                    raise ValueError(f"scores: expected the same {name}, got {expected} and {got}")
            if first.border_is_outside != other.border_is_outside or [*first.table] != [
                *other.table
            ]:
                raise ValueError("scores: expected the same metrics of the same surfaces")
        outcomes = [part.outcomes for part in parts if part.outcomes is not None]
        return replace(
            first,
            outcomes=np.concatenate(outcomes) if len(outcomes) == len(parts) else None,
            table={m: np.concatenate([part.table[m] for part in parts]) for m in first.table},
            batched=True,
            spacing=first.spacing if len({part.spacing for part in parts}) == 1 else None,
        )

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics."""
        return tuple(self.table)

    @property
    def num_cases(self) -> int:
        """B."""
        return len(next(iter(self.table.values())))

    def __getitem__(self, label: str) -> dict[str, Any]:
        if label not in self.labels:
            raise KeyError(f"{label!r}; there are {', '.join(map(repr, self.labels))}")
        c = self.labels.index(label)
        if self.batched:
            return {metric: values[:, c] for metric, values in self.table.items()}
        return {metric: float(values[0, c]) for metric, values in self.table.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self) -> list[dict[str, Any]]:
        """A row for every case (its number; of a batch alone) and structure: column -> value."""
        return [
            ({"case": b} if self.batched else {})
            | {"label": label}
            | {metric: float(values[b, c]) for metric, values in self.table.items()}
            for b in range(self.num_cases)
            for c, label in enumerate(self.labels)
        ]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the rows, with a header; "nan" and "inf" stand as such."""
        rows = self.rows()
        header = [*(["case"] if self.batched else []), "label", *self.table]
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, header)
            writer.writeheader()
            writer.writerows(rows)

    def aggregate(self) -> dict[str, dict[str, Summary]]:
        """label -> metric -> mean, std and median over the finite values of all cases, and counts
        of NaN and inf beside them."""
        return {
            label: {metric: summarise(values[:, c]) for metric, values in self.table.items()}
            for c, label in enumerate(self.labels)
        }

    def __str__(self) -> str:
        """An aligned table: a metric a line, or of a batch a case and structure a line."""
        head = ["case", "label"] if self.batched else ["label"]
        cells = [[*head, *self.table]]
        for row in self.rows():
            cells.append([f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()])
        if not self.batched:
            cells = [list(column) for column in zip(*cells, strict=True)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        left = len(head)
        lines = [
            "  ".join(
                cell.ljust(width) if i < left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        ]
        return "\n".join([*lines, self._conditions()])

    def _conditions(self) -> str:
        sizes = " x ".join(f"{s:g}" for s in self.spacing) if self.spacing else "different"
        spacing = f"{sizes} mm" if self.unit == "mm" else "unknown, so distances are in pixels"
        tolerances = ", ".join(f"{t:g}" for t in self.tolerances_mm)
        border = "outside" if self.border_is_outside else "inside"
        return (
            f"surfaces: {', '.join(self.definitions)}; spacing {spacing}; "
            f"tolerance {tolerances} {self.unit}; the volume's border counts as {border}"
        )
