"""What an evaluation tells beside its numbers: tolerances below a voxel, cases of one patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.maps import cube_map, write_map
from tests.pixel_sizes import write_png

from recycleseg.data.volumes import write_volume
from recycleseg.evaluation import evaluate_folder, summarise_folder
from recycleseg.evaluation.remarks import longest_side

LABELS = {"whole": (1, 2), "core": 2}


def test_longest_side() -> None:
    assert longest_side((0.5, 0.7, 5.0), (9, 9, 3)) == 5.0
    assert longest_side((0.5, 0.7, 5.0), (9, 9, 1)) == 0.7  # one slice has no side along it
    assert longest_side(None, (9, 9)) == 1.0
    assert longest_side((1.0, 1.0), (1, 1)) == 0.0


def test_tolerances_below_a_voxel_are_told(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    for folder in folders:
        write_volume(folder / "c0.nii.gz", cube_map(), spacing=(1.0, 1.0, 3.5))
    said = evaluate_folder(pred, ref, labels=LABELS, tolerance_mm=(1.0, 2.0, 4.0)).notes[1:]
    assert said == (
        "the tolerance of 1 mm for surface Dice is below the longest side of the voxels (up to "
        "3.5 mm) in 3 of 3 cases: along that side, a surface that is one voxel off counts as wrong",
        "the tolerance of 2 mm for surface Dice is below the longest side of the voxels (up to "
        "3.5 mm) in 1 of 3 cases: along that side, a surface that is one voxel off counts as wrong",
    )


def test_tolerances_below_a_pixel_are_told(tmp_path: Path) -> None:
    label = np.zeros((20, 20), np.uint8)
    label[4:12, 4:12] = 1
    for folder in ("pred", "ref"):
        write_png(tmp_path / folder / "c.png", label, None)
    notes = evaluate_folder(
        tmp_path / "pred", tmp_path / "ref", labels={"a": 1}, tolerance_mm=(0.5, 1)
    ).notes
    (note,) = [note for note in notes if "tolerance" in note]
    assert note.startswith("the tolerance of 0.5 pixels for surface Dice is below the longest side")


def test_patients_of_the_names_or_of_the_user(tmp_path: Path) -> None:
    names = [f"p{patient}_{side}" for patient in range(6) for side in ("left", "right")]
    for index, name in enumerate(names):
        write_map(tmp_path / f"ref/{name}.nii.gz", cube_map())
        write_map(tmp_path / f"pred/{name}.nii.gz", cube_map(shift=index // 4))
    pred, ref = tmp_path / "pred", tmp_path / "ref"
    noticed = evaluate_folder(pred, ref, labels=LABELS, tolerance_mm=2)
    assert noticed.patients == {name: name.split("_")[0] for name in names}
    assert noticed.notes[-1].startswith("12 cases of 6 patients, as their names suggest: intervals")
    named = evaluate_folder(pred, ref, labels=LABELS, tolerance_mm=2, group_by="left|right")
    assert named.notes[-1].startswith("12 cases of 2 patients, by left|right: ")
    alone = evaluate_folder(pred, ref, labels=LABELS, tolerance_mm=2, group_by=".*")
    assert (alone.patients, alone.notes) == ({}, ())
    known = []
    for scores in (noticed, named, alone):
        summary = summarise_folder(scores)
        known.append((summary["num_patients"], summary["mean_interval_95"]["2"]["Dice"]))
        assert (summary["num_cases"], summary["notes"]) == (12, list(scores.notes))
    assert [patients for patients, _ in known] == [6, 2, 12]
    (low, high), none, (low_alone, high_alone) = (interval for _, interval in known)
    assert none == [None, None] and high - low > high_alone - low_alone
    with pytest.raises(ValueError, match="group_by: expected a pattern that finds the patient"):
        evaluate_folder(pred, ref, labels=LABELS, group_by="left")
