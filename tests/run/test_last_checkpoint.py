"""The checkpoints before the last one: as many as are wanted, each whole and named by its step."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

from recycleseg.files import FileError
from recycleseg.run.checkpoint import Checkpoint, load_checkpoint
from recycleseg.run.folder import RunFolder
from recycleseg.run.last_checkpoint import save_last


def checkpoint(step: int, value: float = 0.0) -> Checkpoint:
    return Checkpoint({"network/a": torch.full((3,), value or float(step))}, {"step": step})


def kept(folder: Path) -> dict[str, int]:
    """The name of each checkpoint, and the step that it holds."""
    steps = {}
    for path in sorted(folder.iterdir()):
        loaded = load_checkpoint(path)
        steps[path.name] = step = loaded.state["step"]
        assert torch.equal(loaded.tensors["network/a"], torch.full((3,), float(step)))
    return steps


def expected(*steps: int) -> dict[str, int]:
    *earlier, last = steps
    return {"last.safetensors": last} | {f"step-{step:08d}.safetensors": step for step in earlier}


@pytest.mark.parametrize("number", [1, 2, 3, 9])
def test_the_newest_are_kept(tmp_path: Path, number: int) -> None:
    steps = [0, 2, 4, 6, 100]
    for count, step in enumerate(steps, 1):
        save_last(tmp_path / "last.safetensors", checkpoint(step), number)
        assert kept(tmp_path) == expected(*steps[:count][-number:])


def test_fewer_are_kept_if_fewer_are_wanted_later(tmp_path: Path) -> None:
    for step, number in enumerate((4, 4, 4, 4, 2)):
        save_last(tmp_path / "last.safetensors", checkpoint(step), number)
    assert kept(tmp_path) == expected(3, 4)


def test_a_run_that_goes_back_forgets_what_it_takes_again(tmp_path: Path) -> None:
    last = tmp_path / "last.safetensors"
    for step in range(5):
        save_last(last, checkpoint(step), 3)
    last.write_bytes((tmp_path / "step-00000002.safetensors").read_bytes())
    save_last(last, checkpoint(3), 3)
    assert kept(tmp_path) == expected(2, 3)


def test_a_system_without_second_names_gets_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for step in range(4):
        save_last(tmp_path / "last.safetensors", checkpoint(step), 3)
    assert kept(tmp_path) == expected(1, 2, 3)


def test_nothing_is_lost_by_a_checkpoint_that_is_refused(tmp_path: Path) -> None:
    last = tmp_path / "last.safetensors"
    for step in range(4):
        save_last(last, checkpoint(step), 3)
    with pytest.raises(FileError, match=f"^{re.escape(str(last))}: .* got inf in network/a"):
        save_last(last, checkpoint(4, float("inf")), 3)
    assert expected(1, 2, 3).items() <= kept(tmp_path).items()


def test_files_of_others_stay(tmp_path: Path) -> None:
    """Also those that nearly have our names, and where a run is deleted."""
    folder = RunFolder(tmp_path / "run")
    folder.open(resume=False, overwrite=False)
    others = ["step-00000001-mine.safetensors", "step-1.safetensors", "step-0000000a.safetensors"]
    for name in others:
        (folder.last.parent / name).write_text("precious")
    for step in range(4):
        save_last(folder.last, checkpoint(step), 2)
    names = {path.name for path in folder.last.parent.iterdir()}
    assert names == {*expected(2, 3), *others}
    (note,) = folder.open(resume=False, overwrite=True)
    assert all(name in note for name in others)
    assert {path.name for path in folder.last.parent.iterdir()} == {*others}
