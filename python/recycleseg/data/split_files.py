"""The files that split a data set.

DIR/split.json           {"train": [...], "val": [...], "test": [...], "groups": {case: patient}}
DIR/splits_final.json    nnU-Net's folds: [{"train": [...], "val": [...]}, ...]

Every entry of split.json is optional. Without "train" it only says which cases are tested and who
the patients are; the other cases are divided by the folds or by chance.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recycleseg.files import (
    FileError,
    read_json,
    read_json_object,
    shortened,
    write_json,
    written_whole,
)

SPLITS = ("train", "val", "test")
SPLIT_FILE, FOLDS_FILE = "split.json", "splits_final.json"

Parts = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class GivenSplit:
    """What the files say.

    Attributes:
        parts: the parts that split.json names.
        groups: case -> patient, or None.
        name: of split.json in messages.
        folds: "train" and "val" of every fold of nnU-Net's file; empty without it.
        folds_name: of nnU-Net's file in messages.
    """

    parts: Parts = field(default_factory=dict)
    groups: Mapping[str, str] | None = None
    name: str = SPLIT_FILE
    folds: tuple[Parts, ...] = ()
    folds_name: str = FOLDS_FILE

    @property
    def cases(self) -> set[str]:
        """All cases that the files name."""
        lists = [*self.parts.values(), *(cases for fold in self.folds for cases in fold.values())]
        return {case_id for cases in lists for case_id in cases}

    def without(self, case_ids: Collection[str]) -> GivenSplit:
        """The same without some cases."""

        def rest(parts: Parts) -> Parts:
            return {n: tuple(c for c in cases if c not in case_ids) for n, cases in parts.items()}

        return replace(self, parts=rest(self.parts), folds=tuple(map(rest, self.folds)))


def read_given_split(root: Path, case_ids: Iterable[str], file: Path | None = None) -> GivenSplit:
    """Read the split files of a data set.

    Args:
        root: folder of the data set.
        case_ids: its cases.
        file: used instead of the files in `root`. If it holds folds, split.json in `root` still
            says which cases are tested and who the patients are.

    Raises:
        FileError: a file is invalid or names unknown cases.
    """
    known = set(case_ids)
    content = None if file is None else read_json(file)
    if isinstance(content, dict):
        return _parts_of(content, str(file), known)
    inside, folds_path = root / SPLIT_FILE, root / FOLDS_FILE
    given = GivenSplit()
    if inside.exists():
        given = _parts_of(read_json_object(inside), SPLIT_FILE, known)
    if file is not None:
        tested = {part: cases for part, cases in given.parts.items() if part == "test"}
        folds = _folds_of(content, str(file), known)
        return replace(given, parts=tested, folds=folds, folds_name=str(file))
    if folds_path.exists():
        return replace(given, folds=_folds_of(read_json(folds_path), FOLDS_FILE, known))
    return given


def read_groups(root: Path) -> dict[str, str] | None:
    """The patients that split.json in a data set names: case_id -> patient.

    Raises:
        FileError: the file is invalid.
    """
    path = root / SPLIT_FILE
    return _groups_of(read_json_object(path).get("groups"), str(path)) if path.exists() else None


def write_split(root: Path, parts: Parts, groups: Mapping[str, str] | None) -> list[Path]:
    """Write split.json.

    Files of an earlier split get other names, because they may be made by hand or by nnU-Net.

    Returns:
        The new paths of earlier files, such as split-before-1.json.
    """
    named = {} if groups is None else {"groups": dict(groups)}
    kept = _put_aside(root)
    write_json(root / SPLIT_FILE, {**{part: list(cases) for part, cases in parts.items()}, **named})
    return kept


def write_folds(
    root: Path, folds: Sequence[Parts], test: Sequence[str], groups: Mapping[str, str] | None
) -> list[Path]:
    """Write splits_final.json; split.json keeps what nnU-Net's format has no place for.

    Returns:
        See `write_split`.
    """
    rest = {
        **({"test": list(test)} if test else {}),
        **({} if groups is None else {"groups": dict(groups)}),
    }
    kept = _put_aside(root)
    if rest:  # first, so that tested cases stay so if the program is killed here
        write_json(root / SPLIT_FILE, rest)
    else:
        (root / SPLIT_FILE).unlink(missing_ok=True)
    write_json(root / FOLDS_FILE, [{name: list(c) for name, c in fold.items()} for fold in folds])
    return kept


def _put_aside(root: Path) -> list[Path]:
    """Copy split.json and rename splits_final.json, which leaves a whole split at any moment."""
    kept = []
    for name in (SPLIT_FILE, FOLDS_FILE):
        path = root / name
        if not os.path.lexists(path):
            continue
        number = 1
        while os.path.lexists(aside := path.with_stem(f"{path.stem}-before-{number}")):
            number += 1
        if name == FOLDS_FILE:
            path.rename(aside)
        else:
            with written_whole(aside) as temporary:
                shutil.copyfile(path, temporary)
        kept.append(aside)
    return kept


def _parts_of(content: dict[str, Any], name: str, known: set[str]) -> GivenSplit:
    lists = {part: cases for part, cases in content.items() if part != "groups"}
    if not set(lists) <= set(SPLITS) or not all(_is_list_of_names(c) for c in lists.values()):
        raise FileError(
            f"{name}: expected lists of case names under {SPLITS} and groups, got {sorted(content)}"
        )
    parts = {part: tuple(map(str, lists[part])) for part in SPLITS if part in lists}
    problems = _list_problems(parts, known)
    if ("train" in parts or "val" in parts) and not parts.get("train"):
        problems.append("expected at least one case under train, got none")
    if problems:
        raise FileError("; ".join(f"{name}: {problem}" for problem in problems))
    return GivenSplit(parts, _groups_of(content.get("groups"), name), name)


def _groups_of(groups: Any, name: str) -> dict[str, str] | None:
    if groups is None:
        return None
    if not isinstance(groups, dict) or not all(
        isinstance(patient, (str, int)) and str(patient) for patient in groups.values()
    ):
        raise FileError(f"{name}: groups: expected case -> patient, got {json.dumps(groups)[:80]}")
    return {case_id: str(patient) for case_id, patient in groups.items()}


def _folds_of(content: Any, name: str, known: set[str]) -> tuple[Parts, ...]:
    if not (
        isinstance(content, list)
        and content
        and all(isinstance(f, dict) and set(f) == {"train", "val"} for f in content)
        and all(_is_list_of_names(cases) for fold in content for cases in fold.values())
    ):
        raise FileError(
            f'{name}: expected nnU-Net\'s folds [{{"train": [...], "val": [...]}}, ...], got '
            f"{json.dumps(content)[:80]}"
        )
    folds = [{part: tuple(map(str, fold[part])) for part in ("train", "val")} for fold in content]
    for k, fold in enumerate(folds):
        problems = _list_problems(fold, known)
        if not fold["train"]:
            problems.append("expected at least one case under train, got none")
        if problems:
            raise FileError("; ".join(f"{name}: fold {k}: {problem}" for problem in problems))
    return tuple(folds)


def _is_list_of_names(cases: Any) -> bool:
    return isinstance(cases, list) and all(isinstance(c, (str, int)) for c in cases)


def _list_problems(parts: Parts, known: set[str]) -> list[str]:
    """Unknown cases, and cases twice in one list."""
    problems = []
    if unknown := sorted({c for cases in parts.values() for c in cases} - known):
        problems.append(f"expected cases of imagesTr, got unknown {unknown}")
    for part, cases in parts.items():
        if twice := sorted(c for c, count in Counter(cases).items() if count > 1):
            problems.append(f"expected every case once under {part}, got {shortened(twice)} twice")
    return problems
