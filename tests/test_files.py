"""Files: written whole or not at all."""

from __future__ import annotations

import locale
from collections.abc import Iterator
from pathlib import Path

import pytest

from recycleseg.files import finished_name, listed, part_of_file, read_json, write_text


@pytest.fixture
def ascii_locale() -> Iterator[None]:
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    yield
    locale.setlocale(locale.LC_CTYPE, before)


@pytest.mark.usefixtures("ascii_locale")
def test_text_is_utf_8_in_any_locale(tmp_path: Path) -> None:
    write_text(tmp_path / "x.csv", "Gefäß")
    assert (tmp_path / "x.csv").read_bytes() == "Gefäß".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def test_two_parts_of_one_file_have_two_names(tmp_path: Path) -> None:
    for name in ("x.nii.gz", ".hidden", "a\nb"):
        first, second = (part_of_file(tmp_path / name) for _ in range(2))
        assert first != second and first.parent == tmp_path
        assert finished_name(first.name) == finished_name(name) == name
    assert finished_name(".part-123-x.csv") == "x.csv"  # of earlier versions


def test_a_list_in_a_list_is_indented() -> None:
    inner = listed("folder: two series", ["CT", "Scout"])
    assert listed("2 problems", [inner, "x"]).splitlines() == [
        "2 problems",
        "  - folder: two series",
        "    - CT",
        "    - Scout",
        "  - x",
    ]


def test_numbers_that_json_does_not_have_are_null(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[NaN, Infinity, -Infinity, 1e999, -2.5e3, 1]")
    assert read_json(tmp_path / "a.json") == [None, None, None, None, -2500.0, 1]
