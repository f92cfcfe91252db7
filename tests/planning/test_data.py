"""The plan for a data set tells what is unusual about its files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from recycleseg.data.layout import read_dataset
from recycleseg.data.phantom import write_phantom
from recycleseg.data.volumes import read_volume, write_like
from recycleseg.files import FileError
from recycleseg.planning.data import plan_for_data


def printed(root: Path) -> list[str]:
    console = Console(file=io.StringIO(), width=60)
    plan_for_data({"data": str(root), "time": "1h", "memory": "8G"}, console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    return [line for line in lines if not line.startswith(("reading: ", "planning: "))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_phantom(tmp_path / "set", spatial_dims=2, num_cases=(4, 1, 1))


def label_of(root: Path) -> Path:
    """A label of a training case."""
    dataset = read_dataset(root)
    path = dataset.cases[dataset.split["train"][1]].label_path
    assert path is not None
    return path


def test_warnings_are_told_before_the_plan(root: Path) -> None:
    assert printed(root) == []
    path = label_of(root)
    label = read_volume(path)
    write_like(path, np.zeros_like(label.array), label)
    assert printed(root) == [
        f"warning: label without foreground (1): {path.stem}; "
        "check that the structure is not there",
        f"recycle-data check {root} lists all warnings",
    ]


def test_errors_stop_the_plan(root: Path) -> None:
    label_of(root).unlink()
    with pytest.raises(FileError, match=r"1 problem\n.*labelsTr/.*: expected a file"):
        printed(root)
