"""Which prediction, which reference and which images belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recycleseg.data.volumes import (
    SPATIAL_DIMS,
    case_and_channel,
    case_name,
    file_ending,
    is_series,
)
from recycleseg.files import FileError, listed, read_json_object, shortened
from recycleseg.names import case_problem, printable
from recycleseg.prediction.case_records import RECORD, read_with_cases


@dataclass(frozen=True)
class Pair:
    """The label maps of a case.

    Attributes:
        case_id: name of the case.
        predictions: one file per sampling step; the last is the final prediction.
        reference: file of the reference.
    """

    case_id: str
    predictions: tuple[Path, ...]
    reference: Path


@dataclass(frozen=True)
class Pairs:
    """All cases that have a prediction and a reference.

    Attributes:
        cases: one pair per case.
        roots: the folders of the predictions.
        notes: remarks about the other cases, one line each.
        failed: printable name -> what is wrong with the name, of cases whose name no case may have.
    """

    cases: tuple[Pair, ...]
    roots: tuple[Path, ...]
    notes: tuple[str, ...]
    failed: Mapping[str, str] = field(default_factory=dict)


def find_pairs(preds: Sequence[Path], ref: Path) -> Pairs:
    """Pair folders of label maps with a folder of references by name, or one file with another.

    The two files of a case may have different endings. `steps/step_1` ... in a folder of
    predictions hold the label maps after each sampling step.

    Args:
        preds: folders with different cases, such as the folds of a cross-validation; or one file.
        ref: folder of the references, or one file.

    Raises:
        FileError: a path does not exist, a prediction has no reference, a case is in two folders,
            the folders differ in their number of steps, a step lacks a case, or no case has a
            sound name.
    """
    for name, path in (*(("predictions", pred) for pred in preds), ("references", ref)):
        if not path.exists():
            raise FileError(
                f"{path}: expected {name} (a folder or a file), got a path that does not exist"
            )
    if any(pred.is_file() for pred in preds):
        return _pair_of_files(preds, ref)
    if ref.is_file():
        raise FileError(
            f"{ref}: expected a folder of references because {preds[0]} is a folder, got a file"
        )
    references = _label_maps(ref, "references")
    predictions: dict[str, tuple[Path, ...]] = {}
    failed: dict[str, str] = {}
    for pred in preds:
        found = _all_steps(pred)
        for case_id in tuple(found):
            if problem := case_problem(case_id):
                failed[printable(case_id)] = f"{found.pop(case_id)[-1].parent}: {problem}"
        if missing := [case_id for case_id in found if case_id not in references]:
            raise FileError(
                f"{pred}: expected a reference in {ref} for every prediction, got none for "
                f"{len(missing)} of {len(found)}: {', '.join(missing)}"
            )
        if twice := [case_id for case_id in found if case_id in predictions]:
            others = sorted({str(predictions[case_id][-1].parent) for case_id in twice})
            raise FileError(
                f"{pred}: expected other cases than in {', '.join(others)}, got "
                f"{shortened(twice)} in both"
            )
        predictions.update(found)
    if not predictions:
        raise FileError(listed(f"{preds[0]}: no case can be evaluated", [*failed.values()]))
    _check_steps(predictions)
    notes = []
    others = [c for c in references if c not in predictions and printable(c) not in failed]
    if others:
        notes.append(
            f"{len(others)} of {len(references)} references have no prediction and are left out: "
            f"{shortened(others)}"
        )
    cases = (Pair(case_id, paths, references[case_id]) for case_id, paths in predictions.items())
    return Pairs(tuple(cases), tuple(preds), tuple(notes), failed)


def _pair_of_files(preds: Sequence[Path], ref: Path) -> Pairs:
    """The pair of one prediction and its reference."""
    if len(preds) > 1:
        raise FileError(
            f"predictions: expected folders or one file, got {', '.join(map(str, preds))}"
        )
    (pred,) = preds
    case_id = _case_id(pred)
    if problem := case_problem(case_id):
        raise FileError(f"{pred.parent}: {problem}")
    reference = ref if ref.is_file() else _label_maps(ref, "references").get(case_id)
    if reference is None:
        raise FileError(f"{pred}: expected a reference {case_id} in {ref}, got none")
    return Pairs((Pair(case_id, (pred,), reference),), (pred.parent,), ())


def _all_steps(pred: Path) -> dict[str, tuple[Path, ...]]:
    """case_id -> label maps after every step, of which the last is the final prediction."""
    final = _label_maps(pred, "predictions")
    steps = _find_steps(pred, tuple(final))[:-1]
    return {case_id: (*(step[case_id] for step in steps), path) for case_id, path in final.items()}


def _check_steps(predictions: Mapping[str, tuple[Path, ...]]) -> None:
    """Raise FileError if some cases have the maps of more steps than others."""
    by_count = {len(paths): paths[-1].parent for paths in predictions.values()}
    if len(by_count) > 1:
        got = ", ".join(f"{count} in {folder}" for count, folder in by_count.items())
        raise FileError(f"predictions: expected equally many sampling steps, got {got}")


def find_images(
    preds: Sequence[Path], case_ids: Sequence[str], folder: Path | None = None
) -> dict[str, tuple[Path, ...]]:
    """Find the image files of the cases.

    Args:
        preds: folders of the predictions, or one file.
        case_ids: the cases.
        folder: holds images CASE_0000<ending>, CASE_0001<ending>, ... or CASE<ending>. None takes
            the images that predict.json names, if they still exist.

    Returns:
        case_id -> paths, one per channel. Cases without images are left out.

    Raises:
        FileError: `folder` holds no image of any case.
    """
    if folder is None:
        named: dict[str, Any] = {}
        for pred in preds:
            path = (pred.parent if pred.is_file() else pred) / RECORD
            images = read_with_cases(path).get("images", {}) if path.is_file() else {}
            named.update(images if isinstance(images, Mapping) else {})
        found = {c: tuple(map(Path, named[c])) for c in case_ids if _are_names(named.get(c))}
        return {c: paths for c, paths in found.items() if paths and all(p.exists() for p in paths)}
    wanted = set(case_ids)
    channels: dict[str, list[Path]] = {}
    for path in [*_files(folder), *filter(is_series, folder.iterdir())]:
        name = case_name(path)
        case_id = name if name in wanted else case_and_channel(name)[0]
        if case_id in wanted:
            channels.setdefault(case_id, []).append(path)
    if not channels:
        raise FileError(
            f"{folder}: expected images {case_ids[0]}_0000<ending> or {case_ids[0]}<ending> of the "
            "cases, got none"
        )
    return {case_id: tuple(paths) for case_id, paths in channels.items()}


def describe_origin(preds: Sequence[Path]) -> dict[str, str]:
    """Which models or members made folders of predictions, and how, if predict.json says so."""
    told: dict[str, dict[str, None]] = {}  # keeps the order, and each value once
    for pred in preds:
        for name, value in _origin(pred).items():
            told.setdefault(name, {})[value] = None
    return {name: ", ".join(values) for name, values in told.items()}


def _origin(pred: Path) -> dict[str, str]:
    path = pred / RECORD
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
    known = entries if isinstance(entries, list) else []
    names = [entry.get(key) for entry in known if isinstance(entry, Mapping)]
    return ", ".join(Path(name).name for name in names if isinstance(name, str))


def _label_maps(folder: Path, what: str) -> dict[str, Path]:
    """case_id -> file, sorted; `what` names the label maps in messages."""
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
    if not file_ending(path):
        raise FileError(f"{path}: expected a file ending in {', '.join(SPATIAL_DIMS)}")
    return case_name(path)


def _find_steps(pred: Path, case_ids: tuple[str, ...]) -> list[dict[str, Path]]:
    """Label maps of every sampling step, first to last; empty if none were saved."""
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
                f"{folder}: expected a label map for each of the {len(case_ids)} cases of {pred}, "
                f"got none for {shortened(missing)}"
            )
    return steps
