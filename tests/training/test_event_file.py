"""TensorBoard reads what is written, also beside the file of a run that was killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recycleseg.training.event_file import EventFile


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_reads_scalars_before_the_file_is_closed(tmp_path: Path) -> None:
    events = EventFile(tmp_path / "new", first_step=0)
    for step in (1, 2):
        events.add_scalar("loss", 0.5 / step, step)
        events.add_scalar("val_dice/left [a]", 0.25, step)
    events.flush()
    assert scalars(tmp_path / "new", "loss") == [(1, 0.5), (2, 0.25)]
    assert scalars(tmp_path / "new", "val_dice/left [a]") == [(1, 0.25), (2, 0.25)]
    events.close()


def test_steps_that_a_resumed_run_takes_again_are_shown_once(tmp_path: Path) -> None:
    for first_step, last_step, value in ((0, 4, 1.0), (2, 5, 2.0)):
        events = EventFile(tmp_path, first_step)
        for step in range(first_step + 1, last_step + 1):
            events.add_scalar("loss", value, step)
        events.close()
    assert len(list(tmp_path.iterdir())) == 2
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(FileExistsError, match="tensorboard"):
        EventFile(tmp_path / "tensorboard", first_step=0)
