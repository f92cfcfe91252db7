"""The report in headless Chromium."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.report.chromium import Page

from recycleseg.report.html import write_report


@pytest.fixture
def report(evaluated: Callable[..., Any], tmp_path: Path) -> Path:
    """The report of seven cases; two miss the first structure and one does not contain it."""
    scores, images = evaluated(steps=3, entropy=True, missed=(1, 4), absent=(2,))
    path = tmp_path / "report.html"
    write_report(path, scores, title="Boxes", images=images, details={"Model": "none"})
    return path


def column(page: Page, number: int) -> list[str]:
    """Texts of a column of the table of cases, without hidden rows."""
    script = f"""[...document.querySelectorAll("#case-table tbody:not([aria-hidden]) tr")]
        .filter((row) => row.offsetParent).map((row) => row.cells[{number}].textContent)"""
    texts: list[str] = page.evaluate(script)
    return texts


def click_header(page: Page, number: int) -> str | None:
    """Click a header of the table of cases; gives the direction of sorting after the click."""
    header = f"document.querySelectorAll('#case-table thead th')[{number}]"
    page.evaluate(f"{header}.querySelector('button').click()")
    direction: str | None = page.evaluate(f"{header}.getAttribute('aria-sort')")
    return direction


def fill(page: Page, name: str, value: str) -> None:
    """Type into a field of the filter."""
    field = f"document.getElementById('filter-{name}')"
    page.evaluate(f"{field}.value = '{value}'")
    page.evaluate(f"{field}.dispatchEvent(new Event('input', {{bubbles: true}}))")


def numbers(texts: list[str]) -> list[float]:
    """The values of all texts that are not a dash."""
    return [float(text.replace("−", "-").replace("∞", "inf")) for text in texts if text != "–"]


def test_it_renders_and_loads_nothing(page: Page, report: Path) -> None:
    page.open(report)
    assert page.problems == []
    assert page.requests == [report.as_uri()]
    assert page.evaluate("document.title") == "Boxes"
    broken = """[...document.querySelectorAll("svg image")]
        .filter((image) => image.getBBox().width === 0).length"""
    assert page.evaluate(broken) == 0
    decode = """(image) => {
        const picture = new Image();
        picture.src = image.href.baseVal;
        return picture.decode().then(() => picture.naturalWidth);
    }"""
    sizes = page.evaluate(f"Promise.all([...document.querySelectorAll('svg image')].map({decode}))")
    assert len(sizes) == 6 * 9 and min(sizes) > 0


@pytest.mark.parametrize("width", [320, 390, 768, 1200])
def test_nothing_is_wider_than_the_window(page: Page, report: Path, width: int) -> None:
    page.open(report, width=width)
    inner, outer = page.evaluate(
        "[document.scrollingElement.scrollWidth, document.scrollingElement.clientWidth]"
    )
    assert inner <= outer <= width
    size = "parseFloat(getComputedStyle(document.querySelector('.chart')).width) / 350 * 12"
    assert page.evaluate(size) > 9  # px, the size of text in charts


def test_a_click_on_a_header_sorts(page: Page, report: Path) -> None:
    page.open(report)
    before = column(page, 2)
    assert click_header(page, 2) == "ascending"
    up = column(page, 2)
    assert numbers(up) == sorted(numbers(before)) and up[-1] == "–"
    assert click_header(page, 2) == "descending"
    down = column(page, 2)
    assert numbers(down) == sorted(numbers(before), reverse=True) and down[-1] == "–"
    assert click_header(page, 4) == "ascending"  # HD95, which is infinite in two cases
    distances = numbers(column(page, 4))
    assert distances == sorted(distances) and distances[-2:] == [float("inf")] * 2
    assert click_header(page, 1) == "ascending"
    assert column(page, 1) == ["core"] * 7 + ["shell"] * 7
    sorted_headers = "document.querySelectorAll('#case-table th[aria-sort]').length"
    assert page.evaluate(sorted_headers) == 1
    assert page.problems == []


def test_headers_sort_by_keyboard(page: Page, report: Path) -> None:
    page.open(report)
    page.evaluate("document.querySelectorAll('#case-table thead button')[0].focus()")
    for kind in ("keyDown", "keyUp"):
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        page.call("Input.dispatchKeyEvent", type=kind, **key)
    assert page.evaluate("document.querySelector('#case-table th').ariaSort") == "ascending"


def test_filters_hide_rows(page: Page, report: Path) -> None:
    page.open(report)
    assert len(column(page, 0)) == 14
    fill(page, "text", "B shell")
    assert list(zip(column(page, 0), column(page, 1), strict=True)) == [("b", "shell")]
    assert page.evaluate("document.getElementById('filter-count').textContent") == "1 of 14 rows"
    fill(page, "text", "")
    fill(page, "dice", "0.7")
    low = numbers(column(page, 2))
    assert 0 < len(low) < 14 and max(low) < 0.7
    fill(page, "dice", "")
    page.evaluate("document.getElementById('filter-missed').click()")
    assert column(page, 0) == ["b", "e"]
    assert column(page, 2) == ["0.000", "0.000"]
    assert page.problems == []


def test_a_link_to_a_hidden_row_shows_it(page: Page, report: Path) -> None:
    page.open(report)
    fill(page, "text", "nothing has this name")
    assert column(page, 0) == []
    page.evaluate("document.querySelector('.card h3 a').click()")
    page.evaluate("new Promise((done) => setTimeout(done, 50))")
    assert len(column(page, 0)) == 14


def test_without_scripts_all_rows_are_a_plain_table(page: Page, report: Path) -> None:
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(report)
        assert len(column(page, 0)) == 14
        assert page.evaluate("document.querySelectorAll('#case-table button').length") == 0
        assert page.evaluate("document.getElementById('filters').offsetParent") is None
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)
