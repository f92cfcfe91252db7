"""The report in headless Chromium, controlled through two pipes, without network or driver."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recycleseg.report.html import write_report

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)


def find_chromium() -> str | None:
    """Path of Debian's chromium, or None if it is not installed."""
    return shutil.which("chromium")


class Page:
    """A tab, controlled by the Chrome DevTools protocol."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out, self._in = to_browser, from_browser
        self._pending = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, path: Path, *, width: int = 1200, height: int = 900) -> None:
        """Load a file into a window of `width` px and wait until it is loaded."""
        self.resize(width, height)
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        self._wait_for("Page.loadEventFired")

    def resize(self, width: int, height: int = 900, *, scale: float = 1.0) -> None:
        """Show the page as on a screen of this size in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale}
        self.call("Emulation.setDeviceMetricsOverride", mobile=width < 600, **metrics)

    def evaluate(self, expression: str) -> Any:
        """The JSON value of an expression in the page."""
        options = {"returnByValue": True, "awaitPromise": True}
        answer = self.call("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    @property
    def problems(self) -> list[str]:
        """Messages of the console and errors of scripts and requests."""
        self.evaluate("0")  # its answer comes after all earlier events
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [json.dumps(e["params"]) for e in self.events if e["method"] in kinds]

    @property
    def requests(self) -> list[str]:
        """Addresses that the page requested, without data inside the page."""
        sent = [e["params"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        urls = [params["request"]["url"] for params in sent]
        return [url for url in urls if not url.startswith("data:")]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the protocol and wait for its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._out, content) :]
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _wait_for(self, method: str) -> None:
        while not any(event["method"] == method for event in self.events):
            self.events.append(self._receive())

    def _receive(self, seconds: float = 60.0) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while b"\0" not in self._pending:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._in], [], [], max(left, 0))
            piece = os.read(self._in, 1 << 20) if ready else b""
            if not piece:
                raise TimeoutError("Chromium closed" if ready else f"no answer in {seconds} s")
            self._pending += piece
        message, _, self._pending = self._pending.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


@contextlib.contextmanager
def open_chromium(executable: str, profile: Path) -> Iterator[Page]:
    """A tab of a new browser that keeps its settings and cache in the folder `profile`."""
    commands_in, commands_out = os.pipe()
    answers_in, answers_out = os.pipe()
    # Chromium reads commands from descriptor 3 and writes answers to 4.
    shell = f'exec 3<&{commands_in} 4>&{answers_out}; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", executable, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(commands_in, answers_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(commands_in)
    os.close(answers_out)
    try:
        page = Page(commands_out, answers_in)
        yield page
        page.call("Browser.close")
    finally:
        os.close(commands_out)
        os.close(answers_in)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A tab of a new browser."""
    executable = find_chromium()
    if executable is None:
        pytest.skip("chromium not found; Debian has it: apt-get install chromium")
    with open_chromium(executable, tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def report(evaluated: Callable[..., Any], tmp_path: Path) -> Path:
    """The report of seven cases; two miss the first structure and one does not contain it."""
    scores, images = evaluated(steps=3, entropy=True, missed=(1, 4), absent=(2,))
    path = tmp_path / "report.html"
    write_report(path, scores, title="Boxes", images=images, details={"Model": "none"})
    return path


def column(page: Page, number: int) -> list[str]:
    """Texts of a column of the table of cases, without hidden rows."""
    script = f"""[...document.querySelectorAll("#case-table tbody tr")]
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


def test_five_hundred_cases_open_fast(
    page: Page, evaluated: Callable[..., Any], tmp_path: Path
) -> None:
    case_ids = tuple(f"case_{number:03d}" for number in range(500))
    scores, _ = evaluated(case_ids=case_ids, labels={"a": 1, "b": 2, "c": 3}, dims=2)
    path = tmp_path / "report.html"
    write_report(path, scores, title="Many", images={})
    assert path.stat().st_size < 3e6
    start = time.monotonic()
    page.open(path)
    assert len(column(page, 0)) == 1500
    assert time.monotonic() - start < 10  # an idle machine takes 1 or 2 s
    start = time.monotonic()
    click_header(page, 2)
    fill(page, "text", "case_499")
    assert column(page, 0) == ["case_499"] * 3
    assert time.monotonic() - start < 5
