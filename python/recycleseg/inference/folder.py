"""Predicting many cases into a folder, which can be gone on with after an interruption."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recycleseg.data.layout import Case
from recycleseg.data.volumes import (
    DatasetError,
    Volume,
    file_ending,
    write_like,
    written_whole,
)
from recycleseg.inference.predictor import Prediction, Predictor
from recycleseg.inference.record import differences, read_record

RECORD = "predict.json"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Extras:
    """What is saved of every case beside its label map.

    Attributes:
        probabilities: as nnU-Net saves them.
        uncertainty: entropy, and disagreement between samples or models.
        steps: the label map after every sampling step.
    """

    probabilities: bool = False
    uncertainty: bool = False
    steps: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a case went; failure: None, or why there is no prediction, in one line."""

    case_id: str
    seconds: float
    failure: str | None = None


class PredictionFolder:
    """Where the files of each case go, and the record of how they were made.

    record: what predict.json tells of all cases, see `make_record`.
    """

    def __init__(self, root: Path, record: Mapping[str, Any]) -> None:
        self.root = root
        self.record: dict[str, Any] = {**record, "images": {}, "seconds": {}, "failed": {}}

    def label_path(self, case: Case) -> Path:
        """The label map of a case; where it is, the case is done."""
        return self.root / _file_name(case)

    def open(self, cases: Sequence[Case], *, overwrite: bool) -> list[Case]:
        """The cases that are left to predict; the files of those to predict anew are deleted.

        Raises ValueError, and deletes nothing, where the folder holds other files of these names,
        or predictions by other models, with other options or of other images.
        """
        if self.root.resolve() in {p.parent.resolve() for c in cases for p in c.image_paths}:
            raise ValueError(f"--out: expected another folder than the images', got {self.root}")
        path, there = self.root / RECORD, self._files_there(cases)
        if path.is_file():
            self._take_over(cases, read_record(path), overwrite)
        elif there:
            raise ValueError(
                f"--out: expected a new folder or one with {RECORD}, got {self.root}, where "
                f"{there[0].relative_to(self.root)} is already"
            )
        if overwrite:
            for file in there:
                file.unlink()
        self.root.mkdir(parents=True, exist_ok=True)
        for case in cases:
            if self.label_path(case).exists():
                self._note_done(case, None)
        self.save_record()
        return [case for case in cases if not self.label_path(case).exists()]

    def write(self, case: Case, prediction: Prediction, seconds: float) -> None:
        """Write all files of a case, its label map last, and the record."""
        volume, name = prediction.volume, _file_name(case)
        if prediction.probs is not None:
            self._write_probs(case, np.asarray(prediction.probs))
        for kind, values in (
            ("entropy", prediction.entropy),
            ("disagreement", prediction.disagreement),
        ):
            if values is not None:
                self._write_map(self.root / kind / name, self._nats(values), volume)
        for step, label in enumerate(prediction.steps, 1):
            self._write_map(self.root / f"steps/step_{step}" / name, np.asarray(label), volume)
        self._write_map(self.label_path(case), np.asarray(prediction.label), volume)
        self._note_done(case, seconds)
        self.save_record()

    def fail(self, case: Case, message: str) -> None:
        """Record why there is no prediction of a case."""
        self.record["failed"][case.case_id] = message
        self.save_record()

    def save_record(self) -> None:
        """Write predict.json."""
        with written_whole(self.root / RECORD) as temporary:
            temporary.write_text(json.dumps(self.record, indent=2, allow_nan=False) + "\n")

    def _note_done(self, case: Case, seconds: float | None) -> None:
        self.record["images"][case.case_id] = _paths(case)
        self.record["failed"].pop(case.case_id, None)
        if seconds is not None:
            self.record["seconds"][case.case_id] = round(seconds, 3)

    def _files_there(self, cases: Sequence[Case]) -> list[Path]:
        """Files of these cases, whatever the options that they were written with."""
        folders = [self.root, self.root / "entropy", self.root / "disagreement"]
        folders += sorted(self.root.glob("steps/step_*"))
        files = [folder / _file_name(case) for case in cases for folder in folders]
        files += [self.root / f"{case.case_id}.npz" for case in cases]
        return [file for file in files if file.exists()]

    def _take_over(self, cases: Sequence[Case], old: dict[str, Any], overwrite: bool) -> None:
        """Keep what an earlier record tells of cases that stay."""
        ours = {case.case_id: _paths(case) for case in cases}
        others = [case_id for case_id in old["images"] if case_id not in ours]
        changed = differences(old, self.record)
        if changed and not overwrite:
            raise ValueError(
                f"--out: {self.root} holds predictions of another kind: {'; '.join(changed)}. "
                "Use --overwrite to predict all anew, or another --out"
            )
        if changed and others:
            raise ValueError(
                f"--overwrite: expected a folder of these cases alone, got {self.root} with "
                f"{len(others)} more such as {others[0]}, predicted otherwise; use another --out"
            )
        for case_id, paths in old["images"].items():
            if not overwrite and ours.get(case_id, paths) != paths:
                raise ValueError(
                    f"--out: {self.root} holds case {case_id} predicted from {paths[0]}, not "
                    f"{ours[case_id][0]}; use --overwrite to predict all anew, or another --out"
                )
        forgotten = set(ours) if overwrite else set()
        for key in ("images", "seconds", "failed"):
            self.record[key] = {c: v for c, v in old[key].items() if c not in forgotten}

    def _write_probs(self, case: Case, probs: np.ndarray[Any, Any]) -> None:
        # nnU-Net's axes: a NIfTI array's from last to first; an image is one slice.
        probs = probs.transpose(0, 3, 2, 1) if probs.ndim == 4 else probs[:, None]
        with written_whole(self.root / f"{case.case_id}.npz") as temporary:
            np.savez_compressed(temporary, probabilities=probs.astype(np.float32, copy=False))

    def _nats(self, values: Any) -> np.ndarray[Any, Any]:
        """float32 for NIfTI; uint16 for PNG, where 65535 is the largest possible value."""
        array: np.ndarray[Any, Any] = np.asarray(values, dtype=np.float32)
        if array.ndim == 3:
            return array
        labels = self.record["dataset"]["labels"]
        overlapping = any(isinstance(value, list) for value in labels.values())
        largest = (len(labels) - 1) * math.log(2) if overlapping else math.log(len(labels))
        grey: np.ndarray[Any, Any] = np.rint(np.clip(array / largest, 0, 1) * 65535)
        return grey.astype(np.uint16)

    def _write_map(self, path: Path, array: np.ndarray[Any, Any], volume: Volume) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_like(path, array, volume)


def predict_cases(
    predictor: Predictor,
    cases: Sequence[Case],
    folder: PredictionFolder,
    extras: Extras,
    *,
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Predict and write case by case; one that fails, for whatever reason, is told as such.

    progress: called with the done and all windows of the case at hand.
    """
    for case in cases:
        start = time.perf_counter()
        try:
            prediction = predictor(
                case.image_paths,
                case_id=case.case_id,
                return_probs=extras.probabilities,
                return_uncertainty=extras.uncertainty,
                return_steps=extras.steps,
                progress=progress,
            )
            folder.write(case, prediction, time.perf_counter() - start)
            del prediction  # not held while the next one is made
            failure = None
        except Exception as error:
            failure = _one_line(case, error)
        if failure is not None:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            folder.fail(case, failure)
        yield Outcome(case.case_id, time.perf_counter() - start, failure)


def _file_name(case: Case) -> str:
    return case.case_id + file_ending(case.image_paths[0])


def _paths(case: Case) -> list[str]:
    return [str(path.absolute()) for path in case.image_paths]


def _one_line(case: Case, error: Exception) -> str:
    """Why a case failed."""
    text = " ".join(str(error).split())
    if isinstance(error, DatasetError):
        return text
    out_of_memory = "out of memory" in text or "can't allocate memory" in text
    if out_of_memory or isinstance(error, MemoryError):
        return f"{case.case_id}: expected memory for its prediction, got none left ({text[:200]})"
    return f"{case.case_id}: {type(error).__name__}: {text[:300]}"
