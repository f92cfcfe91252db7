"""Names as data: each output shows them, and none obeys them."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import pytest
from rich.table import Table
from tests.hostile_names import FILES, HOSTILE, controls

from recycleseg.files import listed, part_of_file, write_text
from recycleseg.names import (
    case_problem,
    csv_cell,
    file_name,
    name_in_cell,
    printable,
    printable_message,
)
from recycleseg.progress import Bar, plain_console, print_line, print_text

hostile = pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)


@hostile
def test_printable_names_have_nothing_that_acts(name: str) -> None:
    shown = printable(name)
    assert not controls(shown) and "\n" not in shown
    assert printable(shown) == shown
    shown.encode()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[31m", r"\x1b[31m"),
        ("a\nb\r\t", r"a\nb\r\t"),
        ("caf\udce9", r"caf\xe9"),
        ("\ud83d", r"\ud83d"),
        ("a\u202eb", r"a\u202eb"),
        ("\u5de6 \u00e9", "\u5de6 \u00e9"),
        ("\u0645\u06cc\u200c\u0631", "\u0645\u06cc\u200c\u0631"),
        ("\U000e0041", r"\U000e0041"),
        ("left [/b]", "left [/b]"),
        ("", ""),
    ],
)
def test_printable(name: str, shown: str) -> None:
    assert printable(name) == shown


def test_messages_keep_the_lines_of_lists_alone() -> None:
    message = listed("head", ["a\nb", listed("inner", ["c\x1b"])])
    assert printable_message(message) == "head\n  - a\\nb\n  - inner\n    - c\\x1b"


@hostile
def test_no_cell_is_a_formula(name: str) -> None:
    cell = csv_cell(name)
    assert name_in_cell(cell) == printable(name)
    for part in cell.split(";"):  # where the semicolon separates cells
        assert not part.startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d"))


@hostile
def test_file_names_are_safe(name: str, tmp_path: Path) -> None:
    made = file_name(name)
    assert Path(made).name == made and made not in ("", ".", "..")
    assert not made.startswith((".", "-", " ")) and not made.endswith((".", " "))
    assert not set(made) & set('<>:"/\\|?*\n\0') and not controls(made)
    assert made.split(".")[0].casefold() not in ("con", "nul")
    assert len(made.encode()) <= 113
    write_text(tmp_path / f"{made}.image.npy", "")


def test_file_names_of_distinct_names_are_distinct() -> None:
    names = [*HOSTILE.values(), "Con", "con", "a", "A", "a ", "a.", "n" * 299, "", "a/b", "a_b"]
    names += [file_name(name) for name in names]  # also those that look like made ones
    made = {name: file_name(name).casefold() for name in names}
    for one, other in itertools.combinations(dict.fromkeys(names), 2):
        assert made[one] != made[other], (one, other)


@pytest.mark.parametrize("name", ["task04_heart", "c0", "us 12.5-a", "1", "_x", "n" * 100])
def test_ordinary_names_stay(name: str) -> None:
    assert file_name(name) == name


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("../../x", "_.._x-"),
        ("HC [/18]", "hc __18_-"),
        ("CON", "_con-"),
        ("Gr\u00f6\u00dfe", "gr\u00f6sse-"),
    ],
)
def test_other_names_can_be_recognised(name: str, made: str) -> None:
    start, end = file_name(name)[: len(made)], file_name(name)[len(made) :]
    assert start == made and len(end) == 12


@pytest.mark.parametrize("name", ["case_1", "left [mm]", "=1", "-x", "CON", "\u5de6", "a b", "$x$"])
def test_sound_names_of_cases(name: str) -> None:
    assert case_problem(name) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("caf\udce9", r"caf\xe9: expected a case name in UTF-8 without control codes"),
        ("a\x1b[31m", r"a\x1b[31m: expected a case name in UTF-8 without control codes"),
        ("a\nb", r"a\nb: expected a case name in UTF-8 without control codes"),
        ("abc\u202egnp", r"abc\u202egnp: expected a case name in UTF-8"),
        ("../x", "'../x': expected a case name without /"),
        ("/x", "'/x': expected a case name without /"),
        ("", "'': expected a case name"),
        (".x", "'.x': expected a case name without / and without a dot at its start"),
        ("n" * 249, "expected a case name of up to 248 bytes, got 249"),
    ],
)
def test_other_names_of_cases(name: str, words: str) -> None:
    problem = case_problem(name)
    assert problem is not None and words in problem
    assert "\n" not in problem and not controls(problem)


@hostile
@pytest.mark.parametrize("terminal", [False, True])
def test_consoles_show_names_and_obey_none(name: str, terminal: bool) -> None:
    text = io.StringIO()
    console = plain_console(file=text, width=2000, force_terminal=terminal, color_system=None)
    table = Table(title=name, caption=name, box=None)
    table.add_column(name)
    table.add_row(name)
    console.print(table)
    console.print(name)
    print_line(console, name)
    print_text(console, f"first\n{printable(name)}")
    shown = text.getvalue()
    assert not controls(shown)
    assert shown.count(printable(name)) >= 7


@hostile
def test_bars_show_names_and_obey_none(name: str) -> None:
    text = io.StringIO()
    console = plain_console(file=text, width=2000, force_terminal=True, color_system=None)
    with Bar(console, f"<{name}>", 1) as bar, bar.part(name, 1) as part:
        part.note(name)
        bar.note(name)
    assert f"<{printable(name)}>" in text.getvalue()
    # Of the codes that a bar needs itself, none has letters but those that move the cursor.
    assert not {"\x07", "\x9b", "\b", "\0", "\u202e", "\u2028"} & set(text.getvalue())
    assert "[31m" not in text.getvalue().replace(r"\x1b[31m", "").replace(r"\x9b31m", "")


@pytest.mark.parametrize("name", FILES.values(), ids=FILES)
def test_temporary_files_of_all_names(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.nii.gz"
    write_text(path, "x")
    assert path.read_text() == "x" and len(list(tmp_path.iterdir())) == 1


def test_temporary_names_of_long_names_fit_and_differ(tmp_path: Path) -> None:
    paths = [tmp_path / f"{'n' * 240}{k}.nii.gz" for k in range(2)]
    parts = [part_of_file(path) for path in paths]
    assert parts[0] != parts[1]
    for path, part in zip(paths, parts, strict=True):
        assert part.name.startswith(".part-") and part.name.endswith(".nii.gz")
        write_text(path, "x")
