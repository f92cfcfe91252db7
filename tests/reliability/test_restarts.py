"""SIGKILL of one of two processes: torchrun starts both again, and the run ends as undisturbed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tests.training.conftest import make_config
from tests.training.test_processes import write_config

from recycleseg.run.checkpoint import load_checkpoint
from recycleseg.run.config import TrainConfig
from recycleseg.run.metrics_log import read_metrics
from recycleseg.run.options import ValidationConfig

# How many kills.
KILLS = int(os.environ.get("RECYCLESEG_RANK_KILLS", "2"))
MAIN = "import sys; from recycleseg.cli.train import main; sys.exit(main())"
STEPS_PER_KILL = 10


def workers_of(agent: int) -> list[int]:
    """The processes that torchrun has started and that live."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                name, _, rest = (folder / "stat").read_text().rpartition(")")
            except OSError:
                continue
            state, parent = rest.split()[:2]
            if int(parent) == agent and state not in "ZX":
                found.append(int(folder.name))
    return sorted(found)


def kill_after_a_step(agent: subprocess.Popen[str], last: Path, rng: random.Random) -> None:
    """Kill one of the processes: at its start, or some time after it has written a checkpoint."""
    before = last.stat().st_mtime_ns if last.exists() else 0
    at_start = rng.random() < 0.2
    while len(workers := workers_of(agent.pid)) < 2 or (
        not at_start and (not last.exists() or last.stat().st_mtime_ns == before)
    ):
        assert agent.poll() is None, agent.communicate()[1]
        time.sleep(0.01)
    time.sleep(rng.uniform(0.0, 0.3))
    victim = rng.choice(workers)
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return
    while victim in workers_of(agent.pid):
        time.sleep(0.01)


def run_in_two_processes(config: TrainConfig, kills: Sequence[random.Random]) -> None:
    """Train to the end under torchrun, with kills at moments that these decide."""
    run = Path(config.out or "")
    options = ["--nproc-per-node", "2", "--max-restarts", str(len(kills) + 1), "--no-python"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, sys.executable, "-c", MAIN]
    write_config(config, run.with_suffix(".yaml"))
    command += ["--config", str(run.with_suffix(".yaml"))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as agent:
        for rng in kills:
            kill_after_a_step(agent, run / "checkpoints" / "last.safetensors", rng)
        told = agent.communicate()[1]
    assert agent.returncode == 0, told
    assert "Traceback" not in told, told


def test_torchrun_restarts_a_run_to_the_same_weights(
    discs: Path, tmp_path: Path, count: Callable[[str], None]
) -> None:
    config = make_config(discs, tmp_path)
    steps = STEPS_PER_KILL * (KILLS + 1)
    config = replace(
        config,
        patch=replace(config.patch, size=(16, 16)),
        optim=replace(config.optim, steps=steps),
        validation=ValidationConfig(every=steps // 2, save_every=1),
    )
    run, whole = Path(config.out or ""), tmp_path / "whole"
    run_in_two_processes(replace(config, out=str(whole)), [])
    run_in_two_processes(config, [random.Random(seed) for seed in range(KILLS)])
    # Bit for bit, because two processes always sum in the same order.
    ours, theirs = (
        load_checkpoint(folder / "checkpoints" / "last.safetensors") for folder in (run, whole)
    )
    assert ours.state == theirs.state and ours.number("step") == steps
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(ours.tensors[name], tensor) for name, tensor in theirs.tensors.items())
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (run, whole))
    assert ours == theirs
    numbers = [line["step"] for line in read_metrics(run / "metrics.jsonl") if "loss" in line]
    assert numbers == list(range(1, steps + 1))
    count(f"{KILLS} SIGKILLs of one of two processes under torchrun: the undisturbed weights")
