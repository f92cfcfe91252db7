"""The last checkpoint of a run, and those before it that are kept: the step is in their names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from recycleseg.files import flush, written_whole
from recycleseg.run.checkpoint import Checkpoint, read_numbers, save_checkpoint
from recycleseg.run.folder import EARLIER


def save_last(path: Path, checkpoint: Checkpoint, number: int = 1) -> None:
    """Write the last checkpoint of a run, and keep some of those before it beside it.

    Args:
        path: of the last checkpoint.
        checkpoint: the new one.
        number: how many are kept, with the new one. Older ones are deleted, and those of steps that
            the run takes again.

    Raises:
        NumbersError: see `save_checkpoint`; all that is there stays.
        FileError: the checkpoint that is there cannot be read.
    """
    if number > 1 and path.exists():
        _name_again(path, _earlier(path, read_numbers(path).number("step")))
    save_checkpoint(path, checkpoint)
    newest_first = sorted(path.parent.glob(EARLIER), reverse=True)
    before = [file for file in newest_first if file < _earlier(path, checkpoint.number("step"))]
    for file in {*newest_first} - {*before[: number - 1]}:
        file.unlink()


def _earlier(last: Path, step: int) -> Path:
    return last.with_name(f"step-{step:08d}.safetensors")


def _name_again(path: Path, name: Path) -> None:
    """Give a file a second name, so that the first can get another content."""
    with written_whole(name) as temporary:
        try:
            os.link(path, temporary)
        except OSError:  # some file systems have one name for each file
            shutil.copyfile(path, temporary)
            flush(temporary)
