"""Tables of a study from made-up scores with known answers."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from recycleseg.study.design import Design
from recycleseg.study.questions import differences, questions, table_csv

CASES = 12
ALONE = np.arange(CASES)


def scores(seed: int, shift: float = 0.0) -> NDArray[np.float64]:
    """Values (3 seeds, cases): hard and easy cases, and noise."""
    rng = np.random.default_rng(seed)
    hard = np.random.default_rng(0).uniform(0.6, 0.9, CASES)
    return hard + rng.normal(0, 0.01, (3, CASES)) + shift


def test_a_planted_better_side_is_found_and_an_equal_one_is_not() -> None:
    better, equal = differences(
        [
            ("better", "base", scores(1, shift=0.02), scores(2), ALONE),
            ("same", "base", scores(3), scores(2), ALONE),
        ]
    )
    assert better.verdict == "a better" and better.ci_low > 0 and better.p_adjusted < 0.01
    assert better.difference == pytest.approx(0.02, abs=0.01)
    assert len(better.of_seeds) == 3 and np.mean(better.of_seeds) == pytest.approx(
        better.difference
    )
    assert equal.verdict == "no difference shown" and equal.ci_low < 0 < equal.ci_high
    (worse,) = differences([("base", "better", scores(2), scores(1, shift=0.02), ALONE)])
    assert worse.verdict == "b better"


def test_the_test_is_scipys_of_the_mean_over_seeds_times_the_number_of_tests() -> None:
    a, b = scores(1, shift=0.005), scores(2)
    expected = stats.wilcoxon((a - b).mean(axis=0)).pvalue
    (one,) = differences([("a", "b", a, b, ALONE)])
    assert one.p_adjusted == pytest.approx(expected, rel=1e-12)
    both = differences([("a", "b", a, b, ALONE)] * 2)
    assert both[0].p_adjusted == pytest.approx(min(1, 2 * expected), rel=1e-12)
    assert both[0].ci_low < one.ci_low and both[0].ci_high > one.ci_high


def test_a_difference_of_one_training_alone_is_no_verdict() -> None:
    """Two of three seeds are a little worse, one is much better: all patients agree on the mean."""
    change = np.array([[-0.002], [-0.001], [0.09]]) + np.linspace(0, 1e-4, CASES)
    (row,) = differences([("a", "b", scores(2) + change, scores(2), ALONE)])
    assert row.ci_low > 0
    assert row.verdict == "no verdict: the seeds disagree"


def test_one_seed_says_nothing_of_another_training() -> None:
    (row,) = differences([("a", "b", scores(1, shift=0.02)[:1], scores(2)[:1], ALONE)])
    assert row.verdict == "a better, of one training each"


def test_patients_count_once_and_few_are_not_tested() -> None:
    groups = ALONE // 2
    (row,) = differences([("a", "b", scores(1, shift=0.02), scores(2), groups)])
    assert row.num_patients == 6 and row.num_cases == 12
    mean = (scores(1, shift=0.02) - scores(2)).mean(axis=0).reshape(6, 2).mean(axis=1)
    assert row.p_adjusted == pytest.approx(stats.wilcoxon(mean).pvalue, rel=1e-12)
    (few,) = differences([("a", "b", scores(1, shift=0.02), scores(2), ALONE // 3)])
    assert few.verdict == "too few patients (4)"
    assert math.isnan(few.p_adjusted) and math.isnan(few.ci_low)


def test_a_case_without_a_value_is_left_out() -> None:
    a, b = scores(1), scores(2)
    a[1, 4] = b[0, 7] = np.nan
    (row,) = differences([("a", "b", a, b, ALONE)])
    assert row.num_cases == 10
    kept = np.delete(a, [4, 7], axis=1)
    assert row.mean_a == pytest.approx(kept.mean(), rel=1e-12)


def test_the_table_of_a_spreadsheet_has_every_number() -> None:
    rows = differences([("a", "b", scores(1, shift=0.02), scores(2), ALONE)])
    (read,) = csv.DictReader(io.StringIO(table_csv(rows)))
    assert float(read["difference"]) == rows[0].difference and read["verdict"] == "a better"
    seeds = [float(value) for value in read["of_seeds"].split()]
    assert seeds == pytest.approx(rows[0].of_seeds, abs=1e-6)


def design_of(**options: Any) -> Design:
    return Design("data", "1m", **options)


def test_the_papers_questions() -> None:
    asked = {q.name: q.pairs for q in questions(design_of())}
    assert list(asked) == ["strategies", "steps", "supervised", "ensembles", "one_step"]
    assert len(asked["strategies"]) == 2 * 4 and len(asked["steps"]) == 2 * 5
    assert [(str(a), str(b)) for a, b in asked["supervised"]] == [
        ("recycling_max (ddim-5)", "supervised (direct-1)"),
        ("recycling_max (ddpm-5)", "supervised (direct-1)"),
    ]
    assert [str(b) for _, b in asked["ensembles"][:3]] == [
        "supervised (direct-1)",
        "supervised+supervised (direct-1)",
        "recycling_max+recycling_max (ddim-5)",
    ]
    assert str(asked["steps"][0][1]) == "recycling_max (ddim-5, step 1)"


def test_only_questions_that_the_networks_can_answer() -> None:
    alone = design_of(strategies=("standard", "supervised"), num_steps=(5,))
    assert [q.name for q in questions(alone)] == ["steps"]
    few = {q.name: q for q in questions(design_of(num_steps=(1, 3), samplers=("ddpm",)))}
    assert str(few["supervised"].pairs[0][0]) == "recycling_max (ddpm-3)"
    reversed_order = design_of(strategies=("standard", "recycling_max"), num_steps=(1, 5))
    against = {q.name: q.pairs for q in questions(reversed_order)}["strategies"]
    assert [str(b) for _, b in against] == ["standard (ddim-5)", "standard (ddpm-5)"]
    one = design_of(strategies=("recycling_max", "standard"), num_steps=(1,))
    assert [q.name for q in questions(one)] == ["strategies"]
