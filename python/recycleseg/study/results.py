"""The scores of a study: one row per case, class and sampling step of every prediction."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recycleseg.evaluation.folder import FolderScores
from recycleseg.evaluation.table import read_evaluation
from recycleseg.files import FileError
from recycleseg.metrics.aggregate import finite_mean
from recycleseg.names import csv_cell
from recycleseg.study.design import PredictionSet
from recycleseg.study.tasks import StudyFolder


@dataclass(frozen=True)
class Result:
    """A prediction of the study, and its scores."""

    prediction: PredictionSet
    scores: FolderScores

    def case_dice(self, step: int = -1) -> NDArray[np.float64]:
        """Mean Dice (N,) over the classes of each case, after a sampling step; NaN without any."""
        return finite_mean(self.scores.by_step[step].table["dice"], axis=1)

    def mean_dice(self, step: int = -1) -> float:
        """Mean over the cases that have one."""
        return float(finite_mean(self.case_dice(step)))


def read_results(folder: StudyFolder) -> list[Result]:
    """The results of all predictions that are evaluated, in the order of the design.

    Raises:
        FileError: an evaluation is damaged, or has other cases or classes than the first.
    """
    design = folder.design
    singles = (p for network in design.networks() for p in design.predictions_of(*network))
    predictions = (*singles, *design.ensembles())
    results = [
        Result(prediction, read_evaluation(folder.scores(prediction)))
        for prediction in predictions
        if (folder.scores(prediction) / "summary.json").exists()
    ]
    for result in results[1:]:
        first, scores = results[0].scores, result.scores
        if (scores.case_ids, scores.labels) != (first.case_ids, first.labels):
            raise FileError(
                f"{folder.scores(result.prediction)}: expected the cases and classes of "
                f"{folder.scores(results[0].prediction)}, got others"
            )
    return results


def by_kind(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    """Strategies and name of the sampling -> the results of all seeds."""
    kinds: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        of = result.prediction
        kinds.setdefault((of.strategies, of.sampling.name), []).append(result)
    return kinds


def cases_csv(results: list[Result]) -> str:
    """All results as a table; a value may be "nan" and "inf"."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(_rows(results))
    return text.getvalue()


def _rows(results: list[Result]) -> Iterator[list[object]]:
    metrics = results[0].scores.by_step[0].metrics if results else ()
    yield ["strategies", "seed", "sampler", "num_steps", "step", "case", "label", *metrics]
    for result in results:
        prediction, scores = result.prediction, result.scores
        sampling = prediction.sampling
        fixed = [prediction.strategies, prediction.seed, sampling.sampler, sampling.num_steps]
        for step, of_step in enumerate(scores.by_step, 1):
            for b, case_id in enumerate(scores.case_ids):
                for c, label in enumerate(scores.labels):
                    values = [float(of_step.table[metric][b, c]) for metric in metrics]
                    yield [*fixed, step, csv_cell(case_id), csv_cell(label), *values]
