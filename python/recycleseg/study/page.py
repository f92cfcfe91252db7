"""study.html: what a study has shown, as one file that needs no other."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recycleseg.files import write_text
from recycleseg.report.charts import StepsChart, steps_chart
from recycleseg.report.html import template, template_text
from recycleseg.report.intervals import Mean
from recycleseg.study.design import Design
from recycleseg.study.questions import METHOD, Difference, Question, usual_samplings
from recycleseg.study.results import Result, by_kind


@dataclass(frozen=True)
class Kind:
    """Predictions of the same strategies and sampling, by the networks of all seeds.

    Attributes:
        strategies: joined by +.
        sampling: its name.
        by_step: the mean Dice over cases: for each sampling step, of each seed.
    """

    strategies: str
    sampling: str
    by_step: list[list[float]]

    @property
    def means(self) -> list[Mean]:
        """The mean over seeds at each step; its ends are those of the seeds."""
        return [
            Mean(
                float(np.mean(seeds)),
                *((min(seeds), max(seeds)) if len(seeds) > 1 else (math.nan, math.nan)),
                min(seeds),
                max(seeds),
                num=(len(seeds), len(seeds)),
                num_inf=0,
                num_nan=0,
            )
            for seeds in self.by_step
        ]


def kinds_of(results: Sequence[Result]) -> list[Kind]:
    """The results, grouped by strategies and sampling."""
    return [
        Kind(
            strategies,
            sampling,
            [
                [result.mean_dice(step) for result in group]
                for step in range(len(group[0].scores.by_step))
            ],
        )
        for (strategies, sampling), group in by_kind(results).items()
    ]


def write_page(
    path: Path,
    design: Design,
    results: Sequence[Result],
    answers: Sequence[tuple[Question, Sequence[Difference]]],
) -> None:
    """Write the page.

    Args:
        path: of the file.
        design: of the study.
        results: of all its predictions.
        answers: its questions and their tables.
    """
    scores = results[0].scores
    page = template("study.html.j2").render(
        title=f"Study of {Path(design.data).name}",
        design=design,
        labels=list(scores.labels),
        num_cases=len(scores.case_ids),
        num_patients=len(np.unique(scores.groups())),
        charts=_charts(design, kinds := kinds_of(results)),
        kinds=kinds,
        answers=answers,
        method=METHOD,
        version=importlib.metadata.version("recycleseg"),
        date=datetime.date.today().isoformat(),
        style=template_text("report.css"),
    )
    write_text(path, page)


def _charts(design: Design, kinds: Sequence[Kind]) -> list[tuple[str, StepsChart]]:
    """Dice by step of all strategies with several, for each sampler."""
    found = []
    for sampling in usual_samplings(design):
        lines = [
            kind
            for kind in kinds
            if kind.sampling == sampling.name and len(kind.by_step) == sampling.num_steps
        ]
        if lines and sampling.num_steps > 1:
            names = [kind.strategies for kind in lines]
            means = list(zip(*(kind.means for kind in lines), strict=True))
            found.append((sampling.name, steps_chart(names, means, with_overall=False)))
    return found
