"""predict.json: how the predictions in a folder were made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recycleseg.config import TrainConfig
from recycleseg.data.preprocess import Plan

# Options that say where and how fast, not what comes out.
FREE_OPTIONS = ("device", "threads", "window_batch")


def make_record(
    runs: Sequence[Path],
    configs: Sequence[TrainConfig],
    plan: Plan,
    file_ending: str,
    *,
    options: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """What predict.json tells before there is a prediction.

    configs: of the runs, with the sampling that was asked for. options: what else was asked for.
    environment: versions and machine.
    """
    settings = [
        {
            **asdict(config.sampling),
            "seed": config.seed,
            "overlap": config.patch.overlap,
            "postprocess": asdict(config.postprocess),
        }
        for config in configs
    ]
    record = {
        "models": [{"run": str(run.resolve()), "sha256": _weights_hash(run)} for run in runs],
        "options": {**_common(settings), **options},
        "dataset": {
            "labels": _labels(plan),
            "channel_names": {str(c): name for c, name in enumerate(plan.channel_names)},
            "file_ending": file_ending,
        },
        "environment": environment,
    }
    as_json: dict[str, Any] = json.loads(json.dumps(record))
    return as_json


def _common(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each setting once where it is the same everywhere, else as a list."""
    columns = {key: [values[key] for values in settings] for key in settings[0]}
    return {
        key: column[0] if all(value == column[0] for value in column) else column
        for key, column in columns.items()
    }


def _labels(plan: Plan) -> dict[str, Any]:
    """`labels` of the data set's dataset.json."""
    if plan.regions is None:
        return {name: value for value, name in enumerate(plan.class_names)}
    regions = zip(plan.class_names, map(list, plan.regions), strict=True)
    return {"background": 0, **dict(regions)}


def _weights_hash(run: Path) -> str:
    return hashlib.sha256((run / "checkpoints" / "best.safetensors").read_bytes()).hexdigest()


def read_record(path: Path) -> dict[str, Any]:
    """A predict.json that was written; ValueError naming the file where it is another."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(record[key], dict) for key in ("images", "seconds", "failed")):
            raise ValueError("no images, seconds and failed")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected a record of recycle-predict, got {error}") from error
    return dict(record)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What decides the predictions and is not the same in two records; the files' places do not."""
    options = (old.get("options", {}), new["options"])
    names = [name for name in {**options[0], **options[1]} if name not in FREE_OPTIONS]
    changed = [
        f"{name} was {options[0].get(name)!r}, is {options[1].get(name)!r}"
        for name in names
        if options[0].get(name) != options[1].get(name)
    ]
    before, now = (record.get("models", []) for record in (old, new))
    if [model["sha256"] for model in before] != [model["sha256"] for model in now]:
        were, are = ([model["run"] for model in models] for models in (before, now))
        moved = f"models were {were}, are {are}"
        changed.insert(0, moved if were != are else f"weights of {are} have changed")
    return changed
