"""Paired comparison: what counts as better."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from recycleseg.evaluation import Comparison, FolderScores, compare, evaluate_folder
from recycleseg.evaluation.compare import headline_metrics, higher_is_better

NAN, INF = math.nan, math.inf
Make = Callable[..., FolderScores]


def only_row(a: FolderScores, b: FolderScores, metric: str):
    comparison = compare(a, b, metrics=(metric,))
    (row,) = comparison.rows
    return row, comparison.verdict(row)


def test_a_row_is_scipys_numbers(make_scores: Make) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.85, 0.05, 40), rng.normal(0.80, 0.05, 40)
    row, verdict = only_row(make_scores("x", dice=a), make_scores("y", dice=b), "dice")
    assert (row.label, row.metric, row.num_pairs) == ("tumour", "dice", 40)
    assert (row.mean_a, row.mean_b) == pytest.approx((a.mean(), b.mean()), abs=1e-15)
    assert row.difference == pytest.approx((a - b).mean(), abs=1e-15)
    assert row.p_value == pytest.approx(stats.wilcoxon(a, b).pvalue, rel=1e-9)
    differences = a - b
    averages = [(p + q) / 2 for i, p in enumerate(differences) for q in differences[i:]]
    assert row.typical == pytest.approx(np.median(averages), rel=1e-9)
    # With one test, the interval leaves out averages with p of at most 0.05.
    assert row.ci_low < row.typical < row.ci_high and row.p_adjusted == row.p_value
    assert (row.range_low, row.range_high) == pytest.approx((differences.min(), differences.max()))
    assert (row.better, verdict) == ("a", "x better")


def test_direction_depends_on_the_metric(make_scores: Make) -> None:
    low, high = np.linspace(1, 2, 12), np.linspace(2, 4, 12)
    for metric, better in (("hd95", "a"), ("assd", "a"), ("nsd_2mm", "b"), ("surfel_nsd", "b")):
        assert higher_is_better(metric) == (better == "b")
        a, b = make_scores("x", **{metric: low}), make_scores("y", **{metric: high})
        assert only_row(a, b, metric)[0].better == better
        assert only_row(b, a, metric)[0].better == ("b" if better == "a" else "a")


def test_a_missed_structure_is_the_worst_value(make_scores: Make) -> None:
    a = [INF] * 10 + [1.0] * 2
    b = [9.0] * 10 + [1.5] * 2
    row, verdict = only_row(make_scores("x", hd95=a), make_scores("y", hd95=b), "hd95")
    # The two finite pairs alone would say that a is better.
    assert row.difference == -0.5
    assert (row.num_pairs, row.num_inf_a, row.num_inf_b, row.num_nan) == (12, 10, 0, 0)
    assert (row.num_finite, row.higher, row.ci_low) == (2, "a", INF)
    assert row.better is None and verdict == "no verdict: mean and typical difference disagree"
    all_missed, _ = only_row(
        make_scores("x", hd95=[INF] * 12), make_scores("y", hd95=[9.0] * 12), "hd95"
    )
    assert math.isnan(all_missed.difference) and all_missed.better == "b"


def test_who_misses_more_is_never_better(make_scores: Make) -> None:
    a = [INF] * 2 + [1.0 + i / 100 for i in range(60)]
    b = [5.0] * 2 + [3.0 + i / 50 for i in range(60)]
    row, verdict = only_row(make_scores("x", hd95=a), make_scores("y", hd95=b), "hd95")
    assert row.p_value < 1e-6 and row.ci_high < 0 and row.difference < 0
    assert (row.better, verdict) == (None, "no verdict: x misses more structures")
    a[:2] = [4.0, 4.0]
    assert only_row(make_scores("x", hd95=a), make_scores("y", hd95=b), "hd95")[0].better == "a"


def test_a_structure_that_both_miss_is_no_difference(make_scores: Make) -> None:
    values = [INF, INF, *range(1, 9)]
    row, _ = only_row(make_scores("x", hd95=values), make_scores("y", hd95=values), "hd95")
    assert (row.p_value, row.p_adjusted, row.typical, row.difference) == (1.0, 1.0, 0.0, 0.0)
    assert (row.num_inf_a, row.num_inf_b) == (2, 2)


def test_what_is_not_applicable_is_left_out_and_counted(make_scores: Make) -> None:
    a = [NAN, 0.9, NAN, *[0.5] * 7]
    b = [NAN, NAN, 0.0, *[0.4] * 7]
    row, _ = only_row(make_scores("x", dice=a), make_scores("y", dice=b), "dice")
    assert (row.num_pairs, row.num_nan) == (7, 3)
    assert row.mean_a == pytest.approx(0.5)


def test_too_few_pairs_are_not_tested(make_scores: Make) -> None:
    values = {"dice": [0.9, 0.8, 0.9, 0.8, 0.9], "nsd": [0.9, 0.8, 0.9, 0.8, 0.9]}
    row, verdict = only_row(make_scores("x", **values), make_scores("y", **values), "dice")
    assert math.isnan(row.p_value) and math.isnan(row.p_adjusted) and math.isnan(row.ci_low)
    assert verdict == "too few pairs (5)"


def test_equal_pairs_speak_against_a_difference(make_scores: Make) -> None:
    a = np.array([0.9] * 12)
    verdicts = []
    for num_differing in (0, 6, 10):
        b = a - 0.1 * (np.arange(12) < num_differing)
        row, verdict = only_row(make_scores("x", dice=a), make_scores("y", dice=b), "dice")
        assert row.num_pairs == 12
        verdicts.append(verdict)
    assert verdicts == ["no difference shown", "no difference shown", "x better"]


def test_p_and_intervals_are_of_all_tests_of_the_table(make_scores: Make) -> None:
    rng = np.random.default_rng(2)
    metrics = {m: rng.normal(size=12) for m in ("dice", "nsd", "assd")}
    other = {m: rng.normal(size=12) for m in metrics}
    a, b = make_scores("x", **metrics), make_scores("y", **other)
    comparison = compare(a, b, metrics=tuple(metrics))
    assert comparison.num_tests == 3
    for row in comparison.rows:
        alone, _ = only_row(a, b, row.metric)
        assert row.p_adjusted == pytest.approx(min(1, 3 * alone.p_value), rel=1e-12)
        assert row.ci_low <= alone.ci_low <= alone.ci_high <= row.ci_high


def test_six_pairs_are_too_few_for_two_tests(make_scores: Make) -> None:
    low, high = {"dice": [0.5] * 6}, {"dice": [0.6] * 6}
    assert only_row(make_scores("x", **low), make_scores("y", **high), "dice")[1] == "y better"
    low["nsd"], high["nsd"] = low["dice"], high["dice"]
    comparison = compare(make_scores("x", **low), make_scores("y", **high), metrics=("dice", "nsd"))
    assert {comparison.verdict(row) for row in comparison.rows} == {"too few pairs (6) for 2 tests"}


@pytest.mark.parametrize("seed", range(20))
def test_interval_p_and_verdict_agree(make_scores: Make, seed: int) -> None:
    rng = np.random.default_rng(seed)
    num = int(rng.choice([1, 2, 5, 6, 9, 12, 40]))
    names = ("dice", "nsd", "hd95", "assd")

    def draw(shift: float) -> dict[str, np.ndarray]:
        table = {m: np.round(rng.uniform(0.2, 0.9, num) + shift, 2) for m in names}
        table["hd95"][rng.random(num) < 0.1] = INF
        table["nsd"][rng.random(num) < 0.1] = NAN
        return table

    comparison = compare(
        make_scores("x", **draw(rng.choice([0, 0.1, 0.6]))),
        make_scores("y", **draw(0)),
        metrics=names,
    )
    for row in comparison.rows:
        verdict = comparison.verdict(row)
        if math.isnan(row.ci_low):
            assert verdict.startswith("too few pairs (") and row.better is None
            continue
        assert row.num_patients >= 6
        shown = row.ci_low > 0 or row.ci_high < 0
        # Only rounding parts p * tests from p <= 0.05 / tests.
        assert shown == (row.p_adjusted <= 0.05 * (1 + 1e-12))
        assert shown == (verdict != "no difference shown")
        assert (row.better is not None) == verdict.endswith("better")


def test_scans_of_one_patient_count_once(make_scores: Make) -> None:
    a, b = make_scores("x", dice=[0.9] * 12), make_scores("y", dice=[0.8] * 12)
    row, verdict = only_row(a, b, "dice")
    assert (row.num_patients, verdict) == (12, "x better")
    patients = {f"c{i}": f"p{i // 3}" for i in range(12)}
    grouped = dataclasses.replace(a, patients=patients)
    row, verdict = only_row(grouped, b, "dice")
    assert (row.num_pairs, row.num_patients, verdict) == (12, 4, "too few patients (4)")
    (note,) = compare(grouped, b, metrics=("dice",)).notes()
    assert note == "the 12 cases are of 4 patients; each patient counts once"


def test_cases_are_paired_by_name(make_scores: Make) -> None:
    a = make_scores("x", cases="p q r s", dice=[0.1, 0.2, 0.3, 0.4])
    b = make_scores("y", cases="s q z", dice=[0.5, 0.7, 0.9])
    comparison = compare(a, b, metrics=("dice",))
    assert comparison.case_ids == ("q", "s")
    assert (comparison.num_only_a, comparison.num_only_b) == (2, 1)
    assert comparison.notes() == [
        "2 cases that only x has are not compared: nothing here says how y does there",
        "1 case that only y has is not compared: nothing here says how x does there",
    ]
    assert comparison.rows[0].difference == pytest.approx((0.2 - 0.7 + 0.4 - 0.5) / 2)
    with pytest.raises(ValueError, match="compare: expected cases that both have, got p, .* w"):
        compare(a, make_scores("y", cases="w", dice=[0.5]), metrics=("dice",))


def test_names(make_scores: Make) -> None:
    def names(first: str, second: str) -> tuple[str, str]:
        a, b = make_scores(first, dice=[1.0]), make_scores(second, dice=[1.0])
        comparison = compare(a, b, metrics=("dice",))
        return comparison.name_a, comparison.name_b

    assert names("runs/one", "runs/two") == ("one", "two")
    assert names("one/pred", "two/pred") == ("one/pred", "two/pred")
    assert names("one", "one") == ("A", "B")


def test_folders(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    labels = {"whole": (1, 2), "core": 2}
    a = evaluate_folder(pred, ref, labels=labels, tolerance_mm=(1, 2), definitions=("voxel",))
    b = evaluate_folder(ref, ref, labels=labels, tolerance_mm=(1, 2), definitions=("voxel",))
    assert headline_metrics(a.by_step[-1]) == ("dice", "nsd_1mm", "nsd_2mm", "hd95", "assd")
    comparison: Comparison = compare(a, b)
    assert [(row.label, row.metric) for row in comparison.rows] == [
        (label, metric) for label in labels for metric in headline_metrics(a.by_step[-1])
    ]
    written = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert (written["a"], written["b"], written["num_only_b"]) == ("pred", "ref", 2)
    missed = next(r for r in written["rows"] if (r["label"], r["metric"]) == ("core", "hd95"))
    assert (missed["num_inf_a"], missed["p_value"]) == (1, None)
    assert missed["verdict"] == "too few pairs (3)"
    other = evaluate_folder(ref, ref, labels=labels)
    with pytest.raises(ValueError, match="compare: expected the same settings, got .*2.0.* and"):
        compare(a, other)
    with pytest.raises(ValueError, match="compare: expected the same labels, got"):
        compare(a, evaluate_folder(ref, ref, labels={"all": (1, 2)}))


def test_corrected_references_are_refused(make_scores: Make) -> None:
    a, b, c = (
        dataclasses.replace(make_scores(root, dice=[1.0, 1.0]), reference_hashes=hashes)
        for root, hashes in (
            ("x", {"c0": "1", "c1": "2"}),
            ("moved", {"c0": "1", "c1": "2"}),
            ("x", {"c0": "1", "c1": "3"}),
        )
    )
    assert len(compare(a, b, metrics=("dice",)).case_ids) == 2
    message = "of case c1 for both, got x/c1 and x/c1; it has changed between the evaluations"
    with pytest.raises(ValueError, match=message):
        compare(a, c, metrics=("dice",))


def test_other_references_are_refused(make_scores: Make, tmp_path: Path) -> None:
    def scores(root: str, reference: str) -> FolderScores:
        references = {"c0": tmp_path / "same/c0.nii", "c1": tmp_path / reference}
        made = make_scores(root, dice=[1.0, 1.0])
        return dataclasses.replace(made, reference_files=references)

    for name, content in (("a/c1.nii", b"1"), ("b/c1.nii", b"1"), ("c/c1.nii", b"2")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
    a = scores("x", "a/c1.nii")
    for allowed in ("a/../a/c1.nii", "b/c1.nii", "gone/c1.nii"):
        assert len(compare(a, scores("y", allowed), metrics=("dice",)).case_ids) == 2
    for other in ("c/c1.nii", "gone/c2.nii"):
        files = f"{tmp_path / 'a/c1.nii'} and {tmp_path / other}"
        message = f"compare: expected the same reference of case c1 for both, got {files}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            compare(a, scores("y", other), metrics=("dice",))


def test_headline_metrics_of_definitions(folders: tuple[Path, Path]) -> None:
    scores = evaluate_folder(*folders, definitions=("surfel", "voxel"), percentile=99)
    assert headline_metrics(scores.by_step[-1]) == (
        *("dice", "surfel_nsd", "surfel_hd99", "surfel_assd"),
        *("nsd", "hd99", "assd"),
    )
