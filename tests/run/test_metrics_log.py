"""metrics.jsonl is only ever added to, and says which of its lines count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recycleseg.run.metrics_log import open_metrics, read_metrics


def add(path: Path, step: int, *lines: dict[str, Any]) -> None:
    """What a run does that begins, or goes on after a step."""
    with open_metrics(path, step) as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def steps_of(path: Path) -> list[int]:
    return [line["step"] for line in read_metrics(path)]


def test_a_resumed_run_only_adds(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    add(path, 0, {"step": 1, "loss": 9.0}, {"step": 2}, {"step": 2, "val_dice": 0.5}, {"step": 3})
    before = path.read_bytes()
    add(path, 2)
    assert read_metrics(path) == [
        {"step": 1, "loss": 9.0},
        {"step": 2},
        {"step": 2, "val_dice": 0.5},
    ]
    add(path, 2, {"step": 3, "loss": 1.0})
    assert path.read_bytes().startswith(before)
    assert steps_of(path) == [1, 2, 2, 3]
    assert read_metrics(path)[-1] == {"step": 3, "loss": 1.0}
    add(path, 0, {"step": 1, "loss": 8.0})
    assert read_metrics(path) == [{"step": 1, "loss": 8.0}]


def test_an_abandoned_line_between_two_logged_steps_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    add(path, 0, {"step": 10}, {"step": 20}, {"step": 30})
    add(path, 15, {"step": 40})
    assert steps_of(path) == [10, 40]


@pytest.mark.parametrize(
    "end",
    [
        b'{"step": 3, "lo',
        b'{"step": 3, "loss": 1.0}',  # whole, but its end of line is missing
        b"\x00" * 40,
        b'{"step": 3, "name": "\xc3',
        b'{"step": "3"}\n',
        b"[]\n",
        b"3",
        b"\r\n\r\n",
        b"[" * 100_000,
        b"",
    ],
)
def test_any_end_is_read_and_gone_on_from(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    add(path, 0, {"step": 1}, {"step": 2})
    path.write_bytes(path.read_bytes() + end)
    assert steps_of(path)[:2] == [1, 2]
    add(path, 2, {"step": 3}, {"step": 4})
    assert steps_of(path) == [1, 2, 3, 4]
    assert all(isinstance(line["step"], int) for line in read_metrics(path))


def test_no_file_has_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "missing.jsonl") == []
    (tmp_path / "empty.jsonl").touch()
    add(tmp_path / "empty.jsonl", 0, {"step": 1})
    assert (tmp_path / "empty.jsonl").read_text() == '{"step": 1}\n'
