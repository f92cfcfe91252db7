"""Which cases a network is trained on, which choose its weights, and which test it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from recycleseg.data.patients import (
    complete_patients,
    named_patients,
    noticed_patients,
    scans_by_patient,
)
from recycleseg.data.split_files import SPLITS, GivenSplit, Parts, read_given_split
from recycleseg.files import FileError, shortened

NUM_FOLDS = 5
TEST_SHARE = VAL_SHARE = 0.1
_WORDS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class SplitRule:
    """How to split a data set.

    Attributes:
        file: used instead of the split files in the data set; see `read_given_split`.
        fold: number of a fold, from 0; "all" trains on every case that is not tested.
        group_by: where the patients come from; see `named_patients`.
        seed: of parts and folds that no file gives.
    """

    file: Path | None = None
    fold: int | Literal["all"] | None = None
    group_by: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Split:
    """The parts of a data set.

    Attributes:
        parts: "train" | "val" | "test" -> cases.
        patients: case -> patient, of the cases in the parts.
        source: where the parts come from, in words.
        notes: what the user should know about the split, one line each.
    """

    parts: Parts
    patients: Mapping[str, str]
    source: str
    notes: tuple[str, ...]


def choose_split(
    root: Path,
    case_ids: Sequence[str],
    rule: SplitRule | None,
    left_out: Collection[str] = (),
) -> Split:
    """Split the cases of a data set.

    Without a fold, split.json decides, else the first fold of splits_final.json, else the seed.
    With a fold, splits_final.json decides, else the seed. The test part of split.json is held out
    in every fold.

    Args:
        root: folder of the data set.
        case_ids: its cases, sorted.
        rule: how to split; None puts every case into train.
        left_out: other cases that the files may name, which are in no part.

    Raises:
        FileError: a split file is invalid, or scans of a patient that the user names are in
            several parts.
        ValueError: the fold or the patients of `rule` do not fit the data set.
    """
    if rule is None:
        everything = {"train": tuple(case_ids), "val": (), "test": ()}
        return Split(everything, noticed_patients(case_ids), "all cases", ())
    given = read_given_split(root, (*case_ids, *left_out), rule.file).without(left_out)
    named = _named_patients(given, case_ids, rule.group_by)
    patients = noticed_patients(case_ids) if named is None else named
    parts, source, notes = _parts(given, case_ids, patients, rule)
    used = dict.fromkeys(case_id for part in SPLITS for case_id in parts[part])
    sides = shared_patients(parts, patients)
    if named is not None and sides:
        raise FileError(f"{source}: expected all scans of a patient in one part, got {sides[0]}")
    notes += [f"warning: {line}; their scores say too little about new patients" for line in sides]
    notes += [f"warning: {line}" for line in repeated_cases(parts)]
    if named is None and source.startswith("drawn") and not sides:
        notes += noticed_scans(patients)
    if unused := sorted(set(case_ids) - set(used)):
        notes.append(f"{len(unused)} cases stand in no part and are not used: {shortened(unused)}")
    return Split(parts, {c: patients[c] for c in used}, source, tuple(notes))


def shared_patients(parts: Parts, patients: Mapping[str, str]) -> list[str]:
    """What the parts of a split share: one line per pair of parts with scans of the same patients.

    A case that stands in both parts does not count, but another scan of its patient does.

    Args:
        parts: "train" | "val" | "test" -> cases.
        patients: case -> patient.
    """
    lines = []
    for held_out, other in (("test", "train"), ("val", "train"), ("test", "val")):
        scans, elsewhere = (
            scans_by_patient({case_id: patients[case_id] for case_id in parts.get(part, ())})
            for part in (held_out, other)
        )
        pairs = [
            pair
            for patient, cases in scans.items()
            if (pair := _different(cases, elsewhere.get(patient, ())))
        ]
        if pairs:
            lines.append(
                f"{len(pairs)} of {len(scans)} {_WORDS[held_out]} patients have another scan in "
                f"{_WORDS[other]} (for example {pairs[0][0]} and {pairs[0][1]})"
            )
    return lines


def repeated_cases(parts: Parts) -> list[str]:
    """A line if cases stand in several parts of a split.

    Args:
        parts: "train" | "val" | "test" -> cases.
    """
    places: dict[str, list[str]] = {}
    for part in SPLITS:
        for case_id in parts[part]:
            places.setdefault(case_id, []).append(part)
    repeated = {case_id: found for case_id, found in places.items() if len(found) > 1}
    if not repeated:
        return []
    case_id, found = next(iter(repeated.items()))
    count = "1 case stands" if len(repeated) == 1 else f"{len(repeated)} cases stand"
    trained = any("train" in found for found in repeated.values())
    meaning = "say nothing about" if trained else "are too good for"
    return [
        f"{count} in several parts ({case_id} in {', '.join(found)}); the scores of such "
        f"cases {meaning} other cases"
    ]


def noticed_scans(patients: Mapping[str, str]) -> list[str]:
    """A line if the names of cases suggest that a patient has several scans.

    Args:
        patients: case -> patient, from `noticed_patients`.
    """
    several = [cases for cases in scans_by_patient(patients).values() if len(cases) > 1]
    if not several:
        return []
    return [
        f"{sum(map(len, several))} of {len(patients)} cases look like several scans of "
        f"{len(several)} patients (for example {several[0][0]} and {several[0][1]}): each patient "
        "stays in one part; group_by tells who the patients are"
    ]


def draw_parts(
    case_ids: Sequence[str], patients: Mapping[str, str], *, test: float, seed: int
) -> dict[str, tuple[str, ...]]:
    """Divide cases by chance, with all scans of a patient in one part.

    Of a single patient nothing is held out, and of two patients one is for validation.

    Args:
        case_ids: the cases, sorted.
        patients: case -> patient.
        test: share of the patients that are tested.
        seed: of the division.

    Returns:
        "train" | "val" | "test" -> cases.
    """
    order = _shuffled(case_ids, patients, seed)
    num_val = max(1, round(VAL_SHARE * len(order))) if len(order) > 1 else 0
    num_test = max(1, round(test * len(order))) if test > 0 and len(order) > 2 else 0
    num_test = min(num_test, max(0, len(order) - num_val - 1))
    return {
        "train": _sorted_cases(order[num_test + num_val :]),
        "val": _sorted_cases(order[num_test : num_test + num_val]),
        "test": _sorted_cases(order[:num_test]),
    }


def draw_folds(
    case_ids: Sequence[str], patients: Mapping[str, str], *, num_folds: int, seed: int
) -> list[dict[str, tuple[str, ...]]]:
    """Divide cases by chance for cross-validation, with all scans of a patient in one fold.

    Args:
        case_ids: the cases, sorted.
        patients: case -> patient.
        num_folds: how many folds.
        seed: of the division.

    Returns:
        "train" | "val" -> cases, for every fold. Each case is in one `val`.

    Raises:
        ValueError: there are fewer than two folds, or fewer patients than folds.
    """
    order = _shuffled(case_ids, patients, seed)
    if num_folds < 2 or len(order) < num_folds:
        raise ValueError(
            f"folds: expected at least 2 and a patient for each, got {num_folds} folds for "
            f"{len(case_ids)} cases of {len(order)} patients"
        )
    held_out = [_sorted_cases(order[fold::num_folds]) for fold in range(num_folds)]
    return [{"train": _without(case_ids, val), "val": val} for val in held_out]


def _parts(
    given: GivenSplit, case_ids: Sequence[str], patients: Mapping[str, str], rule: SplitRule
) -> tuple[Parts, str, list[str]]:
    """The parts, their source in words, and notes."""
    fold, test = rule.fold, given.parts.get("test", ())
    if fold is None and "train" in given.parts:
        return {part: given.parts.get(part, ()) for part in SPLITS}, given.name, []
    if given.folds:
        return _given_fold(given, test, fold)
    pool = given.cases if "train" in given.parts else set(case_ids)
    rest = _without(sorted(pool), test)
    if not rest:
        raise FileError(f"{given.name}: expected cases besides those under test, got none")
    drawn = f"drawn with seed {rule.seed}"
    if fold is None:
        share = 0 if "test" in given.parts else TEST_SHARE
        parts = draw_parts(rest, patients, test=share, seed=rule.seed)
        return {**parts, "test": test or parts["test"]}, drawn, []
    if fold == "all":
        return {"train": rest, "val": (), "test": test}, "all cases that are not tested", []
    folds = draw_folds(rest, patients, num_folds=NUM_FOLDS, seed=rule.seed)
    source = f"{drawn}: {_fold_of(fold, len(folds))}"
    return {**folds[fold], "test": test}, source, []


def _given_fold(
    given: GivenSplit, test: tuple[str, ...], fold: int | Literal["all"] | None
) -> tuple[Parts, str, list[str]]:
    """One fold of nnU-Net's file, or all its cases, without those that split.json tests."""
    notes = []
    if fold == "all":
        cases = sorted({c for parts in given.folds for part in parts.values() for c in part})
        chosen: Parts = {"train": tuple(cases), "val": ()}
        source = f"all cases of {given.folds_name}"
    else:
        source = f"{_fold_of(fold or 0, len(given.folds))} of {given.folds_name}"
        chosen = given.folds[fold or 0]
        if fold is None and len(given.folds) > 1:
            notes.append(f"fold 0 of {given.folds_name} is used; --fold chooses another one")
    parts = {part: _without(cases, test) for part, cases in chosen.items()}
    if tested := {c for cases in chosen.values() for c in cases} & set(test):
        notes.append(f"{len(tested)} test cases of {given.name} are left out of {source}")
    if not parts["train"]:
        raise FileError(f"{source}: expected training cases that are not tested, got none")
    return {**parts, "test": test}, source, notes


def _fold_of(fold: int, num_folds: int) -> str:
    if not 0 <= fold < num_folds:
        raise ValueError(f"fold: expected 0 to {num_folds - 1} or all, got {fold}")
    return f"fold {fold} of {num_folds}"


def _named_patients(
    given: GivenSplit, case_ids: Sequence[str], group_by: str | None
) -> dict[str, str] | None:
    """The patients that the user names, of all cases that can be used; None without names."""
    usable = sorted(given.cases) if "train" in given.parts or given.folds else case_ids
    if group_by is not None:
        return named_patients(group_by, usable)
    if given.groups is not None:
        return complete_patients(given.groups, usable, f"{given.name}: groups")
    return None


def _different(cases: Iterable[str], others: Iterable[str]) -> tuple[str, str] | None:
    """A case and another one of the others, or None."""
    others = tuple(others)
    return next(((a, b) for a in cases for b in others if a != b), None)


def _shuffled(case_ids: Sequence[str], patients: Mapping[str, str], seed: int) -> list[list[str]]:
    """The cases of every patient, with the patients in random order."""
    groups = list(scans_by_patient({case_id: patients[case_id] for case_id in case_ids}).values())
    return [groups[index] for index in np.random.default_rng(seed).permutation(len(groups))]


def _sorted_cases(groups: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(sorted(case_id for cases in groups for case_id in cases))


def _without(case_ids: Iterable[str], removed: Iterable[str]) -> tuple[str, ...]:
    dropped = set(removed)
    return tuple(case_id for case_id in case_ids if case_id not in dropped)
