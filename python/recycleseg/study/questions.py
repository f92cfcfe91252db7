"""The paper's questions to a study, each a table of paired differences."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from recycleseg.evaluation.statistics import (
    ERROR_RATE,
    MIN_CASES,
    Groups,
    bonferroni,
    by_patient,
    signed_rank,
)
from recycleseg.metrics.aggregate import finite_mean
from recycleseg.study.design import DIRECT, ENSEMBLES, REFERENCE, Design, Sampling
from recycleseg.study.results import Result, by_kind

METHOD = (
    "The value of a case is the mean Dice over its classes, without those that are neither in the "
    "prediction nor in the reference. A difference is taken between predictions of the same case "
    "and seed. Several cases of a patient count as one, by their mean. The mean of the differences "
    "over the seeds goes into a two-sided Wilcoxon signed-rank test over the patients, and the "
    "interval is the inversion of this test, around the median of the averages of every two "
    "patients (Hodges and Lehmann). With m tests in a table, p is multiplied by m and each "
    "interval has the level 1 - 0.05 / m (Bonferroni). Patients cannot tell how much another "
    "training would differ. So a side counts as better only if, besides, its mean is higher for "
    "each seed. Fewer than 6 patients are not tested."
)
# How many steps the paper samples with.
USUAL_STEPS = 5


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        strategies: of the networks, joined by +.
        sampling: how they are sampled.
        step: sampling step, from 1; None is the last.
    """

    strategies: str
    sampling: Sampling
    step: int | None = None

    def __str__(self) -> str:
        step = "" if self.step is None else f", step {self.step}"
        return f"{self.strategies} ({self.sampling.name}{step})"


@dataclass(frozen=True)
class Question:
    """A question, and the pairs of sides that answer it."""

    name: str
    title: str
    pairs: tuple[tuple[Side, Side], ...]


@dataclass(frozen=True)
class Difference:
    """Side a - side b in the mean Dice of cases.

    Attributes:
        a, b: the sides.
        mean_a, mean_b: means over seeds and cases.
        difference: mean of a - b.
        ci_low, ci_high: simultaneous 95 % interval of the typical difference; NaN if untested.
        p_adjusted: of the test, times the number of tests; NaN if untested.
        of_seeds: the mean difference for each seed.
        num_cases: cases of both.
        num_patients: their patients.
    """

    a: str
    b: str
    mean_a: float
    mean_b: float
    difference: float
    ci_low: float
    ci_high: float
    p_adjusted: float
    of_seeds: tuple[float, ...]
    num_cases: int
    num_patients: int

    @property
    def verdict(self) -> str:
        """The result in words."""
        if self.num_patients < MIN_CASES:
            return f"too few patients ({self.num_patients})"
        low, high = self.ci_low, self.ci_high
        if not (low > 0 or high < 0):
            return "no difference shown"
        sign = 1 if low > 0 else -1
        if any(sign * of_seed <= 0 for of_seed in (*self.of_seeds, self.difference)):
            return "no verdict: the seeds disagree"
        better = "a better" if low > 0 else "b better"
        return better if len(self.of_seeds) > 1 else f"{better}, of one training each"


def usual_samplings(design: Design) -> list[Sampling]:
    """Each sampler with the paper's number of steps, or with the most that there are."""
    steps = USUAL_STEPS if USUAL_STEPS in design.num_steps else max(design.num_steps)
    return [Sampling(sampler, steps) for sampler in design.samplers]


def questions(design: Design) -> Iterator[Question]:
    """The questions that the networks of a design can answer."""
    usual = usual_samplings(design)
    steps = usual[0].num_steps
    diffusion = [s for s in design.strategies if s != "supervised"]
    if REFERENCE in design.strategies:
        yield Question(
            "strategies",
            f"{REFERENCE} against the other ways to train a diffusion model",
            tuple(
                (Side(REFERENCE, s), Side(o, s)) for s in usual for o in diffusion if o != REFERENCE
            ),
        )
    if steps > 1:
        yield Question(
            "steps",
            "The last sampling step against the first",
            tuple((Side(d, s), Side(d, s, 1)) for s in usual for d in diffusion),
        )
    if REFERENCE in design.strategies and "supervised" in design.strategies:
        supervised = Side("supervised", DIRECT)
        yield Question(
            "supervised",
            f"{REFERENCE} against supervised training",
            tuple((Side(REFERENCE, s), supervised) for s in usual),
        )
        mixed, *others = ("+".join(pair) for pair in ENSEMBLES)
        against = [supervised, *(Side(o, DIRECT) for o in others if REFERENCE not in o)]
        yield Question(
            "ensembles",
            "The ensemble of recycling and supervised training",
            tuple(
                (Side(mixed, s), other)
                for s in usual
                for other in (*against, Side("+".join((REFERENCE, REFERENCE)), s))
            ),
        )
    if 1 in design.num_steps and steps > 1:
        yield Question(
            "one_step",
            f"{steps} sampling steps against one",
            tuple((Side(d, s), Side(d, Sampling(s.sampler, 1))) for s in usual for d in diffusion),
        )


def answer(question: Question, results: Sequence[Result]) -> list[Difference]:
    """The table of a question; pairs without scores on both sides are left out."""
    kinds = by_kind(results)
    pairs = []
    for a, b in question.pairs:
        found = _paired(kinds.get((a.strategies, a.sampling.name), ()), a.step)
        other = _paired(kinds.get((b.strategies, b.sampling.name), ()), b.step)
        seeds = [seed for seed in found if seed in other]
        if seeds:
            of_a, of_b = (np.stack([side[s] for s in seeds]) for side in (found, other))
            # All results have the same cases.
            pairs.append((str(a), str(b), of_a, of_b, results[0].scores.groups()))
    return differences(pairs)


def differences(
    pairs: Sequence[tuple[str, str, NDArray[np.float64], NDArray[np.float64], Groups]],
) -> list[Difference]:
    """Test pairs as one family; see METHOD.

    Args:
        pairs: names of sides a and b, their values (seeds, cases), of which NaN leave a case out,
            and the number of the patient of each case.
    """
    known = [~np.isnan(a + b).any(axis=0) for _, _, a, b, _ in pairs]
    patients = [len(np.unique(pair[4][k])) for pair, k in zip(pairs, known, strict=True)]
    num_tests = max(1, sum(number >= MIN_CASES for number in patients))
    changes = [a[:, k] - b[:, k] for (_, _, a, b, _), k in zip(pairs, known, strict=True)]
    # Differences that are equal except for rounding must be equal.
    tests = [
        signed_rank(
            np.round(by_patient(change.mean(axis=0), pair[4][k]), 12), ERROR_RATE / num_tests
        )
        for change, pair, k in zip(changes, pairs, known, strict=True)
    ]
    adjusted = bonferroni([test.p_value for test in tests])
    return [
        Difference(
            a=name_a,
            b=name_b,
            mean_a=float(finite_mean(a[:, known[i]].ravel())),
            mean_b=float(finite_mean(b[:, known[i]].ravel())),
            difference=float(finite_mean(changes[i].ravel())),
            ci_low=tests[i].low,
            ci_high=tests[i].high,
            p_adjusted=adjusted[i],
            of_seeds=tuple(finite_mean(changes[i], axis=1).tolist()),
            num_cases=int(known[i].sum()),
            num_patients=patients[i],
        )
        for i, (name_a, name_b, a, b, _) in enumerate(pairs)
    ]


def table_csv(table: Sequence[Difference]) -> str:
    """A table for spreadsheets."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(Difference)]
    writer.writerow([*names, "verdict"])
    for row in table:
        seeds = " ".join(f"{value:.6f}" for value in row.of_seeds)
        values = [seeds if name == "of_seeds" else getattr(row, name) for name in names]
        writer.writerow([*values, row.verdict])
    return text.getvalue()


def _paired(results: Sequence[Result], step: int | None) -> dict[int, NDArray[np.float64]]:
    """seed -> the value of each case."""
    index = -1 if step is None else step - 1
    return {result.prediction.seed: result.case_dice(index) for result in results}
