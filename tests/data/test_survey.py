"""What is unusual among cases, and what is there twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recycleseg.classes import Classes
from recycleseg.data import findings as kinds
from recycleseg.data.facts import CaseFacts
from recycleseg.data.findings import Finding, Kind
from recycleseg.data.layout import Case, Dataset
from recycleseg.data.survey import survey

CASES = tuple(f"c{case}" for case in range(12))
SPLIT = {"train": CASES[:8], "val": CASES[8:10], "test": CASES[10:]}
# Axes of the file: towards superior, left and posterior.
SLP = np.array([[0, -1.0, 0, 0], [0, 0, -1.0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])


def facts_with(**changes: Mapping[str, Any]) -> dict[str, CaseFacts]:
    """Facts of usual cases that differ a little; `changes` gives case_id -> value per field."""
    rng = np.random.default_rng(0)
    facts = {
        case_id: CaseFacts(
            spacing=(0.8 * rng.uniform(0.9, 1.1), 0.8, 2.0 * rng.uniform(0.8, 1.25)),
            affine=np.diag([0.8, 0.8, 2.0, 1.0]),
            foreground=rng.normal([[40.0], [300.0]], [[20.0], [90.0]], (2, 500)).astype(np.float32),
            shape=(int(rng.integers(200, 300)), 256, int(rng.integers(40, 70))),
            class_voxels=np.array([900, 100]),
            foreground_box=np.array([[1, 2, 3], [9, 8, 7]]),
            image_digests=(f"{case_id} CT", f"{case_id} PET"),
            label_digest=case_id,
        )
        for case_id in CASES
    }
    for name, values in changes.items():
        for case_id, value in values.items():
            facts[case_id] = dataclasses.replace(facts[case_id], **{name: value})
    return facts


DATASET = Dataset(
    root=Path("set"),
    name="set",
    channel_names=("CT", "PET"),
    file_ending=".nii.gz",
    classes=Classes(("background", "organ", "tumour")),
    cases={case_id: Case(case_id, (Path(f"{case_id}_0000.nii.gz"),), None) for case_id in CASES},
    split=SPLIT,
    patients={case_id: case_id for case_id in CASES},
)


def found_in(facts: Mapping[str, CaseFacts]) -> list[Finding]:
    return survey(DATASET, facts)


def only(facts: Mapping[str, CaseFacts], kind: Kind) -> str:
    """The text of the only finding, which is of this kind."""
    (finding,) = found_in(facts)
    assert finding.kind is kind
    return finding.text


def test_usual_cases_pass() -> None:
    assert found_in(facts_with()) == []
    assert found_in({}) == []


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_spacing_in_another_unit(factor: float) -> None:
    spacing = tuple(factor * size for size in (0.8, 0.8, 2.0))
    text = only(facts_with(spacing={"c3": spacing}), kinds.SPACING)
    assert text.startswith("c3: " + " x ".join(f"{size:.4g}" for size in spacing) + " mm, median 0")


def test_spacing_is_compared_along_canonical_axes() -> None:
    turned = {"spacing": {"c3": (2.0, 0.8, 0.8)}, "affine": {"c3": SLP}}
    assert found_in(facts_with(**turned)) == []
    only(facts_with(spacing={"c3": (2.0, 0.8, 0.8)}), kinds.SPACING)


def test_a_second_usual_spacing_is_not_unusual() -> None:
    assert found_in(facts_with(spacing=dict.fromkeys(CASES[::3], (0.8, 0.8, 5.0)))) == []


def test_two_unusual_cases_of_twelve_are_both_found() -> None:
    facts = facts_with(spacing=dict.fromkeys(("c1", "c7"), (0.8, 0.8, 40.0)))
    assert [(f.kind, f.case_id) for f in found_in(facts)] == [
        (kinds.SPACING, c) for c in CASES[1::6]
    ]


def test_shape() -> None:
    text = only(facts_with(shape={"c5": (256, 256, 4)}), kinds.SHAPE)
    assert text.startswith("c5: 256 x 256 x 4 voxels, median ")


@pytest.mark.parametrize(
    ("change", "channel"),
    [
        (lambda x: x * [[0.001], [1]], "CT"),
        (lambda x: x * [[1], [30]], "PET"),
        (lambda x: x + [[1024], [0]], "CT"),
        (lambda x: x * [[0], [1]], "CT"),
    ],
    ids=["0 to 1", "other unit", "offset", "constant"],
)
def test_intensities_of_one_channel(change: Any, channel: str) -> None:
    values = change(facts_with()["c4"].foreground).astype(np.float32)
    text = only(facts_with(foreground={"c4": values}), kinds.INTENSITY)
    assert text.startswith(f"c4: {channel}: {np.median(values[int(channel == 'PET')]):.4g} (")


def test_equal_constant_intensities_are_usual() -> None:
    same = np.full((2, 9), 7.0, np.float32)
    assert found_in(facts_with(foreground=dict.fromkeys(CASES, same))) == []
    other = np.full((2, 9), 70.0, np.float32)
    facts = facts_with(foreground={**dict.fromkeys(CASES, same), "c2": other})
    assert {finding.kind for finding in found_in(facts)} == {kinds.INTENSITY}


def test_few_cases_are_not_compared() -> None:
    facts = facts_with(spacing={"c1": (80.0, 0.8, 2.0)})
    assert found_in({case_id: facts[case_id] for case_id in CASES[:3]}) == []


def test_no_foreground() -> None:
    empty = {
        "foreground": {"c6": np.zeros((2, 0), np.float32)},
        "foreground_box": {"c6": None},
        "class_voxels": {"c6": np.zeros(2, np.int64)},
    }
    assert only(facts_with(**empty), kinds.NO_FOREGROUND) == "c6: no voxel belongs to a class"


@pytest.mark.parametrize(
    ("having", "text"),
    [
        ((), "tumour: in no case"),
        (CASES[8:], "tumour: in no training case, in c8, c9 and 2 more"),
        (CASES[:2], "tumour: in 2 of 12 cases (c0, c1)"),
    ],
)
def test_a_rare_class(having: tuple[str, ...], text: str) -> None:
    voxels = {c: np.array([900, 100 if c in having else 0]) for c in CASES}
    assert only(facts_with(class_voxels=voxels), kinds.RARE_CLASS) == text


def test_the_same_scan() -> None:
    twins = {
        "image_digests": dict.fromkeys(("c1", "c10"), ("x", "y")),
        "label_digest": dict.fromkeys(("c1", "c10"), "z"),
    }
    text = only(facts_with(**twins), kinds.SAME_SCAN)
    assert text == "c1, c10: equal voxels (c1 in train, c10 in test)"
    del twins["label_digest"]
    assert only(facts_with(**twins), kinds.TWO_LABELS) == text
    one_channel = {"image_digests": {"c1": ("x", "y"), "c2": ("x", "v")}}
    assert only(facts_with(**one_channel), kinds.TWO_LABELS) == "c1, c2: equal voxels"


def test_the_same_content_in_two_channels() -> None:
    text = only(facts_with(image_digests={"c1": ("x", "x")}), kinds.SAME_CHANNELS)
    assert text == "c1: CT and PET are equal"
    assert found_in(facts_with(image_digests=dict.fromkeys(CASES, ("", "")))) == []


def test_voxel_size_in_some_files_only() -> None:
    text = only(facts_with(spacing={"c2": None}), kinds.MIXED_SIZES)
    assert "got 11 with it, such as c0_0000.nii.gz, and 1 without, such as c2_0000.nii.gz" in text
    assert found_in(facts_with(spacing=dict.fromkeys(CASES, None))) == []


def test_patients_on_two_sides() -> None:
    patients = {case_id: case_id for case_id in CASES} | {"c1": "c0", "c8": "c0", "c11": "c10"}
    (finding,) = survey(dataclasses.replace(DATASET, patients=patients), facts_with())
    assert finding.kind is kinds.TWO_SIDES
    assert finding.text == (
        "1 of 2 validation patients have another scan in training (for example c8 and c0)"
    )


def test_a_case_in_two_parts() -> None:
    split = {**SPLIT, "val": ("c8", "c9", "c0")}
    (finding,) = survey(dataclasses.replace(DATASET, split=split), facts_with())
    assert finding.kind is kinds.TWO_SIDES
    assert finding.text.startswith("1 case stands in several parts (c0 in train, val)")
