"""Progress bars and lines for the terminal, and durations as people write them."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from rich import progress
from rich.console import Console
from rich.text import Text

from recycleseg.names import printable, printable_message

# Called with the amount of work done and the whole amount.
Progress = Callable[[int, int], None]
Item = TypeVar("Item")
# What `parse_duration` takes, in words.
A_TIME = "a time with its unit, such as 90s, 30m, 2h or 1d"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PART_OF_TIME = r"(\d+(?:\.\d+)?)\s*(s(?:ec)?|m(?:in)?|h(?:ours?)?|d(?:ays?)?)"


class Bar:
    """Work done of the whole, a note, the time passed and the time left.

    On a terminal this is a bar; elsewhere, as in the log of a batch job, a line now and then.

    Args:
        console: where it is drawn.
        name: of the work.
        total: amount of work.
        done: amount that is done already.
        lines: whether lines come where there is no terminal.
        brief: whether work of less than a second leaves no line.
    """

    def __init__(
        self,
        console: Console,
        name: str,
        total: int,
        *,
        done: int = 0,
        lines: bool = True,
        brief: bool = False,
    ) -> None:
        columns = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[note]}", markup=False),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
        )
        drawn = console.is_interactive or console.is_jupyter
        self._bar = progress.Progress(*columns, console=console, disable=not drawn)
        self._task = self._bar.add_task(printable(name), total=total, completed=done, note="")
        self._lines = _Lines(console, name, total, done, brief) if lines and not drawn else None

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @contextmanager
    def part(self, name: str, total: int) -> Iterator[Bar]:
        """A second bar below this one for a part of the work; it goes when the block ends."""
        bar = copy.copy(self)
        bar._task = self._bar.add_task(printable(name), total=total, note="")
        if self._lines is not None:
            bar._lines = _Lines(self._bar.console, name, total, 0, brief=True)
        try:
            yield bar
        finally:
            self._bar.remove_task(bar._task)

    def reach(self, done: float) -> None:
        """Show the amount done so far."""
        self._bar.update(self._task, completed=done)
        if self._lines is not None:
            self._lines.reach(done)

    def note(self, text: str) -> None:
        """Show `text` beside the bar."""
        self._bar.update(self._task, note=printable(text))
        if self._lines is not None:
            self._lines.note = text


class _Lines:
    """Progress in lines: after each tenth of the work or ten minutes, and at the end.

    No line comes within half a minute of the last one, but that of the end.
    """

    SECONDS_BETWEEN, LONGEST_SILENCE, SHARE = 30, 600, 0.1

    def __init__(self, console: Console, name: str, total: int, done: float, brief: bool) -> None:
        self._brief = brief
        self._console = console
        self._name = name
        self._total = total
        self._start = self._last_time = time.monotonic()
        self._first = self._last = done
        self.note = ""

    def reach(self, done: float) -> None:
        now = time.monotonic()
        silence, more = now - self._last_time, (done - self._last) / max(self._total, 1)
        ended = done >= self._total > self._last
        due = more >= self.SHARE or silence >= self.LONGEST_SILENCE
        if not ended and not (due and silence >= self.SECONDS_BETWEEN and done < self._total):
            return
        self._last_time, self._last = now, done
        passed = now - self._start
        if ended and self._brief and passed < 1:
            return
        parts = [f"{self._name}: {int(done)}/{self._total}"]
        if ended:
            parts.append(f"in {format_duration(passed)}")
        else:
            left = passed / max(done - self._first, 1e-9) * (self._total - done)
            parts.append(f"after {format_duration(passed)}, about {format_duration(left)} left")
        line = " ".join(parts)
        print_line(self._console, f"{line}; {self.note}" if self.note else line)


class _PlainConsole(Console):
    """A console that escapes what would not be seen, in lines, tables and titles alike."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable_message(text), **options)


def plain_console(**options: Any) -> Console:
    """A console that shows names as they are: [x] is no markup, :x: no picture, ESC no code.

    Args:
        options: of `rich.console.Console`.
    """
    return _PlainConsole(markup=False, emoji=False, **options)


def print_line(console: Console, line: str) -> None:
    """Print a line as it is: not wrapped, without markup and colours.

    Only the lines of a list stay lines; see `recycleseg.files.listed`.
    """
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def print_text(console: Console, text: str) -> None:
    """Print a text of several lines as it is; see `print_line`."""
    for line in text.split("\n"):
        print_line(console, line)


@contextmanager
def stages(console: Console, *names: str, brief: bool = False) -> Iterator[Progress]:
    """Draw one bar after the other, for work in stages.

    Nothing is drawn before the first call, so that no bar appears for data from the cache.

    Args:
        console: where they are drawn.
        names: of the stages.
        brief: see `Bar`.

    Yields:
        A callback. When it gets 1 as the amount done, the bar of the next stage begins.
    """
    waiting = iter(names)
    bars: list[Bar] = []
    with ExitStack() as stack:

        def show(done: int, total: int) -> None:
            if done == 1:
                stack.close()  # the bar of the stage before
                bars.append(stack.enter_context(Bar(console, next(waiting), total, brief=brief)))
            bars[-1].reach(done)

        yield show


def followed(items: Iterable[Item], total: int, progress: Progress | None) -> Iterator[Item]:
    """The same items; after each is used, `progress` is told how many there were."""
    for done, item in enumerate(items, 1):
        yield item
        if progress is not None:
            progress(done, total)


def part_of(whole: Progress | None, index: int, number: int) -> Progress | None:
    """A callback for part `index` of `number` equal parts, which reports to that of the whole.

    None stays None.
    """
    if whole is None:
        return None
    return lambda done, total: whole(index * total + done, number * total)


def format_duration(seconds: float) -> str:
    """A duration as hours and minutes, minutes and seconds, or only seconds."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours:
        return f"{hours} h {m} min"
    return f"{m} min {s} s" if m else f"{s} s"


def parse_duration(text: str) -> float:
    """Seconds from a text such as "90s", "30m", "30 min", "1.5h", "1h30m" or "2d".

    Raises:
        ValueError: another text, or no time at all.
    """
    parts = re.findall(rf"{_PART_OF_TIME}\s*", text)
    seconds = sum(float(number) * _SECONDS[unit[0]] for number, unit in parts)
    if re.fullmatch(rf"\s*(?:{_PART_OF_TIME}\s*)+", text) is None or seconds == 0:
        raise ValueError(f"time: expected {A_TIME}, got {text!r}")
    return seconds
