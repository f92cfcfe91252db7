"""The report of many cases in headless Chromium: time, memory, rows that come into view."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_scores import synthetic_scores
from tests.hostile_names import HOSTILE
from tests.report.chromium import Page, cpu_seconds, own_mebibytes

from recycleseg.evaluation import FolderScores
from recycleseg.names import printable
from recycleseg.report.columns import shown_columns, size_columns
from recycleseg.report.html import write_report

ROWS = "#case-table tbody:not([aria-hidden]) tr"
# Goes through the whole table, a screen at a time: rows by their number in the table.
SCROLL_THROUGH = f"""(async () => {{
    const box = document.querySelector(".tall");
    const seen = new Map();
    for (let top = 0; ; top += box.clientHeight) {{
        box.scrollTop = top;
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        for (const row of document.querySelectorAll("{ROWS}"))
            seen.set(Number(row.ariaRowIndex), [...row.cells].map((cell) => cell.textContent));
        if (box.scrollTop + box.clientHeight > box.scrollHeight - 1) break;
    }}
    return [...seen].sort(([a], [b]) => a - b);
}})()"""


def expected_rows(scores: FolderScores) -> list[list[str]]:
    """The texts of all rows before the remark."""
    final = scores.by_step[-1]
    columns = [*shown_columns(final), *size_columns(final)]
    return [
        [case_id, label, *(column.text(column.values[b, c]) for column in columns)]
        for b, case_id in enumerate(scores.case_ids)
        for c, label in enumerate(scores.labels)
    ]


def all_rows(page: Page) -> list[list[str]]:
    """The texts of all rows before the remark, as a reader who scrolls sees them."""
    seen = page.evaluate(SCROLL_THROUGH)
    assert [number for number, _ in seen] == [*range(2, len(seen) + 2)]
    return [texts[:-1] for _, texts in seen]


def number_drawn(page: Page) -> int:
    number: int = page.evaluate(f"document.querySelectorAll('{ROWS}').length")
    return number


def sort_by(page: Page, column: int) -> None:
    header = f"document.querySelectorAll('#case-table thead th')[{column}]"
    page.evaluate(f"{header}.querySelector('button').click()")


def write(path: Path, scores: FolderScores, **options: Any) -> Path:
    write_report(path, scores, **{"title": "Many", "images": {}, **options})
    return path


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[FolderScores, Path]:
    """600 rows, which are several times as many as are drawn at once."""
    scores = synthetic_scores(120, 5)
    return scores, write(tmp_path_factory.mktemp("many") / "report.html", scores)


def test_a_thousand_cases_open_and_sort_fast(
    page: Page, tmp_path: Path, count: Callable[[str], None]
) -> None:
    path = write(tmp_path / "report.html", synthetic_scores(1000, 15))
    assert path.stat().st_size < 4e6
    start = time.monotonic()
    page.open(path)
    page.draw()
    opened = time.monotonic() - start
    pid, opening = page.process()
    said = [f"opens in {opened:.1f} s ({opening:.2f} s of CPU)"]
    assert page.evaluate("document.getElementById('filter-count').textContent") == "15000 rows"
    assert page.evaluate("document.getElementsByTagName('*').length") < 3000
    for column, name in ((0, "case"), (2, "Dice"), (2, "Dice down"), (4, "HD95")):
        start, before = time.monotonic(), cpu_seconds(pid)
        sort_by(page, column)
        page.draw()
        took, sorting = time.monotonic() - start, cpu_seconds(pid) - before
        said.append(f"sorts by {name} in {took:.2f} s ({sorting:.2f} s)")
        # Wanted are 0.5 s. Where other programs work too, only the CPU time tells.
        assert sorting < 0.5 and took < 5
    page.evaluate("document.querySelector('.tall').scrollTop = 1e9")
    page.draw()
    memory = own_mebibytes(pid)
    count(
        f"report.html of 1000 cases and 15 structures {', '.join(said)}; then its process has "
        f"{memory:.0f} MiB of its own"
    )
    assert opening < 2 and opened < 20
    assert memory < 150
    assert page.problems == []


@pytest.mark.parametrize("width", [390, 1200])
def test_who_scrolls_sees_all_rows(page: Page, many: tuple[FolderScores, Path], width: int) -> None:
    scores, path = many
    page.open(path, width=1200)
    page.resize(width)
    page.draw()
    assert number_drawn(page) < 200
    assert all_rows(page) == expected_rows(scores)
    assert number_drawn(page) < 200
    widths = "[...document.querySelectorAll('#case-table thead th')].map((th) => th.offsetWidth)"
    at_end = page.evaluate(widths)
    page.evaluate("document.querySelector('.tall').scrollTop = 0")
    page.draw()
    assert page.evaluate(widths) == at_end
    assert page.problems == []


@pytest.mark.parametrize(("column", "metric"), [(2, "dice"), (4, "hd95"), (7, "pred_volume_ml")])
def test_numbers_are_sorted_and_missing_ones_are_last(
    page: Page, many: tuple[FolderScores, Path], column: int, metric: str
) -> None:
    scores, path = many
    values = scores.by_step[-1].table[metric].ravel()
    missing = np.isnan(values)
    assert missing.any() == (metric != "pred_volume_ml")
    assert np.isinf(values).any() == (metric == "hd95")
    # The page sorts by six digits. Rows with the same keep the order that they had.
    keys = np.array([float(f"{value:.6g}") for value in values])
    up = np.lexsort([keys, missing])
    down = up[np.lexsort([-keys[up], missing[up]])]
    rows = expected_rows(scores)
    page.open(path)
    for order in (up, down):
        sort_by(page, column)
        assert all_rows(page) == [rows[row] for row in order]


def test_sorting_keeps_the_place(page: Page, many: tuple[FolderScores, Path]) -> None:
    scores, path = many
    page.open(path)
    page.evaluate("document.querySelector('.tall').scrollIntoView({ behavior: 'instant' })")
    page.evaluate("document.querySelector('.tall').scrollTop = 8000")
    page.draw()
    sort_by(page, 1)
    page.draw()
    assert page.evaluate("document.querySelector('.tall').scrollTop") == 8000
    in_view = """(() => {
        const { left, top } = document.querySelector(".tall").getBoundingClientRect();
        const cell = document.elementFromPoint(left + 9, top + 200);
        return [cell.textContent, Number(cell.closest("tr").ariaRowIndex)];
    })()"""
    text, number = page.evaluate(in_view)
    names = [case_id for _ in scores.labels for case_id in scores.case_ids]
    assert 200 < number < 300 and text == names[number - 2]


def test_names_are_sorted_by_the_numbers_in_them(page: Page, tmp_path: Path) -> None:
    scores = synthetic_scores(30, 11)
    names = {case_id: f"scan {b + 1}" for b, case_id in enumerate(scores.case_ids)}
    renamed = dataclasses.replace(
        scores,
        case_ids=tuple(reversed(names.values())),
        prediction_files=dict.fromkeys(names.values(), Path("p.nii.gz")),
        reference_files=dict.fromkeys(names.values(), Path("r.nii.gz")),
    )
    page.open(write(tmp_path / "report.html", renamed))
    sort_by(page, 0)
    assert [row[0] for row in all_rows(page)[::11]] == [*names.values()]
    sort_by(page, 1)  # the cases of a structure keep their order
    rows = [tuple(row[:2]) for row in all_rows(page)]
    assert rows == [(case_id, name) for name in scores.labels for case_id in names.values()]


def test_filters_look_at_all_rows(page: Page, many: tuple[FolderScores, Path]) -> None:
    scores, path = many
    page.open(path)
    page.evaluate("document.getElementById('filter-text').value = 'STRUCTURE _11'")
    page.evaluate("document.getElementById('filter-dice').value = '0.8'")
    page.evaluate("document.forms[0].dispatchEvent(new Event('input'))")
    dice = scores.by_step[-1].table["dice"][110:].ravel()
    found = expected_rows(scores)[550:]
    low = [row for row, value in zip(found, dice, strict=True) if value < 0.8]
    assert 0 < len(low) < 50
    assert all_rows(page) == low
    assert page.evaluate("document.getElementById('case-table').ariaRowCount") == f"{len(low) + 1}"


def test_a_dot_links_to_its_row(page: Page, many: tuple[FolderScores, Path]) -> None:
    scores, path = many
    page.open(path)
    dice = scores.by_step[-1].table["dice"]
    b = int(np.nanargmin(np.where(dice[:, 1] > 0, dice[:, 1], np.nan)))
    nth = int(np.isfinite(dice[:b, 1]).sum())
    place = f"""(() => {{
        const chart = document.querySelector(".chart");
        const path = chart.querySelectorAll(".dots")[1];
        chart.scrollIntoView({{ behavior: "instant", block: "center" }});
        const [, x, y] = [...path.getAttribute("d").matchAll(/M([\\d.]+),([\\d.]+)/g)][{nth}];
        const at = new DOMPoint(x, y - 2.6).matrixTransform(chart.getScreenCTM());
        return [at.x, at.y];
    }})()"""
    x, y = page.evaluate(place)
    click = {"x": x, "y": y, "button": "left", "clickCount": 1}
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    text = page.evaluate("document.querySelector('.chart a title').textContent")
    assert text == f"{scores.case_ids[b]}: {dice[b, 1]:.3f}"
    page.call("Input.dispatchMouseEvent", type="mousePressed", **click)
    page.call("Input.dispatchMouseEvent", type="mouseReleased", **click)
    page.draw()
    linked = f"[...document.querySelectorAll('{ROWS}.linked th')].map((cell) => cell.textContent)"
    assert page.evaluate(linked) == [scores.case_ids[b]]
    box, row = page.evaluate(
        f"['.tall', '{ROWS}.linked'].map((name) => "
        "{ const { top, bottom } = document.querySelector(name).getBoundingClientRect();"
        " return [top, bottom]; })"
    )
    assert box[0] < row[0] and row[1] < box[1]
    assert page.problems == []


@pytest.mark.parametrize("filtered", [False, True])
def test_printing_gives_all_rows(
    page: Page, many: tuple[FolderScores, Path], filtered: bool
) -> None:
    _, path = many
    page.open(path)
    if filtered:
        page.evaluate("document.getElementById('filter-text').value = '_00'")
        page.evaluate("document.forms[0].dispatchEvent(new Event('input'))")
    count_rows = f"window.printed = document.querySelectorAll('{ROWS}').length"
    page.evaluate(f"addEventListener('beforeprint', () => {{ {count_rows}; }})")
    before = number_drawn(page)
    page.call("Page.printToPDF")
    assert page.evaluate("window.printed") == (50 if filtered else 600)
    assert number_drawn(page) == before < 200


def test_without_scripts_the_first_rows_are_a_plain_table(
    page: Page, many: tuple[FolderScores, Path]
) -> None:
    scores, path = many
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(path)
        texts = f"""[...document.querySelectorAll("{ROWS}")]
            .map((row) => [...row.cells].map((cell) => cell.textContent))"""
        assert [row[:-1] for row in page.evaluate(texts)] == expected_rows(scores)[:200]
        assert "The first 200 of 600 rows" in page.evaluate("document.body.innerText")
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)
    page.open(path)
    assert "The first 200" not in page.evaluate("document.body.innerText")


def test_hostile_names_stay_text(page: Page, tmp_path: Path) -> None:
    script = "</script><script>document.title = 'owned'</script>"
    names = [*HOSTILE.values(), script, "<!--<script>"]
    labels = [name for name in names if {"<", "{", '"'} & set(name)]
    scores = synthetic_scores(len(names), len(labels))
    hostile = dataclasses.replace(
        scores,
        case_ids=tuple(names),
        labels=dict.fromkeys(labels, 1),
        by_step=(dataclasses.replace(scores.by_step[-1], labels=tuple(labels)),),
        prediction_files=dict.fromkeys(names, Path("p.nii.gz")),
        reference_files=dict.fromkeys(names, Path("r.nii.gz")),
    )
    page.open(write(tmp_path / "report.html", hostile))
    assert page.problems == []
    assert page.evaluate("document.title") == "Many"
    assert [row[:2] for row in all_rows(page)] == [
        [printable(case_id), printable(label)] for case_id in names for label in labels
    ]
    made = "document.querySelectorAll('#case-table :is(b, i, u, img, script)').length"
    assert page.evaluate(made) == 0
    assert page.evaluate("document.scripts.length") == 2
    assert page.problems == []
