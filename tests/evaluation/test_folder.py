"""Evaluating folders: results, bad input and notes for the user."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from tests.evaluation.maps import SPACING, cube_map, write_map
from tests.pixel_sizes import write_png

from recycleseg.data.volumes import read_volume, write_volume
from recycleseg.evaluation import evaluate_folder
from recycleseg.files import FileError
from recycleseg.metrics import evaluate

LABELS = {"whole": (1, 2), "core": 2}


def test_scores_are_those_of_evaluate(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    options = {"tolerance_mm": (1.0, 3.0), "percentile": 90, "definitions": ("surfel", "voxel")}
    scores = evaluate_folder(pred, ref, labels=LABELS, **options)
    assert scores.case_ids == ("c0", "c1", "c2")
    assert scores.labels == LABELS
    assert (scores.prediction_roots, scores.failed) == ((pred,), {})
    assert scores.prediction_files["c1"] == pred / "c1.nii.gz"
    assert scores.reference_files["c1"] == ref / "c1.nii.gz"
    (final,) = scores.by_step
    for case, label in enumerate((cube_map(), cube_map(shift=1), cube_map(core=False))):
        alone = evaluate(label, cube_map(), spacing=SPACING, labels=LABELS, **options)
        for metric, values in alone.table.items():
            np.testing.assert_array_equal(final.table[metric][case], values[0])
        np.testing.assert_array_equal(final.outcomes[case], alone.outcomes[0])
    assert final["core"]["dice"].tolist() == [1.0, 0.5, 0.0]
    assert math.isinf(final["core"]["hd90"][2])
    assert scores.settings() == {
        "tolerances_mm": [1.0, 3.0],
        "definitions": ["surfel", "voxel"],
        "percentile": 90.0,
        "border_is_outside": True,
    }


@pytest.mark.parametrize("workers", [1, 3, 16])
def test_workers_change_nothing(folders: tuple[Path, Path], workers: int) -> None:
    before = torch.get_num_threads()
    calls: list[tuple[int, int]] = []
    scores = evaluate_folder(
        *folders, labels=LABELS, workers=workers, progress=lambda *done: calls.append(done)
    )
    expected = evaluate_folder(*folders, labels=LABELS)
    for metric, values in expected.by_step[0].table.items():
        np.testing.assert_array_equal(scores.by_step[0].table[metric], values)
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert torch.get_num_threads() == before


def test_steps_and_the_mean_of_each(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    for case in range(3):
        write_map(pred / f"steps/step_1/c{case}.nii.gz", cube_map(shift=2))
        write_map(pred / f"steps/step_2/c{case}.nii.gz", cube_map())
    scores = evaluate_folder(pred, ref, labels=LABELS)
    assert [step["core"]["dice"].tolist() for step in scores.by_step] == [[0, 0, 0], [1, 0.5, 0]]
    # whole: half of the cubes overlap; then 1, 0.75, 1
    expected = [(0.5 + 0) / 2, ((1 + 0.75 + 1) / 3 + 0.5) / 2]
    assert scores.mean_dice_by_step() == pytest.approx(expected, abs=1e-15)


def test_names_of_labels(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    found = evaluate_folder(pred, ref)
    assert found.labels == {"1": 1, "2": 2}
    assert found.notes[1] == (
        "no predict.json or dataset.json names the labels; the values found are 1, 2"
    )
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    (ref.parent / "dataset.json").write_text(json.dumps({"labels": labels}))
    named = evaluate_folder(pred, ref, tolerance_mm=2)
    assert (named.labels, len(named.notes)) == (LABELS, 1)
    assert evaluate_folder(pred, ref, labels={"rim": 1, "core": 2}).labels == {"rim": 1, "core": 2}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def with_voxel(value: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        array = read_volume(path).array.astype(np.float32)
        array[0, 0, 0] = value
        write_volume(path, array, spacing=SPACING)

    return change


AFFINE = np.diag([*SPACING, 1.0])
FAULTS: list[tuple[str, Callable[[Path], None], str]] = [
    ("pred", truncate, r"{bad}: expected a whole .nii.gz file, got: "),
    ("ref", truncate, r"{bad}: expected a whole .nii.gz file, got: "),
    (
        "pred",
        lambda path: write_map(path, cube_map()[:-1]),
        r"{bad}: expected shape (12, 8, 8) as {other}, got (11, 8, 8)",
    ),
    (
        "ref",
        lambda path: write_map(path, cube_map(), AFFINE + 0.1 * np.eye(4, k=3)),
        r"{other}: expected affine [[1.0, 0.0, 0.0, 0.1], ",
    ),
    ("pred", with_voxel(7), r"{bad}: expected label values 0, 1, 2, got 7"),
    ("ref", with_voxel(-3), r"{bad}: expected label values 0, 1, 2, got -3"),
    ("pred", with_voxel(70000), r"{bad}: expected label values 0, 1, 2, got 70000"),
    ("ref", with_voxel(0.5), r"{bad}: expected labels that are whole numbers, got 0.5"),
    (
        "pred",
        with_voxel(math.nan),
        r"{bad}: expected labels that are whole numbers, got nan",
    ),
]


@pytest.mark.parametrize(("where", "break_file", "message"), FAULTS)
def test_a_bad_case_is_named_and_the_others_are_evaluated(
    folders: tuple[Path, Path], where: str, break_file: Callable[[Path], None], message: str
) -> None:
    bad, other = (folder / "c1.nii.gz" for folder in folders)
    if where == "ref":
        bad, other = other, bad
    break_file(bad)
    scores = evaluate_folder(*folders, labels=LABELS)
    assert scores.case_ids == ("c0", "c2")
    assert list(scores.prediction_files) == list(scores.reference_files) == ["c0", "c2"]
    assert list(scores.failed) == ["c1"]
    start = message.replace("{bad}", str(bad)).replace("{other}", str(other))
    assert scores.failed["c1"].startswith(start)
    assert "\n" not in scores.failed["c1"]


def test_an_error_that_nobody_expects_costs_one_case(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hashed(path: Path) -> str:
        if path.name.startswith("c1"):
            raise MemoryError
        return "0"

    monkeypatch.setattr("recycleseg.evaluation.case.content_hash", hashed)
    scores = evaluate_folder(*folders, labels=LABELS)
    assert scores.case_ids == ("c0", "c2")
    assert scores.failed["c1"].startswith("c1: expected more free memory, got none left; close")


def test_axes_in_another_order_are_the_same_grid(folders: tuple[Path, Path]) -> None:
    expected = evaluate_folder(*folders, labels=LABELS)
    for path in folders[1].iterdir():
        turned = nib.load(path).as_reoriented([[1, 1], [2, -1], [0, 1]])
        nib.save(turned, path)
    scores = evaluate_folder(*folders, labels=LABELS)
    assert scores.failed == {}
    for before, after in zip(expected.by_step, scores.by_step, strict=True):
        assert str(after) == str(before)


def test_grids_that_differ_by_rounding_are_one(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    write_map(ref / "c1.nii.gz", cube_map(), AFFINE + 0.0005 * np.eye(4, k=3))
    assert evaluate_folder(pred, ref, labels=LABELS).failed == {}


def test_maps_of_whole_floats_are_labels(folders: tuple[Path, Path]) -> None:
    with_voxel(0.0)(folders[0] / "c1.nii.gz")
    assert evaluate_folder(*folders, labels=LABELS).by_step[0]["core"]["dice"][1] == 0.5


def test_no_sound_case_is_an_error_that_lists_all(folders: tuple[Path, Path]) -> None:
    for case in range(3):
        truncate(folders[0] / f"c{case}.nii.gz")
    with pytest.raises(FileError) as error:
        evaluate_folder(*folders, labels=LABELS)
    first, *lines = str(error.value).splitlines()
    assert first == f"{folders[0]}: no case can be evaluated"
    assert [line.split(":")[0] for line in lines] == [
        f"  - {folders[0] / f'c{case}.nii.gz'}" for case in range(3)
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers: expected at least 1, got 0"),
        ({"device": "gpu"}, "device: expected cpu or cuda, got 'gpu'"),
        ({"tolerance_mm": -1.0}, "tolerance_mm: expected different, finite mm from 0 on"),
        ({"definitions": ("pixel",)}, "definitions: expected a tuple of .*, got"),
        ({"percentile": 101}, "percentile: expected one number from 0 to 100"),
        ({"labels": {"a": 2**63}}, "labels: labels: expected name -> value"),
    ],
)
def test_options_are_checked_before_files_are_opened(
    folders: tuple[Path, Path], options: dict, message: str
) -> None:
    truncate(folders[0] / "c0.nii.gz")
    calls: list[int] = []
    with pytest.raises(ValueError, match=message):
        evaluate_folder(*folders, progress=lambda done, _: calls.append(done), **options)
    assert calls == []


def test_only_background_has_no_labels_to_find(tmp_path: Path) -> None:
    for folder in ("pred", "ref"):
        write_map(tmp_path / folder / "a.nii.gz", np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(FileError, match="expected label maps with values from 1 on, got only 0"):
        evaluate_folder(tmp_path / "pred", tmp_path / "ref")


@pytest.mark.parametrize(
    ("pred_mm", "ref_mm", "expected"),
    [(None, 0.5, 0.5), (0.5, None, 0.5), (0.25, 0.25, 0.25), (None, None, 1.0)],
)
def test_pixel_size_is_that_of_either_file(
    tmp_path: Path, pred_mm: float | None, ref_mm: float | None, expected: float
) -> None:
    label = cube_map()[:, :, 4]
    write_png(tmp_path / "pred/a.png", np.roll(label, 1, axis=0), pred_mm and 25.4 / pred_mm)
    write_png(tmp_path / "ref/a.png", label, ref_mm and 25.4 / ref_mm)
    scores = evaluate_folder(tmp_path / "pred", tmp_path / "ref", labels={"whole": (1, 2)})
    # A pHYs chunk holds whole pixels per metre.
    assert scores.by_step[0]["whole"]["hd"] == pytest.approx([expected], rel=1e-3)
    unknown = "no file gives a pixel size that counts, so all lengths are in pixels"
    one = (
        "1 of 1 cases: only one of prediction and reference gives the pixel size; it is used for "
        "both"
    )
    notes = {(None, None): (unknown,), (0.25, 0.25): ()}.get((pred_mm, ref_mm), (one,))
    assert scores.notes == notes
    assert scores.by_step[0].unit == ("pixels" if notes == (unknown,) else "mm")


def write_pairs(root: Path, *dpi: tuple[float | None, float | None]) -> tuple[Path, Path]:
    """A prediction and a reference with these dots per inch for each case."""
    label = cube_map()[:, :, 4]
    for case, (of_pred, of_ref) in enumerate(dpi):
        write_png(root / f"pred/c{case}.png", np.roll(label, 1, axis=0), of_pred)
        write_png(root / f"ref/c{case}.png", label, of_ref)
    return root / "pred", root / "ref"


def test_resolution_of_a_screen_is_no_pixel_size(tmp_path: Path) -> None:
    folders = write_pairs(tmp_path, (72, 72), (None, None), (96, None))
    scores = evaluate_folder(*folders, labels=LABELS)
    assert scores.by_step[0].unit == "pixels"
    np.testing.assert_array_equal(scores.by_step[0]["whole"]["hd"], [1.0, 1.0, 1.0])
    assert scores.notes[1].startswith("2 of 3 cases give 72 or 96 dots per inch, the resolution of")
    assert "use --pixel-size file, otherwise write the real size" in scores.notes[1]


def test_a_screen_is_believed_if_asked(tmp_path: Path) -> None:
    folders = write_pairs(tmp_path, (72, 72), (96, None))
    scores = evaluate_folder(*folders, labels=LABELS, pixel_size="file")
    # A file holds whole pixels per metre.
    assert scores.by_step[0]["whole"]["hd"] == pytest.approx([25.4 / 72, 25.4 / 96], rel=1e-3)
    assert (scores.by_step[0].unit, scores.pixel_size) == ("mm", "file")


def test_cases_in_mm_and_in_pixels_have_no_mean(tmp_path: Path) -> None:
    folders = write_pairs(tmp_path, (None, None), (300, 300), (72, None))
    message = (
        r"pred: expected the size of the pixels in all cases or in none, got 1 with it, such as "
        r"c1, and 2 without, such as c0 \(1 give 72 or 96 dots per inch"
    )
    with pytest.raises(FileError, match=message):
        evaluate_folder(*folders, labels=LABELS)
    scores = evaluate_folder(*folders, labels=LABELS, pixel_size="ignore")
    np.testing.assert_array_equal(scores.by_step[0]["whole"]["hd"], [1.0, 1.0, 1.0])


def test_scans_can_be_counted_in_voxels(folders: tuple[Path, Path]) -> None:
    scores = evaluate_folder(*folders, labels=LABELS, pixel_size="ignore").by_step[0]
    expected = evaluate(cube_map(shift=1), cube_map(), spacing=None, labels=LABELS)
    assert scores.unit == "pixels"
    for metric, values in expected.table.items():
        np.testing.assert_array_equal(scores.table[metric][1], values[0])


def test_real_references_against_themselves(data_root: Path) -> None:
    labels = data_root / "Dataset004_Hippocampus" / "labelsTr"
    if not labels.is_dir():
        pytest.skip(f"no data at {labels}")
    scores = evaluate_folder(labels, labels)
    assert scores.labels == {"anterior": 1, "posterior": 2}
    assert len(scores.case_ids) == 210
    for label in scores.labels:
        assert (scores.by_step[0][label]["dice"] == 1).all()
        assert (scores.by_step[0][label]["hd"] == 0).all()


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu(folders: tuple[Path, Path]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    on_cpu = evaluate_folder(*folders, labels=LABELS).by_step[0]
    on_gpu = evaluate_folder(*folders, labels=LABELS, device="cuda").by_step[0]
    for metric, values in on_cpu.table.items():
        # The device rounds distances to float32.
        np.testing.assert_allclose(on_gpu.table[metric], values, rtol=1e-6)


def test_several_folders_score_as_one(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pred, ref = folders
    whole = evaluate_folder(pred, ref, labels=LABELS)
    parts = (tmp_path / "fold0", tmp_path / "fold1")
    for part in parts:
        part.mkdir()
    for number, case in enumerate(("c0", "c1", "c2")):
        (pred / f"{case}.nii.gz").rename(parts[number % 2] / f"{case}.nii.gz")
    scores = evaluate_folder(parts, ref, labels=LABELS)
    assert scores.prediction_roots == parts
    assert scores.case_ids == ("c0", "c2", "c1")
    for metric, values in whole.by_step[0].table.items():
        np.testing.assert_array_equal(scores.by_step[0].table[metric], values[[0, 2, 1]])


def test_folders_with_other_labels_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pred, ref = folders
    other = tmp_path / "other"
    write_map(other / "c3.nii.gz", cube_map())
    for folder, labels in ((pred, {"rim": 1, "core": 2}), (other, {"core": 1, "rim": 2})):
        (folder / "predict.json").write_text(json.dumps({"dataset": {"labels": labels}}))
    with pytest.raises(FileError, match=f"{other}: expected the labels of {pred}, .*'core': 2"):
        evaluate_folder([pred, other], ref)
    assert evaluate_folder([pred, other], ref, labels=LABELS).case_ids == ("c0", "c1", "c2", "c3")


def test_ignored_voxels_count_nowhere(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    reference = cube_map()
    reference[:4] = 3
    for case in range(5):
        write_map(ref / f"c{case}.nii.gz", reference)
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    (ref.parent / "dataset.json").write_text(json.dumps({"labels": labels}))
    found, given = evaluate_folder(pred, ref), evaluate_folder(pred, ref, labels=labels)
    for scores in (found, given):
        assert (scores.labels, scores.ignore_label) == (LABELS, 3)
        assert scores.all_labels == {**LABELS, "ignore": 3}
        assert scores.settings()["ignore_label"] == 3
        assert scores.failed == {}
    for case, label in enumerate((cube_map(), cube_map(shift=1), cube_map(core=False))):
        known = np.arange(12).reshape(12, 1, 1) >= 4
        alone = evaluate(label * known, cube_map() * known, spacing=SPACING, labels=LABELS)
        for metric, values in alone.table.items():
            np.testing.assert_array_equal(found.by_step[-1].table[metric][case], values[0])
    assert found.by_step[-1].outcomes is not None
    assert found.by_step[-1].outcomes.sum(-1).tolist() == [[8 * 8 * 8] * 2] * 3


def test_ignored_values_are_for_references_alone(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    wrong = cube_map()
    wrong[0, 0, 0] = 3
    write_map(pred / "c1.nii.gz", wrong)
    scores = evaluate_folder(pred, ref, labels={**LABELS, "ignore": 3})
    message = f"{pred / 'c1.nii.gz'}: expected label values 0, 1, 2, got 3"
    assert scores.failed == {"c1": message}


def test_labels_of_an_atlas_are_found(tmp_path: Path) -> None:
    """As of FreeSurfer, and as large as 32 bits hold them without a sign."""
    label = cube_map().astype(np.uint32)
    label[label == 2] = 12143
    label[10] = 2**31
    for folder in ("pred", "ref"):
        write_map(tmp_path / folder / "c.nii.gz", label)
    scores = evaluate_folder(tmp_path / "pred", tmp_path / "ref")
    assert scores.labels == {"1": 1, "12143": 12143, "2147483648": 2**31}
    np.testing.assert_array_equal(scores.by_step[0].table["dice"], 1)


def test_ctrl_c_ends_the_calls_of_other_threads(tmp_path: Path) -> None:
    """Python runs the handler on the main thread, while others measure distances."""
    speckle = np.random.default_rng(0).random((100, 160, 160)) < 0.3
    for folder, part in (("pred", slice(0, 100)), ("ref", slice(200, 300))):
        label = np.zeros((300, 160, 160), np.uint8)
        label[part] = speckle
        for case in range(2):
            write_map(tmp_path / folder / f"c{case}.nii", label)
    raised: list[float] = []  # processor time, because other programs may keep the cores busy

    def interrupt(number: int, frame: Any) -> None:
        raised.append(time.process_time())
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGPROF, interrupt)
    signal.setitimer(signal.ITIMER_PROF, 1.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            evaluate_folder(tmp_path / "pred", tmp_path / "ref", labels={"a": 1}, workers=2)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert time.process_time() - raised[0] < 2.0  # of two threads; without a signal some 20 s
    same = evaluate_folder(tmp_path / "ref", tmp_path / "ref", labels={"a": 1})
    assert same.by_step[0]["a"]["hd"].tolist() == [0, 0]
