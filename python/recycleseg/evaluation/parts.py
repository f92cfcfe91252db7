"""Parts of an evaluation that several processes make: kept as files until all are there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from recycleseg.evaluation.case import CaseResult
from recycleseg.evaluation.folder import Evaluation
from recycleseg.files import FileError, read_json_object, write_text
from recycleseg.metrics.scores import Scores
from recycleseg.parts import Part

FOLDER, PATTERN = "parts", "*-of-*.json"

# case_id -> result, of the cases of one evaluation that are in a part.
Results = Mapping[str, CaseResult | str]


def save_part(out: Path, part: Part, known: str, found: Sequence[Results]) -> None:
    """Write the results of a part.

    Args:
        out: folder of the evaluation.
        part: which part.
        known: `identity` before the work.
        found: the results: of the predictions, and of others that they are compared with.
    """
    content = {
        "of": known,
        "results": [
            {c: r if isinstance(r, str) else _as_plain(r) for c, r in results.items()}
            for results in found
        ],
    }
    path = _path(out, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, allow_nan=False))


def missing_parts(out: Path, number: int, known: str) -> list[Part]:
    """The parts of which there are no results with this `identity`."""
    parts = [Part(k, number) for k in range(1, number + 1)]
    return [part for part in parts if _read(_path(out, part)).get("of") != known]


def read_parts(out: Path, number: int, plans: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Of each evaluation the results of all cases, in their order; `missing_parts` gives none."""
    contents = [_read(_path(out, Part(k, number))) for k in range(1, number + 1)]
    merged = []
    for k, plan in enumerate(plans):
        found = {c: r for content in contents for c, r in content["results"][k].items()}
        merged.append({pair.case_id: _result(found[pair.case_id]) for pair in plan.pairs.cases})
    return merged


def identity(plans: Sequence[Evaluation]) -> str:
    """A hash of the options, and of the names, sizes and times of all files."""
    told = [
        {
            "options": plan.options,
            "labels": list(plan.labels.items()),
            "others": [plan.pixel_size, plan.device],
            "patients": list(plan.patients.items()),
            "files": {
                pair.case_id: [_stamp(path) for path in (*pair.predictions, pair.reference)]
                for pair in plan.pairs.cases
            },
        }
        for plan in plans
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _path(out: Path, part: Part) -> Path:
    return out / FOLDER / f"{part.number}-of-{part.of}.json"


def _stamp(path: Path) -> list[Any]:
    try:
        status = path.stat()
    except OSError:  # its case will fail
        return [path.name]
    return [path.name, status.st_size, status.st_mtime_ns]


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except FileError:  # there is none, or it is damaged and the part is made again
        return {}


def _as_plain(result: CaseResult) -> dict[str, Any]:
    steps = [
        {
            **{name: value for name, value in vars(scores).items() if name != "outcomes"},
            # As text, because JSON has no infinite values.
            "table": {m: [repr(float(v)) for v in row[0]] for m, row in scores.table.items()},
            "outcomes": None if scores.outcomes is None else scores.outcomes.tolist(),
        }
        for scores in result.by_step
    ]
    return {**asdict(replace(result, by_step=())), "by_step": steps}


def _result(plain: Any) -> CaseResult | str:
    if isinstance(plain, str):
        return plain
    return CaseResult(**{**plain, "by_step": tuple(map(_scores, plain["by_step"]))})


def _scores(plain: dict[str, Any]) -> Scores:
    tuples = {name: tuple(value) for name, value in plain.items() if isinstance(value, list)}
    table = {m: np.array([[float(v) for v in row]]) for m, row in plain["table"].items()}
    outcomes = None if plain["outcomes"] is None else np.array(plain["outcomes"], np.int64)
    return Scores(**{**plain, **tuples, "table": table, "outcomes": outcomes})
