"""Every sentence of a report: few and many cases, lost pairs, NaN, zeros, equal values, ties."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from recycleseg.evaluation import FolderScores, compare, summarise_folder
from recycleseg.evaluation.printing import comparison_table, scores_table, steps_table
from recycleseg.metrics.scores import Scores
from recycleseg.report.html import write_report
from recycleseg.report.sentences import Presence, headline, trend

NAN, INF = np.nan, np.inf
NUMBERS = (1, 2, 5, 6, 40)
KINDS = ("usual", "lost", "nan", "zero", "equal", "ties", "hardly")
LABELS = ("a", "b")
# What the reader must not find with few cases.
CONCLUSIONS = re.compile(
    r"\b(improves|declines|holds|better|significant|no structure was missed|95 % interval)\b"
)


def dice_of(kind: str, num: int, seed: int = 0) -> np.ndarray:
    """Dice (num, 2) of a kind of data set."""
    rng = np.random.default_rng([num, seed])
    dice = rng.uniform(0.5, 0.9, (num, 2))
    if kind in ("nan", "lost"):
        dice[:: 2 if kind == "nan" else 3, 1] = NAN if kind == "nan" else 0.0
    if kind == "zero":
        dice[:] = 0
    if kind == "equal":
        dice[:] = 0.75
    if kind == "ties":
        dice = np.round(dice, 1)
    if kind == "hardly":
        dice[0, 0] = 0.002
    return dice


def scores_of(dice: list[np.ndarray], lost: bool = False, root: str = "pred") -> FolderScores:
    """An evaluation whose other metrics follow from Dice, by sampling step."""
    num = len(dice[0])
    case_ids = tuple(f"c{index}" for index in range(num))
    steps = []
    for of_step in dice:
        absent = np.isnan(of_step)
        missed = (of_step == 0) & lost
        distance = np.where(missed, INF, 10 * (1 - of_step))
        ref = np.where(absent, 0.0, 2.0)
        table = {
            "dice": of_step,
            "iou": of_step / (2 - of_step),
            "nsd": of_step,
            "hd95": distance,
            "assd": distance,
            "pred_volume_ml": np.where(missed, 0.0, ref),
            "ref_volume_ml": ref,
        }
        steps.append(
            Scores(
                labels=LABELS,
                table=table,
                batched=True,
                spacing=(1.0, 1.0, 1.0),
                tolerances_mm=(1.0,),
                percentile=95.0,
                definitions=("voxel",),
                border_is_outside=True,
                outcomes=np.ones((num, 2, 4), np.int64),
            )
        )
    files = {case_id: Path(root, case_id) for case_id in case_ids}
    return FolderScores(case_ids, {"a": 1, "b": 2}, tuple(steps), files, files, (Path(root),))


def cases() -> list[tuple[str, int]]:
    return [*itertools.product(KINDS, NUMBERS)]


@pytest.mark.parametrize(("kind", "num"), cases())
def test_headlines(kind: str, num: int) -> None:
    scores = scores_of([dice_of(kind, num)], lost=kind == "lost")
    final, groups = scores.by_step[-1], scores.groups()
    dice = final.table["dice"]
    said = headline(final, scores.case_ids, groups)
    assert said.endswith(".") and "nan" not in said and ".." not in said and "None" not in said
    assert not re.search(r"no structure was missed|better|worse", said)
    assert f"{num} case" in said
    few, equal = num < 6, len(np.unique(dice[~np.isnan(dice)])) == 1
    assert ("too few for conclusions" in said) == few
    rare = (np.isfinite(dice).sum(0) < 6).any()
    spread = any(len(np.unique(c[~np.isnan(c)])) > 1 for c in dice.T)
    assert ("95 % interval" in said) == (not few and not rare and spread)
    if np.isnan(dice).any():
        assert ("where it has a value" if num > 1 else "1 of 2 structures of 1 case") in said
        assert "b is in neither map of" in said
    if kind == "lost":
        assert "b was missed in" in said
    if kind in ("zero", "hardly"):
        assert "a has Dice below 0.1 in" in said
    if kind == "hardly":
        assert "The lowest is 0.002 (a in c0)" in said
    if equal and np.isfinite(dice).sum() > 1:
        assert f"All {np.isfinite(dice).sum()} values are equal" in said


@pytest.mark.parametrize(("kind", "num"), cases())
@pytest.mark.parametrize("change", ["none", "up", "down", "mixed"])
def test_trends(kind: str, num: int, change: str) -> None:
    first = dice_of(kind, num)
    amount = {"none": 0.0, "up": 0.01, "down": -0.01, "mixed": 0.01 * (-1) ** np.arange(num)}[
        change
    ]
    # Changes differ but for rounding.
    steps = amount * (1 + np.arange(num) / 100)
    said = trend(first, first + np.reshape(steps, (-1, 1)), np.arange(num))
    assert said.sentence.endswith(".") and "nan" not in said.sentence
    if num < 6:
        assert said.verdict == "unknown" and not CONCLUSIONS.search(said.sentence)
        assert "too few" in said.sentence
        return
    assert said.verdict == {"up": "improves", "down": "declines"}.get(change, "unclear")
    assert ("95 % interval" in said.sentence) == (change in ("up", "down"))
    assert f"{num} cases" in said.sentence
    if change == "none":
        assert "does not change in each of" in said.sentence


def test_equal_changes_have_no_interval() -> None:
    first = np.full((8, 1), 0.5)
    said = trend(first, first + 0.25, np.arange(8))
    assert said.sentence == (
        "Dice improves while sampling. From the first sampling step to the last, Dice changes by "
        "+0.250 in each of 8 cases."
    )


def test_trend_counts_patients_and_lost_values() -> None:
    first = np.linspace(0.5, 0.6, 12)[:, None]
    last = first + np.linspace(0.01, 0.02, 12)[:, None]
    assert trend(first, last, np.arange(12)).verdict == "improves"
    said = trend(first, last, np.arange(12) // 3)
    assert said.verdict == "unknown" and "12 cases of 4 patients" in said.sentence
    last[3] = NAN
    assert "(1 value of one of the two steps alone left out)" in (
        trend(first, last, np.arange(12)).sentence
    )
    nothing = trend(first, np.full_like(first, NAN), np.arange(12))
    assert nothing.sentence == "No case has Dice after the first and the last step."


def test_the_headline_counts_patients() -> None:
    scores = scores_of([dice_of("usual", 12)])
    scores = dataclasses.replace(scores, patients={f"c{i}": f"p{i // 3}" for i in range(12)})
    said = headline(scores.by_step[-1], scores.case_ids, scores.groups())
    assert "over 2 structures of 12 cases of 4 patients" in said
    assert "4 patients are too few for conclusions about others" in said
    assert "interval" not in said


def test_presence_sees_what_hardly_overlaps() -> None:
    scores = scores_of([np.array([[0.002, 0.0], [0.5, NAN]])], lost=True)
    presence = Presence.of(scores.by_step[-1])
    assert presence.hardly.tolist() == [[True, False], [False, False]]
    assert presence.missed.tolist() == [[False, True], [False, False]]


def printed(*tables: object) -> str:
    console = Console(width=300, no_color=True)
    with console.capture() as capture:
        for table in tables:
            console.print(table)
    return capture.get()


@pytest.mark.parametrize(("kind", "num"), cases())
def test_all_outputs_agree(
    kind: str, num: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Terminal, report, summary.json and comparison say no more than the data of this kind."""
    monkeypatch.setattr("recycleseg.report.html._case_cards", lambda *_: [])
    last = dice_of(kind, num)
    a = scores_of([np.clip(last - 0.02, 0, 1), last], lost=kind == "lost")
    worse = np.clip(last - 0.1 - np.linspace(0, 0.05, num)[:, None], 0, 1)
    b = scores_of([worse, worse], lost=True, root="other")
    b = dataclasses.replace(b, reference_files=a.reference_files)
    if kind == "lost" and num > 1:
        b = dataclasses.replace(
            b,
            case_ids=b.case_ids[1:],
            by_step=tuple(
                dataclasses.replace(s, table={m: v[1:] for m, v in s.table.items()})
                for s in b.by_step
            ),
        )
    comparison = compare(a, b, names=("A1", "B1"))
    write_report(tmp_path / "report.html", a, title="T", images={}, comparison=comparison)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    main = re.sub(r"<[^>]+>", " ", page[page.index("<main>") :])
    terminal = printed(scores_table(a), steps_table(a), comparison_table(comparison))
    summary = summarise_folder(a)

    for row in comparison.rows:
        tested = row.num_patients >= 6
        assert np.isnan(row.p_value) != tested
        verdict = comparison.verdict(row)
        assert verdict in terminal.replace("A better", "A1 better").replace(
            "B better", "B1 better"
        ).replace("B misses", "B1 misses").replace("A misses", "A1 misses")
        assert verdict in page
        if not tested:
            assert re.fullmatch(r"too few pairs \(\d+\)", verdict)
        elif not np.isnan(row.ci_low):
            excludes = row.ci_low > 0 or row.ci_high < 0
            assert excludes == (verdict != "no difference shown")
    if kind == "lost" and num > 1:
        note = "1 case that only A1 has is not compared: nothing here says how B1 does there"
        assert note in page
    if num < 6:
        assert "too few for conclusions" in terminal
        assert not re.search(r"\b(A|B|A1|B1) better\b", terminal + main)
        assert "Below a mean is its" not in main and "Intervals: percentile" not in main
        assert set(re.findall(r'<strong class="trend">(.*?)</strong>', page)) and not (
            CONCLUSIONS.search(re.findall(r'<strong class="trend">(.*?)</strong>', page)[0])
        )
        ends = [e for of in summary["mean_interval_95"].values() for e in of.values()]
        assert all(end == [None, None] for end in ends)
    # A count stands beside every mean.
    dice = a.by_step[-1].table["dice"]
    for label, column in zip(LABELS, dice.T, strict=True):
        counted = int(np.isfinite(column).sum())
        text = "-" if counted == 0 else f"{np.nanmean(column):.4f}"
        assert re.search(rf"{label} +{re.escape(text)} \(n={counted}[,)]", terminal)
    table = page[page.index('id="summary-table"') : page.index('<dl class="legend">')]
    means = re.findall(r'<td data-name="(?!Cases)[^"]*">(.*?)</td>', table, re.DOTALL)
    assert len(means) == 15 and all(re.search(r">n = \d+( to \d+)?<", cell) for cell in means)
    steps = page[page.index('id="steps"') : page.index('id="comparison"')]
    cells = re.findall(r'<td><span class="value">(.*?)</td>', steps, re.DOTALL)
    assert len(cells) == 6 and all(">n = " in cell for cell in cells)
    assert all(f"n = {row.num_finite}" in page for row in comparison.rows)


def test_pictures_of_equal_cases_have_no_rank(
    evaluated: Callable[..., tuple[FolderScores, object]], tmp_path: Path
) -> None:
    scores, _ = evaluated(case_ids=("a", "d"), dims=2)  # the same shift
    table = {m: np.repeat(v[:1], 2, axis=0) for m, v in scores.by_step[-1].table.items()}
    same = dataclasses.replace(scores.by_step[-1], table=table)
    scores = dataclasses.replace(scores, by_step=(same,))
    write_report(tmp_path / "report.html", scores, title="T", images={})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "All cases have the same mean Dice." in page and "Some cases" in page
    assert 'class="rank"' not in page and "Worst and best" not in page
