"""All metrics of all cases in a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recycleseg import _ext
from recycleseg.classes import IGNORE, Labels, parse_labels, split_ignore
from recycleseg.data.patients import named_patients, noticed_patients
from recycleseg.data.sizes import EVALUATION_OPTION, mixed_sizes, screen_note
from recycleseg.data.volumes import PixelSize
from recycleseg.evaluation.case import CaseResult, read_integers, try_case
from recycleseg.evaluation.labels import find_labels
from recycleseg.evaluation.pairs import Pair, Pairs, find_pairs
from recycleseg.evaluation.remarks import patients_note, tolerance_notes
from recycleseg.evaluation.statistics import Groups, patient_groups
from recycleseg.files import FileError, listed
from recycleseg.limits import cores
from recycleseg.metrics.aggregate import mean_of_means
from recycleseg.metrics.evaluate import evaluate
from recycleseg.metrics.scores import Scores
from recycleseg.progress import Progress, followed


@dataclass(frozen=True)
class FolderScores:
    """Scores of B cases.

    Attributes:
        case_ids: the B cases.
        labels: foreground names -> value, or values of a region.
        by_step: one entry per sampling step: the scores of all cases, in the order of `case_ids`.
            The last entry, or the only one, belongs to the final predictions.
        prediction_files: case_id -> file of the final prediction.
        reference_files: case_id -> file of the reference.
        prediction_roots: folders of the predictions.
        pixel_size: which voxel sizes of the files count; see `recycleseg.data.volumes.sized`.
        ignore_label: value of the reference's voxels that count nowhere, or None.
        failed: printable case_id -> why the case could not be evaluated. No other attribute has
            this case.
        notes: remarks for the user, one line each.
        reference_hashes: case_id -> hash of the reference's content, where it is known.
        patients: case_id -> patient, where a patient has several cases; other cases are patients of
            their own.
    """

    case_ids: tuple[str, ...]
    labels: Labels
    by_step: tuple[Scores, ...]
    prediction_files: dict[str, Path]
    reference_files: dict[str, Path]
    prediction_roots: tuple[Path, ...]
    pixel_size: PixelSize = "auto"
    ignore_label: int | None = None
    failed: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reference_hashes: dict[str, str] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)

    def groups(self, case_ids: Sequence[str] | None = None) -> Groups:
        """Number of the patient of each case, by default of all cases; see `patient_groups`."""
        return patient_groups(self.case_ids if case_ids is None else case_ids, self.patients)

    def mean_dice_by_step(self) -> list[float]:
        """Mean foreground Dice after every sampling step; see `mean_of_means`."""
        return [mean_of_means(scores.table["dice"]) for scores in self.by_step]

    def settings(self) -> dict[str, Any]:
        """The options that the values of the metrics depend on."""
        final = self.by_step[-1]
        ignored = {} if self.ignore_label is None else {"ignore_label": self.ignore_label}
        return {
            f"tolerances_{final.unit}": list(final.tolerances_mm),
            "definitions": list(final.definitions),
            "percentile": final.percentile,
            "border_is_outside": final.border_is_outside,
            **ignored,
        }

    @property
    def all_labels(self) -> Labels:
        """`labels`, and the ignore label if there is one, as `evaluate_folder` takes them."""
        ignore = {} if self.ignore_label is None else {IGNORE: self.ignore_label}
        return {**self.labels, **ignore}


def evaluate_folder(
    pred: Path | str | Sequence[Path | str],
    ref: Path | str,
    *,
    labels: Mapping[str, int | tuple[int, ...]] | None = None,
    tolerance_mm: float | Sequence[float] = 1.0,
    percentile: float = 95.0,
    definitions: Sequence[str] = ("voxel",),
    border_is_outside: bool = True,
    pixel_size: PixelSize = "auto",
    group_by: str | None = None,
    workers: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> FolderScores:
    """Compare every label map of one or more folders with its reference, or one file with another.

    If the files of a case are damaged, differ in their grid or hold unknown labels, the case goes
    to `failed` and the others are still evaluated.

    Args:
        pred, ref: folders of label maps of any program, or one file each.
            References without a prediction are left out. `pred/steps/step_1` ... hold the maps
            after each sampling step. Several folders of predictions, such as the folds of a
            cross-validation, are evaluated as one; their cases must differ.
        labels: name -> value, or values of a region; see :func:`recycleseg.evaluate` for the
            name "ignore". None takes the names from predict.json or dataset.json beside the maps;
            without these files, every value found is a label, named "1", "2", ...
        tolerance_mm, percentile, definitions, border_is_outside: see :func:`recycleseg.evaluate`.
        pixel_size: which pixel sizes of the files count: "auto" takes all but 72 and 96 dots per
            inch, which are a screen's; "file" takes all, "ignore" none. If the size of a case is
            unknown, its lengths are in pixels; all cases must have the same unit. If only one of
            prediction and reference gives the size, it is used for both.
        group_by: where the patients of the cases come from; see
            `recycleseg.data.patients.named_patients`. None takes them from the names of the cases.
        workers: how many cases to read and evaluate at the same time; None takes one per core.
        device: "cpu" or "cuda", where the metrics are computed.
        progress: called with the number of cases done and the number of all cases.

    Raises:
        FileError: a prediction has no reference, a case is in two folders, a step lacks a case, no
            case can be evaluated, or some cases have a pixel size and others do not.
        ValueError: an option is invalid.
    """
    plan = plan_evaluation(
        pred,
        ref,
        labels=labels,
        tolerance_mm=tolerance_mm,
        percentile=percentile,
        definitions=definitions,
        border_is_outside=border_is_outside,
        pixel_size=pixel_size,
        group_by=group_by,
        workers=workers,
        device=device,
    )
    return plan.gather(plan.results(plan.pairs.cases, progress))


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated, and how; `plan_evaluation` makes it.

    Attributes:
        pairs: the files.
        labels: names -> values, with the ignore label.
        options: of :func:`recycleseg.evaluate`.
        pixel_size, group_by, device: see `evaluate_folder`.
        workers: cases at the same time.
        patients: case_id -> patient.
        notes: remarks about the labels.
    """

    pairs: Pairs
    labels: Labels
    options: dict[str, Any]
    pixel_size: PixelSize
    group_by: str | None
    device: str
    workers: int
    patients: Mapping[str, str]
    notes: tuple[str, ...]

    def results(
        self, cases: Sequence[Pair], progress: Progress | None = None
    ) -> dict[str, CaseResult | str]:
        """The results of some of the cases; one that is text says why its case failed."""

        def result_of(pair: Pair) -> CaseResult | str:
            return try_case(pair, self.labels, self.options, self.pixel_size, self.device)

        with _pool(max(1, min(self.workers, len(cases)))) as pool:
            work = followed(pool.map(result_of, cases), len(cases), progress)
            return {pair.case_id: result for pair, result in zip(cases, work, strict=True)}

    def gather(self, results: Mapping[str, CaseResult | str]) -> FolderScores:
        """The scores of all cases, from the results of all.

        Raises:
            FileError: all cases failed, or only some have a pixel size.
        """
        if all(isinstance(result, str) for result in results.values()):
            where = ", ".join(map(str, self.pairs.roots))
            failed = [*map(str, results.values())]
            raise FileError(listed(f"{where}: no case can be evaluated", failed))
        return _gather(self, results)


def plan_evaluation(
    pred: Path | str | Sequence[Path | str],
    ref: Path | str,
    *,
    labels: Mapping[str, int | tuple[int, ...]] | None = None,
    tolerance_mm: float | Sequence[float] = 1.0,
    percentile: float = 95.0,
    definitions: Sequence[str] = ("voxel",),
    border_is_outside: bool = True,
    pixel_size: PixelSize = "auto",
    group_by: str | None = None,
    workers: int | None = None,
    device: str = "cpu",
) -> Evaluation:
    """Find all files and labels, and check the options; see `evaluate_folder`."""
    preds = tuple(map(Path, [pred] if isinstance(pred, (str, Path)) else pred))
    ref = Path(ref)
    pairs = find_pairs(preds, ref)
    workers = _num_workers(workers, len(pairs.cases))
    options = {
        "tolerance_mm": tolerance_mm,
        "percentile": percentile,
        "definitions": tuple(definitions),
        "border_is_outside": border_is_outside,
    }
    _check_options(options, device)
    case_ids = [pair.case_id for pair in pairs.cases]
    patients = (
        noticed_patients(case_ids) if group_by is None else named_patients(group_by, case_ids)
    )
    with _pool(workers) as pool:
        known, notes = _labels(preds, ref, labels, pairs.cases, pool)
    return Evaluation(
        pairs, known, options, pixel_size, group_by, device, workers, patients, tuple(notes)
    )


def _gather(plan: Evaluation, results: Mapping[str, CaseResult | str]) -> FolderScores:
    pairs, notes = plan.pairs, list(plan.notes)
    done = {case_id: r for case_id, r in results.items() if not isinstance(r, str)}
    foreground, ignore_label = split_ignore(plan.labels)
    notes.extend(_size_notes(pairs.roots[0], done))
    notes.extend(
        tolerance_notes([r.side for r in done.values()], next(iter(done.values())).by_step[-1])
    )
    patients = {case_id: plan.patients[case_id] for case_id in done}
    number = Counter(patients.values())
    notes.extend(patients_note(len(patients), len(number), plan.group_by))
    return FolderScores(
        case_ids=tuple(done),
        labels=foreground,
        by_step=tuple(
            Scores.join(step) for step in zip(*(r.by_step for r in done.values()), strict=True)
        ),
        prediction_files={p.case_id: p.predictions[-1] for p in pairs.cases if p.case_id in done},
        reference_files={p.case_id: p.reference for p in pairs.cases if p.case_id in done},
        prediction_roots=pairs.roots,
        pixel_size=plan.pixel_size,
        ignore_label=ignore_label,
        reference_hashes={case_id: r.reference_hash for case_id, r in done.items()},
        patients={c: p for c, p in patients.items() if number[p] > 1},
        failed={**pairs.failed, **{c: r for c, r in results.items() if isinstance(r, str)}},
        notes=(*pairs.notes, *notes),
    )


def _size_notes(root: Path, results: Mapping[str, CaseResult]) -> Iterator[str]:
    """What to tell the user about voxel sizes.

    Raises:
        FileError: some cases have one and others do not, so that no mean has a unit.
    """
    known, unknown = (
        [c for c, result in results.items() if result.by_step[-1].unit == unit]
        for unit in ("mm", "pixels")
    )
    num_screen = sum(results[case_id].screen for case_id in unknown)
    if problems := mixed_sizes(known, unknown, num_screen, what="cases", option=EVALUATION_OPTION):
        raise FileError(f"{root}: {problems[0]}")
    if unknown:
        yield "no file gives a pixel size that counts, so all lengths are in pixels"
    if num_screen:
        yield screen_note(num_screen, len(results), "cases", EVALUATION_OPTION)
    if number := sum(result.one_sized for result in results.values()):
        yield (
            f"{number} of {len(results)} cases: only one of prediction and reference gives the "
            "pixel size; it is used for both"
        )


def _num_workers(workers: int | None, num_cases: int) -> int:
    if workers is None:
        workers = cores()
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    return min(workers, num_cases)


def _check_options(options: dict[str, Any], device: str) -> None:
    """Raise ValueError for an invalid option before any file is opened."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device: expected cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: expected cpu because torch finds no CUDA device, got cuda")
    pixel = np.zeros((1, 1), dtype=np.uint8)
    evaluate(pixel, pixel, spacing=(1.0, 1.0), labels={"foreground": 1}, **options)


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that share the cores; reading files and computing metrics release Python's lock."""
    before = torch.get_num_threads()
    each = max(1, before // workers)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(each,))
    try:
        yield pool
    except KeyboardInterrupt:
        with _ext.calls_cancelled():
            pool.shutdown(cancel_futures=True)
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _labels(
    preds: Sequence[Path],
    ref: Path,
    labels: Mapping[str, int | tuple[int, ...]] | None,
    cases: Sequence[Pair],
    pool: ThreadPoolExecutor,
) -> tuple[Labels, list[str]]:
    """The labels to evaluate, and notes for the user about them."""
    if labels is not None:
        return parse_labels(labels, "labels"), []
    where = ", ".join(map(str, (*preds, ref)))
    described = {pred: found[0] for pred in preds if (found := find_labels(pred, ref))}
    if described:
        first, known = next(iter(described.items()))
        for pred in preds:
            if described.get(pred) != known:
                raise FileError(
                    f"{pred}: expected the labels of {first}, {known}, got {described.get(pred)}"
                )
        return known, []
    values = sorted(set().union(*pool.map(_values_of_case, cases)) - {0})
    if not values:
        raise FileError(f"{where}: expected label maps with values from 1 on, got only 0")
    names = ", ".join(map(str, values))
    note = f"no predict.json or dataset.json names the labels; the values found are {names}"
    return parse_labels({str(value): value for value in values}, where), [note]


def _values_of_case(pair: Pair) -> set[int]:
    values: set[int] = set()
    for path in (pair.predictions[-1], pair.reference):
        try:
            values.update(np.unique(read_integers(path).array).tolist())
        except FileError:
            continue  # the evaluation will list the case as failed
    return values
