"""Choosing a split: files, folds and the seed; patients stay in one part."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from recycleseg.data.splits import (
    Split,
    SplitRule,
    choose_split,
    draw_folds,
    draw_parts,
    shared_patients,
)
from recycleseg.files import FileError

CASES = tuple(f"c{case:02}" for case in range(20))
SCANS = tuple(f"p{patient:02}_{phase}" for patient in range(10) for phase in ("ED", "ES"))
FOLDS = [{"train": ["c00", "c01"], "val": ["c02"]}, {"train": ["c02", "c01"], "val": ["c00"]}]


def choose(
    root: Path,
    rule: SplitRule = SplitRule(),  # noqa: B008
    *,
    cases: tuple[str, ...] = CASES,
    split: Any = None,
    folds: Any = None,
) -> Split:
    for name, content in (("split.json", split), ("splits_final.json", folds)):
        if content is not None:
            (root / name).write_text(json.dumps(content))
    return choose_split(root, cases, rule)


def sizes(split: Split) -> list[int]:
    return [len(split.parts[part]) for part in ("train", "val", "test")]


def test_drawn_parts_use_every_case_once(tmp_path: Path) -> None:
    split = choose(tmp_path, SplitRule(seed=3))
    assert sizes(split) == [16, 2, 2]
    assert sorted(sum(split.parts.values(), ())) == list(CASES)
    assert choose(tmp_path, SplitRule(seed=3)) == split
    assert choose(tmp_path, SplitRule(seed=4)).parts != split.parts
    assert (split.source, split.notes) == ("drawn with seed 3", ())


@pytest.mark.parametrize(("count", "expected"), [(1, [1, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 1])])
def test_few_cases(tmp_path: Path, count: int, expected: list[int]) -> None:
    assert sizes(choose(tmp_path, cases=CASES[:count])) == expected


def test_a_large_share_of_tests_leaves_a_case_to_train_on() -> None:
    patients = {case_id: case_id for case_id in CASES[:4]}
    parts = draw_parts(CASES[:4], patients, test=0.99, seed=0)
    assert [len(cases) for cases in parts.values()] == [1, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_noticed_patients_stay_in_one_part(tmp_path: Path, seed: int) -> None:
    split = choose(tmp_path, SplitRule(seed=seed), cases=SCANS)
    assert sizes(split) == [16, 2, 2]
    assert shared_patients(split.parts, split.patients) == []
    assert split.notes == (
        "20 of 20 cases look like several scans of 10 patients (for example p00_ED and p00_ES): "
        "each patient stays in one part; group_by tells who the patients are",
    )


@pytest.mark.parametrize("seed", range(5))
def test_drawn_folds_hold_every_patient_out_once(tmp_path: Path, seed: int) -> None:
    splits = [choose(tmp_path, SplitRule(fold=k, seed=seed), cases=SCANS) for k in range(5)]
    assert sorted(case_id for split in splits for case_id in split.parts["val"]) == sorted(SCANS)
    for split in splits:
        assert sizes(split) == [16, 4, 0]
        assert set(split.parts["train"]) | set(split.parts["val"]) == set(SCANS)
        assert shared_patients(split.parts, split.patients) == []


def test_named_patients_win_over_noticed_ones(tmp_path: Path) -> None:
    # Phases as patients: two patients, of which one is for validation.
    split = choose(tmp_path, SplitRule(group_by="E[DS]$"), cases=SCANS)
    assert sizes(split) == [10, 10, 0]
    assert split.notes == ()
    groups = {case_id: case_id[:2] for case_id in CASES}  # c0 and c1
    split = choose(tmp_path, split={"groups": groups})
    assert sizes(split) == [10, 10, 0]
    assert split.patients == groups
    assert sizes(choose(tmp_path, SplitRule(group_by=".+"))) == [16, 2, 2]


def test_given_parts(tmp_path: Path) -> None:
    given = {"train": ["c03", "c00"], "val": ["c01"]}
    split = choose(tmp_path, split=given, folds=FOLDS)
    assert split.parts == {"train": ("c03", "c00"), "val": ("c01",), "test": ()}
    assert split.source == "split.json"
    assert split.notes == (
        "17 cases stand in no part and are not used: c02, c04, c05, c06, c07 and 12 more",
    )


def test_given_folds(tmp_path: Path) -> None:
    first = choose(tmp_path, cases=CASES[:3], folds=FOLDS)
    assert first.parts == {"train": ("c00", "c01"), "val": ("c02",), "test": ()}
    assert first.source == "fold 0 of 2 of splits_final.json"
    assert first.notes == ("fold 0 of splits_final.json is used; --fold chooses another one",)
    second = choose(tmp_path, SplitRule(fold=1), cases=CASES[:3])
    assert second.parts == {"train": ("c02", "c01"), "val": ("c00",), "test": ()}
    assert second.notes == ()
    every = choose(tmp_path, SplitRule(fold="all"), cases=CASES[:3])
    assert every.parts == {"train": CASES[:3], "val": (), "test": ()}
    with pytest.raises(ValueError, match="fold: expected 0 to 1 or all, got 2"):
        choose(tmp_path, SplitRule(fold=2), cases=CASES[:3])


def test_folds_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "preprocessed.json"
    path.write_text(json.dumps(FOLDS))
    given = {"train": ["c05"], "val": ["c06"], "test": ["c07"]}
    split = choose(tmp_path, SplitRule(file=path, fold=1), split=given)
    assert split.parts == {"train": ("c02", "c01"), "val": ("c00",), "test": ("c07",)}
    assert choose(tmp_path, SplitRule(file=path)).parts["val"] == ("c02",)
    assert choose(tmp_path, SplitRule(fold=None)).parts["val"] == ("c06",)


@pytest.mark.parametrize("fold", [0, 1, 2, 3, 4, "all"])
def test_tested_cases_are_held_out_in_every_fold(tmp_path: Path, fold: Any) -> None:
    given = {"train": CASES[:10], "val": CASES[10:15], "test": CASES[15:]}
    split = choose(tmp_path, SplitRule(fold=fold), split=given)
    assert split.parts["test"] == CASES[15:]
    assert set(split.parts["train"]) | set(split.parts["val"]) == set(CASES[:15])
    assert sizes(split) == ([15, 0, 5] if fold == "all" else [12, 3, 5])


@pytest.mark.parametrize(("fold", "expected"), [(0, [1, 1, 1]), (1, [2, 0, 1]), ("all", [2, 0, 1])])
def test_tested_cases_are_left_out_of_given_folds(
    tmp_path: Path, fold: Any, expected: list[int]
) -> None:
    rule = SplitRule(fold=fold)
    split = choose(tmp_path, rule, cases=CASES[:3], split={"test": ["c00"]}, folds=FOLDS)
    assert sizes(split) == expected
    assert "c00" not in split.parts["train"] + split.parts["val"]
    assert re.fullmatch("1 test cases of split.json are left out of .*", split.notes[0])


def test_only_the_test_part_is_given(tmp_path: Path) -> None:
    split = choose(tmp_path, split={"test": ["c19", "c00"]})
    assert split.parts["test"] == ("c19", "c00")
    assert sizes(split) == [16, 2, 2]
    assert sizes(choose(tmp_path, split={"test": []})) == [18, 2, 0]
    with pytest.raises(FileError, match="split.json: expected cases besides those under test"):
        choose(tmp_path, split={"test": list(CASES)})


def test_given_parts_that_separate_noticed_patients(tmp_path: Path) -> None:
    given = {"train": [*SCANS[::2], "p00_ES"], "val": ["p01_ES"], "test": list(SCANS[5::2])}
    split = choose(tmp_path, cases=SCANS, split=given)
    assert split.notes == (
        "warning: 8 of 8 test patients have another scan in training (for example p02_ES and "
        "p02_ED); their scores say too little about new patients",
        "warning: 1 of 1 validation patients have another scan in training (for example p01_ES "
        "and p01_ED); their scores say too little about new patients",
    )


def test_given_folds_that_separate_noticed_patients(tmp_path: Path) -> None:
    folds = [{"train": ["p00_ED", "p01_ED"], "val": ["p01_ES", "p02_ED"]}]
    notes = choose(tmp_path, cases=SCANS[:5], folds=folds).notes
    assert notes[0].startswith("warning: 1 of 2 validation patients have another scan in training")


def test_given_parts_that_separate_named_patients(tmp_path: Path) -> None:
    given = {"train": ["c00", "c02"], "test": ["c01", "c03"]}
    groups = {"c00": "A", "c01": "A", "c02": "B", "c03": "C"}
    message = "split.json: expected all scans of a patient in one part, got 1 of 2 test patients"
    with pytest.raises(FileError, match=f"{message} have another .*c01 and c00"):
        choose(tmp_path, split={**given, "groups": groups})
    with pytest.raises(FileError, match=message.replace("1 of 2", "1 of 1")):
        choose(tmp_path, SplitRule(group_by="^c"))
    # Nothing tells these four apart.
    assert choose(tmp_path, SplitRule(group_by=".+")).notes[0].startswith("16 cases stand in no")


def test_names_of_patients_must_be_complete(tmp_path: Path) -> None:
    given = {"train": ["c00"], "test": ["c01"], "groups": {"c00": "A"}}
    with pytest.raises(FileError, match="split.json: groups: expected the patient of .* for c01$"):
        choose(tmp_path, split=given)


def test_a_case_in_several_parts(tmp_path: Path) -> None:
    everywhere = {part: ["c00"] for part in ("train", "val", "test")}
    split = choose(tmp_path, cases=CASES[:1], split=everywhere)
    assert sizes(split) == [1, 1, 1]
    assert split.notes == (
        "warning: 1 case stands in several parts (c00 in train, val, test); the scores of such "
        "cases say nothing about other cases",
    )
    # The case itself is no other scan of its patient.
    groups = {"groups": {"c00": "A"}}
    assert choose(tmp_path, cases=CASES[:1], split={**everywhere, **groups}).notes == split.notes


def test_validation_cases_that_are_tested_too(tmp_path: Path) -> None:
    given = {"train": ["c00"], "val": ["c01", "c02"], "test": ["c01", "c02"]}
    assert choose(tmp_path, cases=CASES[:3], split=given).notes == (
        "warning: 2 cases stand in several parts (c01 in val, test); the scores of such cases are "
        "too good for other cases",
    )


def test_too_few_patients_for_the_folds(tmp_path: Path) -> None:
    message = "folds: expected at least 2 and a patient for each, got 5 folds for 8 cases of 4 pat"
    with pytest.raises(ValueError, match=message):
        choose(tmp_path, SplitRule(fold=0), cases=SCANS[:8])
    with pytest.raises(ValueError, match="got 1 folds"):
        draw_folds(CASES, dict(zip(CASES, CASES, strict=True)), num_folds=1, seed=0)
    with pytest.raises(ValueError, match="fold: expected 0 to 4 or all, got 5"):
        choose(tmp_path, SplitRule(fold=5))
