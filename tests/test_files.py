"""Files: written whole or not at all."""

from __future__ import annotations

import locale
from collections.abc import Iterator
from pathlib import Path

import pytest

from recycleseg.files import listed, write_text


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


def test_a_list_in_a_list_is_indented() -> None:
    inner = listed("folder: two series", ["CT", "Scout"])
    assert listed("2 problems", [inner, "x"]).splitlines() == [
        "2 problems",
        "  - folder: two series",
        "    - CT",
        "    - Scout",
        "  - x",
    ]
