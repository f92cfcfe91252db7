"""Signals that stop a run: Ctrl-C (SIGINT), SIGTERM from Slurm or `docker stop`, and SIGUSR1.

Slurm sends the last one before the end of a job's time, if asked by `--signal=USR1@SECONDS`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """A signal ended the work.

    Args:
        number: of the signal.
        message: what is done, and how to go on.
        resumes: whether the same command goes on from here with --resume.
    """

    def __init__(self, number: int, message: str = "", *, resumes: bool = False) -> None:
        super().__init__(message)
        self.number = number
        self.resumes = resumes


@contextmanager
def signals_to(receive: Callable[[int, FrameType | None], Any], *numbers: int) -> Iterator[None]:
    """Give signals to a function while the block runs.

    A signal that the process ignores stays ignored, as `nohup` wants. Only the main thread can
    receive signals; in another thread the block changes nothing.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in numbers}
    heard = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    for number in heard:
        signal.signal(number, receive)
    try:
        yield
    finally:
        for number, old in heard.items():
            signal.signal(number, old)


class StopRequest:
    """Whether a signal has asked the run to stop, so that it stops where nothing is lost.

    While the block of `listening` runs, the first signal is only kept, and `check` raises at the
    next good moment. The second signal raises at once.

    Args:
        advice: how to go on, for the message.
    """

    def __init__(self, advice: str) -> None:
        self.number: int | None = None
        self._advice = advice

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Receive SIGINT, SIGTERM and SIGUSR1 while the block runs."""
        self.number = None
        with signals_to(self._receive, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            yield

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self.number is not None

    def check(self, where: str, *, resumes: bool = False) -> None:
        """Raise if a signal has come.

        Args:
            where: the moment, for the message.
            resumes: see `Stopped`.

        Raises:
            Stopped: a signal has come.
        """
        if self.number is not None:
            raise Stopped(self.number, f"stopped {where}; {self._advice}", resumes=resumes)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.number is not None:
            raise Stopped(number, f"stopped at once; {self._advice}")
        self.number = number
        # Not print, because the signal may come while the program itself prints.
        os.write(2, b"\nstopping at the next good moment; Ctrl-C again stops at once\n")
