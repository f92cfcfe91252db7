"""Headless Chromium, controlled through two pipes, without network or driver."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process since its start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_mebibytes(pid: int) -> float:
    """Memory of a process that no other process shares."""
    sizes = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"^Private_\w+: *(\d+) kB", sizes, re.MULTILINE))) / 1024


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

    def draw(self) -> None:
        """Wait until the page has drawn what has changed."""
        self.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")

    def process(self) -> tuple[int, float]:
        """The page's process, and the CPU time that it had used before this call."""
        kinds = self.call("SystemInfo.getProcessInfo")["processInfo"]
        renderers = [process["id"] for process in kinds if process["type"] == "renderer"]
        before = {pid: cpu_seconds(pid) for pid in renderers}
        # No command tells which process is the page's, so it is the one that works when asked to.
        self.evaluate("(() => { let sum = 0; for (let k = 0; k < 5e8; k++) sum += k; })()")
        pid = max(renderers, key=lambda pid: cpu_seconds(pid) - before[pid])
        return pid, before[pid]

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
        if self._session and not method.startswith("SystemInfo."):  # which the browser has alone
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
