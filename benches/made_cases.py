"""A data set of many small cases, and others of its first cases."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from recycleseg.data.volumes import write_volume

SHAPE = (12, 12, 8)
LABELS = {"inner": 1, "outer": 2}


def write_cases(root: Path, number: int) -> None:
    """Cases with two boxes in noise, each with patients of its own, all for training."""
    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for case in range(number):
        label = np.zeros(SHAPE, np.uint8)
        low, high = rng.integers(1, 3, 3), rng.integers(5, 8, 3)
        label[tuple(map(slice, low, high))] = 2
        label[tuple(map(slice, low + 1, high - 1))] = 1
        image = (100 * label + rng.normal(0, 20, SHAPE)).astype(np.int16)
        for name, array in ((f"imagesTr/{_name(case)}_0000", image), (_label(case), label)):
            write_volume(root / f"{name}.nii.gz", array, spacing=(1.0, 1.0, 2.0))


def link_cases(root: Path, target: Path, number: int) -> Path:
    """A data set of the first cases of another, whose files it shares; it may be there already."""
    if target.exists():
        return target
    for folder in ("imagesTr", "labelsTr"):
        (target / folder).mkdir(parents=True)
    for case in range(number):
        for name in (f"imagesTr/{_name(case)}_0000.nii.gz", f"{_label(case)}.nii.gz"):
            os.link(root / name, target / name)
    description = {
        "name": f"cases {number}",
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **LABELS},
        "file_ending": ".nii.gz",
    }
    split = {"train": [_name(case) for case in range(number)], "val": [], "test": []}
    (target / "dataset.json").write_text(json.dumps(description))
    (target / "split.json").write_text(json.dumps(split))
    return target


def _name(case: int) -> str:
    return f"case{case:05d}"


def _label(case: int) -> str:
    return f"labelsTr/{_name(case)}"
