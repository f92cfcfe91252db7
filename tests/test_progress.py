"""How far the work is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from recycleseg.progress import (
    Bar,
    followed,
    format_duration,
    parse_duration,
    part_of,
    plain_console,
    stages,
)


def test_progress_is_told_after_each_item() -> None:
    told: list[tuple[int, int]] = []
    items = followed("abc", 3, lambda done, total: told.append((done, total)))
    for number, (index, item) in enumerate(zip(range(3), items, strict=True)):
        assert (index, item) == (number, "abc"[number])
        assert told == [(k, 3) for k in range(1, number + 1)]
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert list(followed("ab", 2, None)) == ["a", "b"]


def test_parts_make_a_whole() -> None:
    told: list[tuple[int, int]] = []
    for index in range(2):
        part = part_of(lambda done, total: told.append((done, total)), index, 2)
        assert part is not None
        part(1, 3)
        part(3, 3)
    assert told == [(1, 6), (3, 6), (4, 6), (6, 6)]
    assert part_of(None, 0, 2) is None


def test_each_stage_has_a_bar_that_begins_with_its_first_case() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with stages(console, "checking [a]", "preparing") as progress:
        assert isinstance(console.file, io.StringIO) and console.file.getvalue() == ""
        for done in (1, 2):
            progress(done, 2)
        assert "checking [a]" in console.file.getvalue()
        assert "preparing" not in console.file.getvalue()
        progress(1, 3)
    shown = console.file.getvalue()
    assert "2/2" in shown and "preparing" in shown and "1/3" in shown


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.4, "0 s"),
        (59.6, "1 min 0 s"),
        (61, "1 min 1 s"),
        (3600, "1 h 0 min"),
        (7199, "1 h 59 min"),
    ],
)
def test_durations_are_short(seconds: float, expected: str) -> None:
    assert format_duration(seconds) == expected


def test_a_part_has_its_own_bar_while_it_runs() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Bar(console, "training", 10, done=4) as bar:
        with bar.part("validation", 3) as part:
            part.reach(1.5)
            tasks = bar._bar.tasks
            assert [(t.description, t.completed, t.total) for t in tasks] == [
                ("training", 4, 10),
                ("validation", 1.5, 3),
            ]
        assert [task.description for task in bar._bar.tasks] == ["training"]


def test_names_are_shown_as_they_are() -> None:
    written = io.StringIO()
    table = Table("core [/edema]", title="HC [18] :smile:")
    table.add_row("tumour [mm]")
    plain_console(file=written, width=60).print(table)
    for name in ("core [/edema]", "HC [18] :smile:", "tumour [mm]"):
        assert name in written.getvalue()


class Clock:
    """A clock that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


def lines_of(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "\r" not in text and "\x1b" not in text
    return text.splitlines()


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, console = Clock(monkeypatch), Console(file=io.StringIO(), width=200)
    with Bar(console, "training", 1000) as bar:
        for step in range(1, 1001):
            clock.now += 1
            bar.note(f"loss {step}")
            bar.reach(step)
    lines = lines_of(console)
    assert len(lines) == 10
    assert lines[0] == "training: 100/1000 after 1 min 40 s, about 15 min 0 s left; loss 100"
    assert lines[-1] == "training: 1000/1000 in 16 min 40 s; loss 1000"


def test_no_line_comes_within_half_a_minute_or_after_ten_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, console = Clock(monkeypatch), Console(file=io.StringIO(), width=200)
    with Bar(console, "fast", 100) as bar:
        for done in range(1, 101):
            clock.now += 0.1
            bar.reach(done)
    assert lines_of(console) == ["fast: 100/100 in 10 s"]
    console = Console(file=io.StringIO(), width=200)
    with Bar(console, "slow", 100_000) as bar:
        for done in range(1, 41):
            clock.now += 60
            bar.reach(done)
    assert [line.split()[1] for line in lines_of(console)] == [
        f"{done}/100000" for done in (10, 20, 30, 40)
    ]


def test_short_work_that_is_brief_leaves_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, console = Clock(monkeypatch), Console(file=io.StringIO(), width=200)
    for seconds in (0.1, 2.0):
        with stages(console, "reading", brief=True) as progress:
            for done in (1, 2):
                clock.now += seconds
                progress(done, 2)
    assert lines_of(console) == ["reading: 2/2 in 2 s"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("30min", 1800),
        ("1.5 h", 5400),
        ("1h30m", 5400),
        ("1 h 30 min", 5400),
        ("2days", 172800),
    ],
)
def test_durations_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["30", "0s", "m", "30x", "1h30", "-5m", ""])
def test_a_duration_needs_a_unit(text: str) -> None:
    with pytest.raises(ValueError, match="time: expected a time with its unit, such as 90s, 30m"):
        parse_duration(text)
