"""How far the work is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from recycleseg.progress import Bar, followed, format_duration, part_of, plain_console, stages


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
