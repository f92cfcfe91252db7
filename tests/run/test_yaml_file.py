"""YAML files: what is read, and which line tells a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from recycleseg.files import FileError
from recycleseg.run.yaml_file import read_yaml


def test_a_byte_order_mark_and_comments_are_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"\xef\xbb\xbf# a plan\noptim: {steps: 7}  # all\n")
    assert read_yaml(file) == {"optim": {"steps": 7}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a:\n\tb: 1\n", "line 2: expected spaces, got a tab, which YAML does not allow"),
        (b"a: {b: 1, b: 2}\n", "line 1: expected YAML, got: b stands twice"),
        (b"? [1, 2]\n: 3\n", "line 1: expected YAML, got: found unhashable key"),
        (b"a: 2024-99-99\n", "expected YAML, got: month must be in 1..12"),
        (b"a: \xff\n", "expected YAML as text in UTF-8, got other bytes"),
        (b"a: !!python/object:os.system {}\n", "line 1: expected YAML, got: could not determine a"),
    ],
)
def test_a_mistake_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(FileError) as error:
        read_yaml(file)
    assert str(error.value).startswith(f"{file}: {message}")
