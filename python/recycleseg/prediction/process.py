"""Segment many cases, together with other processes that work in the same folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from recycleseg.errors import described, show_traceback
from recycleseg.files import FileError
from recycleseg.prediction.folder import PredictionFolder
from recycleseg.prediction.predictor import Prediction

# Seconds until the next look at cases of other processes, when no others are left.
_PAUSE = 0.5


@dataclass(frozen=True)
class Outcome:
    """How a case went.

    Attributes:
        case_id: the case.
        seconds: time that it took.
        failure: None, or the reason in one line why there is no segmentation.
        elsewhere: whether another process worked on it.
    """

    case_id: str
    seconds: float
    failure: str | None = None
    elsewhere: bool = False


def process_cases(
    case_ids: Iterable[str],
    segment: Callable[[str], Prediction],
    folder: PredictionFolder,
    waiting: Callable[[Sequence[str]], None] = lambda case_ids: None,
) -> Iterator[Outcome]:
    """Segment and write the cases that no other process works on, then wait for the others.

    If another process ends before its case is done, this one does the case.

    Args:
        case_ids: the cases that `PredictionFolder.open` gave.
        segment: makes the segmentation of a case.
        folder: where it goes.
        waiting: called when the only cases left are those of other processes.

    Yields:
        How each case went. A failed case does not stop the others, whatever the error.
    """
    try:
        left = list(case_ids)
        while left:
            held = []
            for case_id in left:
                outcome = _made_elsewhere(case_id, folder) or _process(case_id, segment, folder)
                if outcome is None:
                    held.append(case_id)
                else:
                    yield outcome
            if len(held) == len(left):
                waiting(held)
                time.sleep(_PAUSE)
            left = held
        folder.close()
    finally:
        folder.leave()


def _made_elsewhere(case_id: str, folder: PredictionFolder) -> Outcome | None:
    made = folder.made_elsewhere(case_id)
    if made is None:
        return None
    return Outcome(case_id, made.get("seconds", 0.0), made.get("failed"), elsewhere=True)


def _process(
    case_id: str, segment: Callable[[str], Prediction], folder: PredictionFolder
) -> Outcome | None:
    """How a case went; None if another process works on it."""
    with folder.claimed(case_id) as ours:
        if not ours:
            return None
        if made := _made_elsewhere(case_id, folder):  # until a moment ago
            return made
        if folder.adopt(case_id):
            return Outcome(case_id, 0.0, elsewhere=True)
        start = time.perf_counter()
        failure = None
        try:
            folder.begin(case_id)
            # The prediction gets no name, so that its memory is free before the next one.
            folder.write(case_id, segment(case_id), time.perf_counter() - start)
        except Exception as error:
            show_traceback(error)
            failure = _one_line(case_id, error)
        # Outside of the `except` block, because the error holds the tensors of the case.
        if failure is not None:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            folder.fail(case_id, failure)
        return Outcome(case_id, time.perf_counter() - start, failure)


def _one_line(case_id: str, error: Exception) -> str:
    """Why a case failed, in one line."""
    text = " ".join(described(error).split())
    return text if isinstance(error, FileError) else f"{case_id}: {text}"
