"""`metrics.csv`, every number of an evaluation: how to write it and read it again."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recycleseg.classes import parse_labels
from recycleseg.evaluation.folder import FolderScores
from recycleseg.files import FileError, read_json_object
from recycleseg.metrics.scores import Scores
from recycleseg.names import csv_cell, name_in_cell

_INDEX = ("case", "step", "label")


def metrics_csv(scores: FolderScores) -> str:
    """One row per case, sampling step (from 1) and label; values may be "nan" and "inf".

    Names are escaped, so that no spreadsheet takes them for formulas; see `csv_cell`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_INDEX, *scores.by_step[0].metrics])
    for b, case_id in enumerate(scores.case_ids):
        for step, of_step in enumerate(scores.by_step, 1):
            for c, label in enumerate(scores.labels):
                values = [float(values[b, c]) for values in of_step.table.values()]
                writer.writerow([csv_cell(case_id), step, csv_cell(label), *values])
    return text.getvalue()


def read_evaluation(folder: Path) -> FolderScores:
    """The scores in an evaluation folder, from its metrics.csv and summary.json.

    Raises:
        FileError: a file is missing, or its content is not what `recycle-evaluate` writes.
    """
    path = folder / "summary.json"
    if not path.is_file():
        raise FileError(
            f"{path}: expected this file beside metrics.csv, got a path that does not exist"
        )
    summary = read_json_object(path)
    try:
        settings, names = summary["settings"], summary["class_names"]
        unit = summary.get("unit", "mm")  # evaluations of earlier versions lack it
        labels = parse_labels({name: _values(key) for key, name in names.items()}, str(path))
        files = [
            (Path(case["prediction_file"]), Path(case["reference_file"]))
            for case in summary["metric_per_case"]
        ]
        hashes = dict(summary.get("reference_sha256", {}))
        blank = Scores(
            labels=tuple(labels),
            table={},
            batched=True,
            spacing=None,
            unit=unit,
            tolerances_mm=tuple(settings[f"tolerances_{unit}"]),
            percentile=settings["percentile"],
            definitions=tuple(settings["definitions"]),
            border_is_outside=settings["border_is_outside"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(
            f"{path}: expected a summary of recycle-evaluate, got one without {error}"
        ) from error
    case_ids, metrics, values = _read_table(folder / "metrics.csv", tuple(labels))
    if len(files) != len(case_ids):
        raise FileError(
            f"{path}: expected the {len(case_ids)} cases of metrics.csv, got {len(files)}"
        )
    return FolderScores(
        case_ids=case_ids,
        labels=labels,
        by_step=tuple(
            replace(blank, table={m: step[..., i] for i, m in enumerate(metrics)})
            for step in values
        ),
        prediction_files={c: pred for c, (pred, _) in zip(case_ids, files, strict=True)},
        reference_files={c: ref for c, (_, ref) in zip(case_ids, files, strict=True)},
        prediction_roots=tuple(dict.fromkeys(pred.parent for pred, _ in files)),
        ignore_label=settings.get("ignore_label"),
        reference_hashes=hashes,
        patients=dict(summary.get("patients", {})),
    )


def _read_table(
    path: Path, labels: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...], NDArray[np.float64]]:
    """Cases, metrics, and values (steps, cases, labels, metrics) of metrics.csv."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{path}: expected a table in UTF-8, got: {error}") from error
    metrics = tuple(header[len(_INDEX) :])
    if tuple(header[: len(_INDEX)]) != _INDEX or not metrics:
        raise FileError(f"{path}: expected columns {', '.join(_INDEX)} and metrics")
    case_ids = tuple(dict.fromkeys(name_in_cell(row[0]) for row in rows if row))
    per_case = len(rows) // max(1, len(case_ids))
    num_steps = per_case // len(labels)
    expected = [
        [csv_cell(case_id), str(step), csv_cell(label)]
        for case_id in case_ids
        for step in range(1, num_steps + 1)
        for label in labels
    ]
    is_whole = all(len(row) == len(header) for row in rows)
    if not rows or not is_whole or [row[: len(_INDEX)] for row in rows] != expected:
        raise FileError(
            f"{path}: expected one row per case, step and label ({', '.join(labels)}), in this "
            "order"
        )
    try:
        values = np.array([row[len(_INDEX) :] for row in rows], dtype=np.float64)
    except ValueError as error:
        raise FileError(f"{path}: expected numbers, got: {error}") from error
    table = values.reshape(len(case_ids), num_steps, len(labels), len(metrics))
    return case_ids, metrics, table.swapaxes(0, 1)


def _values(key: str) -> Any:
    """The label value, or the values of a region, that nnU-Net's key stands for."""
    values = [int(value) for value in key.strip("()").split(",") if value.strip()]
    if key.startswith("("):
        return values
    if len(values) != 1:
        raise ValueError(f"a label value as key, but with {key!r}")
    return values[0]
