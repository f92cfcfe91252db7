"""Signals: a run stops where nothing is lost, and goes on to the same bits."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from recycleseg.cli.train import parse_command
from recycleseg.run.checkpoint import load_checkpoint
from recycleseg.run.config import TrainConfig
from recycleseg.run.metrics_log import read_metrics
from recycleseg.training.logging import RunLogger
from recycleseg.training.reporting import PictureMaker
from recycleseg.training.stopping import Stopped, StopRequest, signals_to
from recycleseg.training.trainer import Trainer

MAIN = (
    "import signal, sys; from recycleseg.cli.train import main; "
    # pytest itself may run where SIGINT is ignored
    "signal.signal(signal.SIGINT, signal.default_int_handler); sys.exit(main())"
)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def signals_are_heard() -> Any:
    """The usual handlers, also where pytest runs with SIGINT ignored."""
    with signals_to(lambda *_: None):
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return read_metrics(run / "metrics.jsonl")


def assert_same_end(run: Path, other: Path) -> None:
    """Same bits in both checkpoints, the same summary, and each line of the log once."""
    for name in ("last", "best"):
        ours, theirs = (
            load_checkpoint(r / "checkpoints" / f"{name}.safetensors") for r in (run, other)
        )
        assert ours.state == theirs.state
        assert ours.tensors.keys() == theirs.tensors.keys()
        assert all(torch.equal(t, theirs.tensors[key]) for key, t in ours.tensors.items())
    assert (run / "summary.json").read_text() == (other / "summary.json").read_text()
    ours_lines, their_lines = (
        [{k: v for k, v in line.items() if k != "steps_per_second"} for line in metrics_of(r)]
        for r in (run, other)
    )
    assert ours_lines == their_lines


def test_the_first_signal_waits_and_the_second_does_not() -> None:
    stop = StopRequest("to go on: again")
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop.listening():
        stop.check("nowhere")
        send(signal.SIGTERM)
        assert stop.asked
        with pytest.raises(Stopped, match="^stopped after step 3; to go on: again$") as first:
            stop.check("after step 3")
        with pytest.raises(Stopped, match="^stopped at once; to go on: again$") as second:
            send(signal.SIGINT)
    assert (first.value.number, second.value.number) == (signal.SIGTERM, signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with stop.listening():  # a second fit in the same process starts afresh
        assert not stop.asked


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        stop = StopRequest("")
        with stop.listening():
            send(signal.SIGINT)
            assert not stop.asked
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_leaves_signals_alone() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with StopRequest("").listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_signal_in_a_step_lets_it_finish(small_config: TrainConfig, whole_run: Path) -> None:
    trainer = Trainer(small_config)
    train_step = trainer.learner.train_step

    def interrupted() -> tuple[torch.Tensor, torch.Tensor]:
        if trainer.step == 6:
            send(signal.SIGINT)
        return train_step()

    trainer.learner.train_step = interrupted  # type: ignore[method-assign]
    with pytest.raises(Stopped, match=r"stopped after step 7 of 12, whose checkpoint is written"):
        trainer.fit()
    run = Path(small_config.out or "")
    last = run / "checkpoints" / "last.safetensors"
    assert load_checkpoint(last).state["step"] == 7  # save_every 2 alone would give 6
    Trainer(small_config).fit(resume=True)
    assert_same_end(run, whole_run)


@pytest.mark.parametrize("step", [6, 12])
def test_a_validation_that_stops_is_done_later(
    small_config: TrainConfig, whole_run: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    trainer = Trainer(small_config)
    run = Path(small_config.out or "")
    take = PictureMaker.__call__

    def interrupted(maker: PictureMaker, *of_case: Any) -> None:
        take(maker, *of_case)
        if trainer.step == step:
            send(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(PictureMaker, "__call__", interrupted)
        message = rf"stopped during the validation after step {step} of 12, .*config.yaml --resume"
        with pytest.raises(Stopped, match=message) as stopped:
            trainer.fit()
    assert stopped.value.number == signal.SIGTERM
    assert load_checkpoint(run / "checkpoints" / "last.safetensors").state["step"] == step
    assert [m["step"] for m in metrics_of(run) if "val_dice" in m] == [6][: step // 12]
    assert not (run / "pictures" / f"validation-{step:06d}.png").exists()
    Trainer(small_config).fit(resume=True)
    assert_same_end(run, whole_run)


def test_a_crash_between_best_weights_and_log_changes_nothing(
    small_config: TrainConfig, whole_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunLogger.log

    def crash(logger: RunLogger, step: int, scalars: Mapping[str, Any]) -> None:
        if "val_dice" in scalars:
            raise OSError("disk full")
        log(logger, step, scalars)

    with monkeypatch.context() as patched:
        patched.setattr(RunLogger, "log", crash)
        with pytest.raises(OSError, match="disk full"):
            Trainer(small_config).fit()
    run = Path(small_config.out or "")
    assert load_checkpoint(run / "checkpoints" / "best.safetensors").state["step"] == 6
    Trainer(small_config).fit(resume=True)
    assert_same_end(run, whole_run)


def test_a_signal_in_the_final_table(
    small_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(small_config, optim=replace(small_config.optim, steps=2))
    trainer = Trainer(config)
    finish = trainer.finish

    def interrupted() -> dict[str, Any]:
        send(signal.SIGINT)
        return finish()

    trainer.finish = interrupted  # type: ignore[method-assign]
    with pytest.raises(Stopped, match="stopped during the final table; all steps are done; to go"):
        trainer.fit()
    assert not trainer.folder.summary.exists()
    trainer.finish = finish  # type: ignore[method-assign]
    assert trainer.fit(resume=True)["step"] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_stopped_process_says_how_to_go_on(
    small_config: TrainConfig, whole_run: Path, tmp_path: Path, number: signal.Signals
) -> None:
    config_file = tmp_path / "config.yaml"
    config_file.write_text(yaml.safe_dump(json.loads(json.dumps(asdict(small_config)))))
    run = Path(small_config.out or "")
    command = [sys.executable, "-c", MAIN, "--config", str(config_file)]
    log = run / "metrics.jsonl"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while process.poll() is None and (not log.exists() or not log.read_text().count("\n")):
            time.sleep(0.01)
        process.send_signal(number)
        assert process.stderr is not None
        error = process.stderr.read().decode()
    # 75 tells a job system that the command goes on with --resume.
    assert (
        process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGUSR1: 75}[number]
    )
    step = load_checkpoint(run / "checkpoints" / "last.safetensors").state["step"]
    assert 1 <= step <= 12
    assert "recycle-train: stopped " in error and f"after step {step} of 12" in error
    _, advice = error.rstrip().rsplit("to go on: recycle-train ", 1)
    command_to_go_on = parse_command(shlex.split(advice))
    assert command_to_go_on.resume and command_to_go_on.config == small_config
    Trainer(small_config).fit(resume=True)
    assert_same_end(run, whole_run)
