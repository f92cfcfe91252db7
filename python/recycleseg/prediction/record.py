"""predict.json: how the predictions in a folder were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recycleseg.data.identity import content_hash
from recycleseg.data.preprocess import Plan
from recycleseg.data.volumes import file_ending as ending_of
from recycleseg.files import FileError, as_json
from recycleseg.prediction.case_records import BY_CASE, read_with_cases
from recycleseg.prediction.ensemble import Ensemble
from recycleseg.run.config import TrainConfig
from recycleseg.run.folder import RunFolder

# Options that decide where and how fast the work runs, but not its result.
FREE_OPTIONS = ("device", "threads", "window_batch")
_PARTS = ("options", "dataset", *BY_CASE)
_LISTED = {"models": ("run", "sha256"), "members": ("folder", "probabilities")}


def make_record(
    runs: Sequence[Path],
    configs: Sequence[TrainConfig],
    plan: Plan,
    file_ending: str,
    *,
    options: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """What recycle-predict writes to predict.json before the first prediction.

    Args:
        runs: the run folders.
        configs: configuration of each run, with the sampling options that were asked for.
        plan: preprocessing of the first run.
        file_ending: of the images.
        options: the other options of the command.
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
        "models": [
            {"run": str(run.resolve()), "sha256": content_hash(RunFolder(run).best)} for run in runs
        ],
        "options": {**_common(settings), **options},
        "dataset": {
            **plan.classes.description,
            "channel_names": {str(c): name for c, name in enumerate(plan.channel_names)},
            "file_ending": file_ending,
        },
        "environment": environment,
    }
    return dict(as_json(record))


def make_ensemble_record(ensemble: Ensemble, *, environment: Mapping[str, Any]) -> dict[str, Any]:
    """What recycle-ensemble writes to predict.json before the first case; see `make_record`."""
    members = ensemble.members
    described = next((m.description for m in members if m.described_by is not None), {})
    record = {
        "members": [
            {"folder": str(m.root.absolute()), "probabilities": m.has_probs} for m in members
        ],
        "options": {**asdict(ensemble.options), "method": ensemble.method},
        "dataset": {
            **ensemble.classes.description,
            "channel_names": described.get("channel_names"),
            "file_ending": ending_of(next(iter(members[0].maps.values()))),
        },
        "environment": environment,
    }
    return dict(as_json(record))


def _common(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each setting once if all runs share it, otherwise as a list with one value per run."""
    columns = {key: [values[key] for values in settings] for key in settings[0]}
    return {
        key: column[0] if all(value == column[0] for value in column) else column
        for key, column in columns.items()
    }


def read_record(path: Path) -> dict[str, Any]:
    """Read a predict.json and what stands beside it of cases.

    Records of earlier versions get `contents` without a case.

    Raises:
        FileError: the file is not such a record.
    """
    record = {"contents": {}, **read_with_cases(path)}
    if missing := [part for part in _PARTS if not isinstance(record.get(part), dict)]:
        raise FileError(
            f"{path}: expected a record of recycle-predict or recycle-ensemble, got one without "
            f"{', '.join(missing)}"
        )
    for part, keys in _LISTED.items():
        entries = record.get(part, [])
        if not isinstance(entries, list) or not all(_has(entry, keys) for entry in entries):
            raise FileError(
                f"{path}: {part}: expected a list of records with {' and '.join(keys)}, got another"
            )
    return record


def _has(entry: Any, keys: Sequence[str]) -> bool:
    return isinstance(entry, dict) and all(key in entry for key in keys)


def command_of(record: Mapping[str, Any]) -> str:
    """The command that writes such records."""
    return "recycle-ensemble" if "members" in record else "recycle-predict"


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, same_inputs: bool = False
) -> list[str]:
    """What differs between two records of one command, among all that decides the predictions.

    Models are compared by their weights, not by their folders.

    Args:
        old: the earlier record.
        new: the later record.
        same_inputs: whether the cases are known to be made from the same contents; then the
            members may be in other folders.
    """
    return [
        *_other_models(old, new),
        *_other_members(old, new, same_inputs),
        *_other_values(old["options"], new["options"], FREE_OPTIONS),
        # One folder may hold predictions of images of several file formats.
        *_other_values(
            old["dataset"], new["dataset"], () if "members" in new else ("file_ending",)
        ),
    ]


def _other_models(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    before, now = (record.get("models", []) for record in (old, new))
    if [model["sha256"] for model in before] == [model["sha256"] for model in now]:
        return []
    were, are = ([model["run"] for model in models] for models in (before, now))
    return [f"models were {were}, are {are}" if were != are else f"weights of {are} have changed"]


def _other_members(old: Mapping[str, Any], new: Mapping[str, Any], same_inputs: bool) -> list[str]:
    before, now = (record.get("members", []) for record in (old, new))
    if before == now:
        return []
    were, are = ([member["folder"] for member in members] for members in (before, now))
    if len(were) != len(are) or (were != are and not same_inputs):
        return [f"members were {were}, are {are}"]
    had, have = ([member["probabilities"] for member in members] for members in (before, now))
    return [f"probabilities in {are} were {had}, are {have}"] if had != have else []


def _other_values(old: Mapping[str, Any], new: Mapping[str, Any], free: Sequence[str]) -> list[str]:
    return [
        f"{name} was {old.get(name)!r}, is {new.get(name)!r}"
        for name in {**old, **new}
        if name not in free and old.get(name) != new.get(name)
    ]
