"""Which prediction belongs to which reference, and to which images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recycleseg.data.volumes import SPATIAL_DIMS, file_ending
from recycleseg.files import FileError, read_json_object, shortened


@dataclass(frozen=True)
class Pair:
    """A case's label maps: after every sampling step, the last one final, and the reference."""

    case_id: str
    predictions: tuple[Path, ...]
    reference: Path


@dataclass(frozen=True)
class Pairs:
    """All cases, and what is to be said of the others.

    root: the folder of the predictions. notes: a line each.
    """

    cases: tuple[Pair, ...]
    root: Path
    notes: tuple[str, ...]


def find_pairs(pred: Path, ref: Path) -> Pairs:
    """Pair a folder of label maps with a folder of references by name, or one file with another.

    The endings of a case's two files may differ. `steps/step_1` ... beside the predictions hold
    those after each sampling step.

    Raises:
        FileError: nothing there, predictions without reference, steps that lack a case.
    """
    for name, path in (("predictions", pred), ("references", ref)):
        if not path.exists():
            raise FileError(f"{path}: expected {name}, a folder or a file, got none there")
    if pred.is_file():
        case_id = _case_id(pred)
        reference = ref if ref.is_file() else _label_maps(ref, "references").get(case_id)
        if reference is None:
            raise FileError(f"{pred}: expected a reference {case_id} in {ref}, got none")
        return Pairs((Pair(case_id, (pred,), reference),), pred.parent, ())
    if ref.is_file():
        raise FileError(f"{ref}: expected a folder of references, as {pred} is one, got a file")
    predictions, references = _label_maps(pred, "predictions"), _label_maps(ref, "references")
    if missing := [case_id for case_id in predictions if case_id not in references]:
        raise FileError(
            f"{pred}: expected a reference in {ref} for every prediction, got none for "
            f"{len(missing)} of {len(predictions)}: {', '.join(missing)}"
        )
    notes = []
    if others := [case_id for case_id in references if case_id not in predictions]:
        notes.append(
            f"{len(others)} of {len(references)} references have no prediction and are left out: "
            f"{shortened(others)}"
        )
    steps = _find_steps(pred, tuple(predictions))
    return Pairs(
        tuple(
            # The last step is the final prediction.
            Pair(case_id, (*(step[case_id] for step in steps[:-1]), path), references[case_id])
            for case_id, path in predictions.items()
        ),
        pred,
        tuple(notes),
    )


def find_images(
    pred: Path, case_ids: Sequence[str], folder: Path | None = None
) -> dict[str, tuple[Path, ...]]:
    """Image files of the cases, one a channel: case_id -> paths, without those that have none.

    Those in `folder` named CASE_0000<ending>, CASE_0001<ending>, ... or CASE<ending>; without
    one, those that predict.json names and that are still there.

    Raises:
        FileError: a folder without an image of any case.
    """
    if folder is None:
        root = pred.parent if pred.is_file() else pred
        path = root / "predict.json"
        listed = read_json_object(path).get("images", {}) if path.is_file() else {}
        named = listed if isinstance(listed, Mapping) else {}
        found = {c: tuple(map(Path, named[c])) for c in case_ids if _are_names(named.get(c))}
        return {c: paths for c, paths in found.items() if paths and all(p.is_file() for p in paths)}
    wanted = set(case_ids)
    channels: dict[str, list[Path]] = {}
    for path in _files(folder):
        name = path.name.removesuffix(file_ending(path))
        case_id = name if name in wanted else re.sub(r"_\d{4}$", "", name)
        if case_id in wanted:
            channels.setdefault(case_id, []).append(path)
    if not channels:
        raise FileError(
            f"{folder}: expected images {case_ids[0]}_0000<ending> or {case_ids[0]}<ending> of the "
            "cases, got none"
        )
    return {case_id: tuple(paths) for case_id, paths in channels.items()}


def describe_origin(pred: Path) -> dict[str, str]:
    """Which models or members made a folder of predictions, and how; as far as it says."""
    path = pred / "predict.json"
    record = read_json_object(path) if path.is_file() else {}
    options = record.get("options")
    options = options if isinstance(options, Mapping) else {}
    made = {
        "models": _names(record.get("models"), "run"),
        "members": _names(record.get("members"), "folder"),
        "method": options.get("method"),
        "sampler": options.get("sampler"),
        "sampling steps": options.get("num_steps"),
        "samples": options.get("samples"),
    }
    return {name: str(value) for name, value in made.items() if value}


def _are_names(entry: Any) -> bool:
    return isinstance(entry, list) and all(isinstance(name, str) for name in entry)


def _names(entries: Any, key: str) -> str:
    listed = entries if isinstance(entries, list) else []
    names = [entry.get(key) for entry in listed if isinstance(entry, Mapping)]
    return ", ".join(Path(name).name for name in names if isinstance(name, str))


def _label_maps(folder: Path, what: str) -> dict[str, Path]:
    """case_id -> file, sorted."""
    found: dict[str, Path] = {}
    for path in _files(folder):
        case_id = _case_id(path)
        if case_id in found:
            raise FileError(
                f"{folder}: expected one label map per case, got {found[case_id].name} and "
                f"{path.name}"
            )
        found[case_id] = path
    if not found:
        raise FileError(f"{folder}: expected {what} ({', '.join(SPATIAL_DIMS)}), got none")
    return found


def _files(folder: Path) -> list[Path]:
    paths = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in paths if file_ending(path) and path.is_file())


def _case_id(path: Path) -> str:
    ending = file_ending(path)
    if not ending:
        raise FileError(f"{path}: expected a file ending in {', '.join(SPATIAL_DIMS)}")
    return path.name.removesuffix(ending)


def _find_steps(pred: Path, case_ids: tuple[str, ...]) -> list[dict[str, Path]]:
    """Label maps of every sampling step, first to last; empty: none were saved."""
    root = pred / "steps"
    inside = root.iterdir() if root.is_dir() else ()
    folders = [path for path in inside if path.is_dir() and _files(path)]
    if not folders:
        return []
    expected = [root / f"step_{k}" for k in range(1, len(folders) + 1)]
    if set(folders) != set(expected):
        got = ", ".join(sorted(path.name for path in folders))
        raise FileError(f"{root}: expected step_1 to step_{len(folders)}, got {got}")
    steps = [_label_maps(folder, "label maps") for folder in expected]
    for folder, step in zip(expected, steps, strict=True):
        if missing := [case_id for case_id in case_ids if case_id not in step]:
            raise FileError(
                f"{folder}: expected a label map of each of the {len(case_ids)} cases of {pred}, "
                f"got none of {shortened(missing)}"
            )
    return steps
