"""`recycle-data plan`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from recycleseg.cli.data import main
from recycleseg.data.phantom import write_phantom


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_phantom(tmp_path / "set", spatial_dims=2, num_cases=(4, 1, 1))


def test_plan_is_printed_and_written(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.yaml"
    assert main(["plan", str(root), "--time", "30m", "--memory", "2G", "-o", str(out)]) == 0
    text = out.read_text()
    assert text in capsys.readouterr().out
    assert yaml.safe_load(text)["optim"]["batch_size"] == 8
    assert text.startswith(f"# Plan for {root}\n")


def test_plan_tells_what_the_split_is_worth(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = json.loads((root / "split.json").read_text())
    split["test"] = split["train"][:1]
    (root / "split.json").write_text(json.dumps(split))
    assert main(["plan", str(root), "--memory", "2G"]) == 0
    assert capsys.readouterr().out.count("warning: 1 case stands in several parts") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("optim: {batch_size: 0}", "optim.batch_size: expected at least 1, got 0"),
        ("patch: {size: [8, 8, 8]}", "patch.size: expected 2 numbers, got [8, 8, 8]"),
        ("preprocess: {shape: [8]}", "preprocess.shape: expected 2 numbers, got [8]"),
        ("preprocess: {spacing: [1.0]}", "preprocess.spacing: expected 2 numbers, got [1.0]"),
    ],
)
def test_options_that_do_not_fit(
    options: str, message: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(options)
    assert main(["plan", str(root), "--config", str(file)]) == 2
    assert capsys.readouterr().err == f"recycle-data: error: {message}\n"


def test_file_that_cannot_be_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(root), "-o", "missing/plan.yaml"]) == 2
    assert "--out: expected a .yaml or .yml file in a folder that exists" in capsys.readouterr().err
