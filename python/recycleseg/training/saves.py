"""Checkpoints are written while the training goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch
from torch import Tensor

from recycleseg.run.checkpoint import Checkpoint, NumbersError
from recycleseg.training.optim import ADVICE


class BackgroundSaves:
    """Saves of checkpoints, of which the training waits for a copy of the tensors alone.

    A thread does the rest: it looks for numbers that are not finite, makes checksums, writes, and
    waits for the disk. One save at a time is under way. Its errors are raised later by the other
    methods, and by the end of a block `with saves:`, which waits for the thread in any case.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "saves")
        self._under_way: Future[None] | None = None

    def __enter__(self) -> BackgroundSaves:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        under_way, self._under_way = self._under_way, None
        error = under_way.exception() if under_way is not None else None
        if error is not None and kind is None:  # of two errors the first one is told
            raise error

    def begin(self, checkpoint: Checkpoint, write: Callable[[Checkpoint], None]) -> None:
        """Begin to save a checkpoint, whose tensors may change afterwards.

        Args:
            checkpoint: of the present step.
            write: called in the thread, with a copy of the checkpoint on the CPU.

        Raises:
            FileError, OSError: the save before failed.
        """
        self.finish()
        copied = {name: _copied(tensor) for name, tensor in checkpoint.tensors.items()}
        copy = Checkpoint(copied, checkpoint.state, checkpoint.source)
        self._under_way = self._thread.submit(_save, copy, write)

    def check(self) -> None:
        """Raise the error of a save that has failed; do not wait."""
        if self._under_way is not None and self._under_way.done():
            self.finish()

    def finish(self) -> None:
        """Wait until the checkpoint is written.

        Raises:
            NumbersError: its numbers are not finite.
            FileError, OSError: the system cannot write it, or read the one before.
        """
        if self._under_way is not None:
            wait([self._under_way])
            under_way, self._under_way = self._under_way, None
            under_way.result()


def _copied(tensor: Tensor) -> Tensor:
    """A copy on the CPU, in the plain layout, so that writing needs no second one."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())


def _save(checkpoint: Checkpoint, write: Callable[[Checkpoint], None]) -> None:
    try:
        write(checkpoint)
    except NumbersError as error:
        step = checkpoint.number("step")
        raise NumbersError(f"step {step}: {error}; {ADVICE}") from error
