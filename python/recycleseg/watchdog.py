"""Notices that a process of a run is dead or hangs, and ends the others with one line."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch.distributed as dist

from recycleseg.names import printable_message

# A process that gives no sign for so long counts as dead: it is stopped, or its machine is.
SILENCE = 40.0
# A step may take so many times as long as any step before; at least `SILENCE`.
_SLOWER = 10.0
_INTERVAL = 1.0
# How long a process has to end in order, once another one has told an error.
_GRACE = 8.0
# After so long all others have seen in the store that this process ends.
_TO_BE_SEEN = 3 * _INTERVAL
_ENDED = "ended"


class Watchdog:
    """Shows the others that this process lives, and looks at the next one, in two threads.

    One talks to the store, where it may wait for ever if the store's machine is gone. The other
    judges by what the first one has seen, and when.

    Args:
        store: what all processes see.
        rank: of this process.
        size: how many processes there are.
        command: for the message.
        has_store: whether the store ends with this process.
    """

    # Exit code of processes that end because of another one.
    CODE = 2

    def __init__(
        self, store: dist.Store, rank: int, size: int, command: str, *, has_store: bool
    ) -> None:
        self._has_store = has_store
        self._store, self._rank, self._size, self._command = store, rank, size, command
        self._next = (rank + 1) % size
        self._done = threading.Event()
        self._quiet = threading.Event()
        self._talker = threading.Thread(target=self._talk, name="watchdog", daemon=True)
        self._main = threading.main_thread().ident
        # When the step began that the main thread is in; None while its work may take any time.
        self._begun: float | None = None
        self._longest = 0.0
        self._waits = 0
        # Of the thread that talks: when it last had an answer, and when the next process last
        # showed that it lives.
        self._answered = self._seen = time.monotonic()
        self._ended = self._lost = False

    def __enter__(self) -> Watchdog:
        self._talker.start()
        threading.Thread(target=self._judge, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A thread that is in a call of the store at the end of the program would abort it.
        self._quiet.set()
        self._talker.join(timeout=2 * _INTERVAL)
        # After an error the other one goes on, because the end may wait for other processes.
        if kind is None:
            self._done.set()

    @contextmanager
    def step(self) -> Iterator[None]:
        """While it lasts, the main thread does a step, which must not take much longer than others.

        At other times only the process as a whole is watched.
        """
        start = self._begun = time.monotonic()
        try:
            yield
        finally:
            self._begun = None
            self._longest = max(self._longest, time.monotonic() - start)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While it lasts, this process waits for others, which is not its fault."""
        self._waits += 1
        try:
            yield
        finally:
            if self._begun is not None:
                self._begun = time.monotonic()
            self._waits -= 1

    def is_first_to_end(self) -> bool:
        """Whether this process is the first that ends by an error, so that it has to tell it.

        If the store is gone, nobody knows; two lines are better than none then.
        """
        answers: list[bool] = []
        asking = threading.Thread(target=lambda: answers.append(self._claim()), daemon=True)
        asking.start()
        asking.join(_GRACE)
        is_first = answers[0] if answers else True
        if is_first and self._has_store:
            time.sleep(_TO_BE_SEEN)
        return is_first

    def _claim(self) -> bool:
        if self._ended:
            return False
        try:
            mine = str(self._rank)
            return bool(self._store.compare_set(_ENDED, "", mine) == mine.encode())
        except RuntimeError:
            return not self._ended

    def _talk(self) -> None:
        sign, number = b"", 0
        try:
            while not self._quiet.wait(_INTERVAL):
                number += 1
                self._store.set(str(self._rank), str(number))
                self._ended = self._ended or self._store.check([_ENDED])
                of_next = str(self._next)
                now = self._store.get(of_next) if self._store.check([of_next]) else b""
                self._answered = time.monotonic()
                if now != sign:
                    sign, self._seen = now, self._answered
        except RuntimeError:  # the store is gone
            self._lost = True

    def _judge(self) -> None:
        while not self._done.wait(_INTERVAL):
            now = time.monotonic()
            if self._ended or self._lost or self._quiet.is_set():
                if not self._done.wait(_GRACE):
                    self._end("another process of this run has ended")
                return
            if now - self._answered > SILENCE:
                self._end("the process or machine with the store gives no sign of life")
            elif now - self._seen > SILENCE:
                self._end(f"process {self._next} of {self._size} gives no sign of life")
            begun, limit = self._begun, max(SILENCE, _SLOWER * self._longest)
            if begun is not None and not self._waits and now - begun > limit:
                place = f"process {self._rank} of {self._size} hangs{self._place()}"
                self._end(f"{place}, {now - begun:.0f} s after the beginning of its step")

    def _end(self, line: str) -> None:
        try:
            if self.is_first_to_end():
                advice = "all processes end; the checkpoints are kept: go on with --resume"
                message = printable_message(f"{self._command}: error: {line}; {advice}")
                with suppress(OSError):
                    print(message, file=sys.stderr, flush=True)
        finally:
            # The main thread may be stuck in a call that knows no exception.
            os._exit(self.CODE)

    def _place(self) -> str:
        """Where in the package the main thread is."""
        frame = sys._current_frames().get(self._main or 0)
        while frame is not None:
            module = str(frame.f_globals.get("__name__", ""))
            if module.startswith("recycleseg."):
                return f" in {Path(frame.f_code.co_filename).stem}, line {frame.f_lineno}"
            frame = frame.f_back
        return ""
