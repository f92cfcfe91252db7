"""`recycle-data plan`, and training by a plan that was saved and changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from recycleseg.cli import train
from recycleseg.cli.data import main
from recycleseg.data.phantom import write_phantom
from recycleseg.run.config import load_config


@pytest.fixture
def saved(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The file of a plan for the small data set, which is also printed."""
    file = tmp_path / "plan.yaml"
    options = ["--time", "10m", "--memory", "2G", "--runtime.device", "cpu"]
    assert main(["plan", str(data), *options, "-o", str(file)]) == 0
    printed = capsys.readouterr().out
    assert file.read_text().strip() in printed
    assert "expected peak memory " in printed
    return file


def test_plan_is_printed_with_reasons_and_saved(saved: Path) -> None:
    plan = yaml.safe_load(saved.read_text())
    assert plan["patch"]["size"] == [8, 8, 6]
    assert plan["preprocess"]["spacing"] == [1.0, 1.0, 1.0]
    assert "# 8 x 8 x 6 mm: a whole image of median size" in saved.read_text()


def test_given_options_stay(data: Path, tmp_path: Path) -> None:
    own, file = tmp_path / "own.yaml", tmp_path / "plan.yaml"
    own.write_text("model: {channels: [8, 16]}\n")
    options = ["--config", str(own), "--preset", "paper", "-o", str(file)]
    assert main(["plan", str(data), *options]) == 0
    plan = yaml.safe_load(file.read_text())
    assert plan["model"]["channels"] == [8, 16]
    assert plan["loss"]["focal"] == 20.0  # of the preset


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--time", "soon"],
            "--time: expected a time with its unit, such as 90s, 30m, 2h or",
        ),
        (["--memory", "lots"], "--memory: expected a size such as 900M or 8G, got 'lots'"),
        (["--memory", "100M"], "--memory: expected at least "),
        (["--runtime.device", "tpu"], "--runtime.device: expected "),
    ],
)
def test_wrong_options_end_with_one_line(
    data: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(data), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("recycle-data: error: ")
    assert message in line


def test_training_by_a_changed_plan_resumes_by_the_same_command(
    data: Path, saved: Path, tmp_path: Path
) -> None:
    saved.write_text(saved.read_text().replace("batch_size: 2", "batch_size: 1"))
    run = tmp_path / "run"
    command = ["--data", str(data), "--config", str(saved), "--out", str(run), "--time", "12s"]
    small = ["--model.channels", "[8]", "--model.scales", "2", "--model.kernels", "3"]
    options = [*small, "--sampling.num_steps", "2", "--runtime.cache", str(tmp_path / "cache")]
    assert train.main([*command, *options]) == 0
    config = load_config(run / "config.yaml")
    assert config.optim.batch_size == 1
    assert config.optim.steps >= 10
    assert config.time == "12s"
    assert "# given" in (run / "plan.yaml").read_text()
    before = (run / "checkpoints" / "last.safetensors").read_bytes()
    assert train.main([*command, *options, "--resume"]) == 0
    assert load_config(run / "config.yaml") == config
    assert (run / "checkpoints" / "last.safetensors").read_bytes() == before


@pytest.fixture
def data_2d(tmp_path: Path) -> Path:
    return write_phantom(tmp_path / "set", spatial_dims=2, num_cases=(4, 1, 1))


def test_plan_tells_what_the_split_is_worth(
    data_2d: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = json.loads((data_2d / "split.json").read_text())
    split["test"] = split["train"][:1]
    (data_2d / "split.json").write_text(json.dumps(split))
    assert main(["plan", str(data_2d), "--memory", "2G"]) == 0
    assert capsys.readouterr().out.count("warning: 1 case stands in several parts") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("optim: {batch_size: 0}", "{file}: optim.batch_size: expected at least 1, got 0"),
        ("patch: {size: [8, 8, 8]}", "--patch.size: expected 2 values for 2D data, got [8, 8, 8]"),
        ("preprocess: {shape: [8]}", "--preprocess.shape: expected 2 values for 2D data, got [8]"),
        (
            "preprocess: {spacing: [1.0]}",
            "--preprocess.spacing: expected 2 values for 2D data, got [1.0]",
        ),
    ],
)
def test_options_that_do_not_fit(
    options: str, message: str, data_2d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(options)
    assert main(["plan", str(data_2d), "--config", str(file)]) == 2
    assert capsys.readouterr().err == f"recycle-data: error: {message.format(file=file)}\n"


def test_a_plan_that_was_changed_is_kept(
    data_2d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("optim: {batch_size: 3}")
    assert main(["plan", str(data_2d), "-o", str(file)]) == 2
    assert f"--out: expected a new file, got {file}, which exists" in capsys.readouterr().err
    assert file.read_text() == "optim: {batch_size: 3}"


def test_file_that_cannot_be_written(data_2d: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(data_2d), "-o", "missing/plan.yaml"]) == 2
    assert "--out: expected a .yaml or .yml file in a folder that exists" in capsys.readouterr().err
