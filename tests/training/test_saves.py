"""Saves in the background: what is written, when the training waits, and how errors come."""

from __future__ import annotations

import errno
import math
import re
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recycleseg.files import FileError
from recycleseg.run.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from recycleseg.run.config import TrainConfig
from recycleseg.run.metrics_log import read_metrics
from recycleseg.training import trainer as trainer_module
from recycleseg.training.saves import BackgroundSaves
from recycleseg.training.trainer import Trainer

# More than any of this takes, so that a mistake fails instead of hanging.
LONG = 60.0


def checkpoint(step: int, value: float = 1.0) -> Checkpoint:
    weight = torch.full((2, 3, 4, 5), value).contiguous(memory_format=torch.channels_last)
    return Checkpoint({"network/a": weight}, {"step": step})


class Held:
    """Writes a checkpoint when it is let go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, checkpoint: Checkpoint) -> None:
        self.begun.set()
        assert self.go.wait(LONG)
        save_checkpoint(self.path, checkpoint)


def full(_: Checkpoint) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "last.safetensors")


def test_the_state_of_the_moment_is_written_while_the_training_goes_on(tmp_path: Path) -> None:
    saves, write = BackgroundSaves(), Held(tmp_path / "a.safetensors")
    state = checkpoint(3)
    saves.begin(state, write)
    assert write.begun.wait(LONG)
    state.tensors["network/a"].fill_(7.0)  # the next step
    saves.check()  # does not wait
    assert not write.path.exists()
    write.go.set()
    saves.finish()
    loaded = load_checkpoint(write.path)
    assert loaded.state == {"step": 3}
    assert torch.equal(loaded.tensors["network/a"], torch.ones(2, 3, 4, 5))


def test_the_file_is_that_of_a_save_without_the_thread(tmp_path: Path) -> None:
    saves = BackgroundSaves()
    saves.begin(checkpoint(1), partial(save_checkpoint, tmp_path / "a.safetensors"))
    saves.finish()
    save_checkpoint(tmp_path / "b.safetensors", checkpoint(1))
    contents = [(tmp_path / f"{name}.safetensors").read_bytes() for name in "ab"]
    assert contents[0] == contents[1]


def test_a_save_waits_for_the_one_before(tmp_path: Path) -> None:
    saves = BackgroundSaves()
    first, order = Held(tmp_path / "a.safetensors"), []
    saves.begin(checkpoint(1), first)
    threading.Timer(0.2, lambda: (order.append("let go"), first.go.set())).start()
    saves.begin(checkpoint(2), lambda _: order.append(str(first.path.exists())))
    saves.finish()
    assert order == ["let go", "True"]


def test_an_error_comes_at_the_next_look_and_once() -> None:
    saves = BackgroundSaves()
    saves.begin(checkpoint(1), full)
    with pytest.raises(OSError, match="No space left"):
        while True:  # the thread needs a moment
            saves.check()
    saves.finish()
    saves.begin(checkpoint(2), full)
    with pytest.raises(OSError, match="No space left"):
        saves.begin(checkpoint(3), full)
    saves.finish()


def test_numbers_that_are_not_finite_are_told_with_their_step(tmp_path: Path) -> None:
    saves, path = BackgroundSaves(), tmp_path / "a.safetensors"
    saves.begin(checkpoint(5, math.nan), partial(save_checkpoint, path))
    said = f"^step 5: {re.escape(str(path))}: expected finite .*, got nan in network/a; resume with"
    with pytest.raises(FileError, match=said):
        saves.finish()


def test_a_block_ends_when_all_is_written(tmp_path: Path) -> None:
    write = Held(tmp_path / "a.safetensors")
    with pytest.raises(KeyError), BackgroundSaves() as saves:
        saves.begin(checkpoint(1), write)
        threading.Timer(0.2, write.go.set).start()
        raise KeyError
    assert write.path.exists()


def test_the_end_of_a_block_tells_the_error_unless_there_is_another() -> None:
    with pytest.raises(OSError, match="No space left"), BackgroundSaves() as saves:
        saves.begin(checkpoint(1), full)
    with pytest.raises(KeyError), saves:
        saves.begin(checkpoint(1), full)
        raise KeyError


def test_steps_go_on_during_a_save_and_stop_at_its_error(
    small_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The save of step 2 ends during step 4, so step 5 is not taken."""
    trainer = Trainer(small_config)
    train_step, during = trainer.learner.train_step, threading.Event()

    def fails(path: Path, checkpoint: Checkpoint, number: int) -> None:
        if checkpoint.state["step"] != 2:
            save_checkpoint(path, checkpoint)
            return
        assert during.wait(LONG)
        full(checkpoint)

    def step() -> tuple[Tensor, Tensor]:
        if trainer.step == 3:
            during.set()
            while not trainer.saves._under_way.done():  # type: ignore[union-attr]
                pass
        return train_step()

    monkeypatch.setattr(trainer_module, "save_last", fails)
    trainer.learner.train_step = step  # type: ignore[method-assign]
    with pytest.raises(OSError, match="No space left"):
        trainer.fit()
    assert trainer.step == 4
    assert load_checkpoint(trainer.folder.last).state["step"] == 0


def test_a_validation_is_logged_after_its_best_weights(
    small_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed before them does this validation again."""
    trainer, seen = Trainer(small_config), []

    def slow(path: Path, checkpoint: Checkpoint) -> None:
        time.sleep(1.0)  # longer than drawing the picture takes
        lines = read_metrics(trainer.folder.metrics)
        seen.append((checkpoint.state["step"], [m["step"] for m in lines if "val_dice" in m]))
        save_checkpoint(path, checkpoint)

    monkeypatch.setattr(trainer_module, "save_checkpoint", slow)
    trainer.fit()
    assert seen[0] == (6, []) and seen[1:] in ([], [(12, [6])])


def test_the_last_checkpoints_of_a_run_are_kept(small_config: TrainConfig) -> None:
    config = replace(small_config, validation=replace(small_config.validation, keep_last=3))
    trainer = Trainer(config)
    trainer.fit()
    files = {path.name: path for path in trainer.folder.last.parent.iterdir()}
    steps = {f"step-{step:08d}.safetensors": step for step in (8, 10)}
    assert files.keys() == {"last.safetensors", "best.safetensors", *steps}
    for name, step in steps.items():
        assert load_checkpoint(files[name]).state["step"] == step
    # Each of them can take the place of the last one.
    whole = load_checkpoint(trainer.folder.last).tensors
    files["step-00000008.safetensors"].replace(trainer.folder.last)
    Trainer(config).fit(resume=True)
    again = load_checkpoint(trainer.folder.last).tensors
    assert again.keys() == whole.keys()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in again.items())
