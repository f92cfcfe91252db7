"""Runs that several processes train together: the same weights as one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.training.conftest import make_config
from torch import Tensor

from recycleseg.run.checkpoint import load_checkpoint
from recycleseg.run.config import TrainConfig
from recycleseg.run.options import DiffusionConfig, OptimConfig, ValidationConfig
from recycleseg.training.trainer import Trainer

SCRIPT = Path(__file__).with_name("train_together.py")
STEPS = 20
# Of 20 steps in float32, in which only the order of sums differs. Weights that were disturbed by
# 1e-7 at the start differ as much at the end.
TOLERANCE = 1e-5


def launch(
    processes: int, *words: str | Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run something in several processes, as users do."""
    options = ("--nproc-per-node", str(processes), "--rdzv-backend", "c10d")
    command = [sys.executable, "-m", "torch.distributed.run", *options]
    command += ["--rdzv-endpoint", "localhost:0", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def launch_script(processes: int, folder: Path, *words: str) -> None:
    result = launch(processes, SCRIPT, folder, *words)
    assert result.returncode == 0, result.stderr


def write_config(config: TrainConfig, file: Path) -> None:
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text(yaml.safe_dump(json.loads(json.dumps(asdict(config)))))


def variants(config: TrainConfig) -> dict[str, TrainConfig]:
    """Every strategy, and with them all that draws numbers or keeps statistics."""
    optim = OptimConfig(steps=STEPS, batch_size=4, warmup_steps=2, ema_decay=0.9)
    config = replace(config, optim=optim, validation=ValidationConfig(every=STEPS))
    importance = DiffusionConfig(timesteps="importance")
    twice = replace(optim, accumulation=2)
    return {
        "supervised": replace(config, strategy="supervised"),
        "standard": replace(config, strategy="standard", diffusion=importance),
        "recycling": replace(config, strategy="recycling", optim=twice, diffusion=importance),
        "self_conditioning": replace(config, strategy="self_conditioning"),
    }


def written(runs: Mapping[str, TrainConfig], folder: Path) -> Path:
    """A folder of configurations for the script; each run has a folder of its own there."""
    for name, config in runs.items():
        write_config(replace(config, out=str(folder / name)), folder / f"{name}.yaml")
    return folder


def state_of(run: Path, steps: int) -> dict[str, Tensor]:
    checkpoint = load_checkpoint(run / "checkpoints" / "last.safetensors")
    assert checkpoint.number("step") == steps
    return checkpoint.tensors


def assert_same_weights(run: Path, expected: Path, steps: int = STEPS) -> None:
    ours, theirs = state_of(run, steps), state_of(expected, steps)
    assert ours.keys() == theirs.keys()
    for owner in ("network", "average"):
        a, b = (
            torch.cat([t.flatten() for name, t in state.items() if name.startswith(f"{owner}/")])
            for state in (ours, theirs)
        )
        assert float((a - b).norm() / b.norm()) < TOLERANCE, (run, owner)
    for name in (name for name in theirs if name.startswith("timesteps/")):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6)


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(disc_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all variants, each trained by one process."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("alone")
    runs = variants(make_config(disc_dataset, folder))
    for name, config in runs.items():
        Trainer(replace(config, out=str(folder / name))).fit()
    return folder


@pytest.mark.parametrize(
    ("processes", "names"),
    [
        (2, ["supervised", "standard", "recycling", "self_conditioning"]),
        (4, ["supervised", "recycling"]),
    ],
)
def test_processes_train_the_weights_of_one(
    processes: int, names: list[str], alone: Path, disc_dataset: Path, tmp_path: Path
) -> None:
    runs = {name: variants(make_config(disc_dataset, tmp_path))[name] for name in names}
    launch_script(processes, written(runs, tmp_path))
    for name in runs:
        run, expected = tmp_path / name, alone / name
        assert_same_weights(run, expected)
        ours, theirs = lines_of(run), lines_of(expected)
        assert [line["step"] for line in ours] == [line["step"] for line in theirs]
        # The mean loss of all rows, not that of the first process.
        losses = [[line["loss"] for line in lines if "loss" in line] for lines in (ours, theirs)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        ours, theirs = (json.loads((r / "summary.json").read_text()) for r in (run, expected))
        cases = [case["reference_file"] for case in ours["metric_per_case"]]
        assert cases == [case["reference_file"] for case in theirs["metric_per_case"]]
        assert ours["foreground_mean"]["Dice"] == pytest.approx(
            theirs["foreground_mean"]["Dice"], abs=1e-3
        )


@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_another_number_of_processes_goes_on(
    first: int, then: int, alone: Path, disc_dataset: Path, tmp_path: Path
) -> None:
    runs = variants(make_config(disc_dataset, tmp_path))
    name = "recycling"
    folder = written({name: runs[name]}, tmp_path)
    launch_script(first, folder, "8")
    launch_script(then, folder)
    assert_same_weights(tmp_path / name, alone / name)


def test_compiled_steps_train_the_same_weights(disc_dataset: Path, tmp_path: Path) -> None:
    runs = variants(make_config(disc_dataset, tmp_path))
    config = replace(runs["recycling"], compile="default")
    folders = [written({"compiled": config}, tmp_path / str(number)) for number in (1, 2)]
    for processes, folder in enumerate(folders, 1):
        launch_script(processes, folder, str(STEPS))  # without evaluations, which compile more
    assert_same_weights(folders[1] / "compiled", folders[0] / "compiled")
