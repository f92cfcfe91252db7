"""Notices that a process of a run is dead or hangs, and ends the others with one line."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
_ENDED = "ended"


class Watchdog:
    """A thread of each process that shows the others that it lives, and looks at them.

    Args:
        store: what all processes see.
        rank: of this process.
        size: how many processes there are.
        command: for the message.
    """

    # Exit code of processes that end because of another one.
    CODE = 2

    def __init__(self, store: dist.Store, rank: int, size: int, command: str) -> None:
        self._store, self._rank, self._size, self._command = store, rank, size, command
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._main = threading.main_thread().ident
        # When the main thread last got on, None while that may take any time.
        self._beaten: float | None = None
        self._longest = 0.0
        self._waits = 0

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def beat(self) -> None:
        """Say that a step is done; the next one must not take much longer than any before."""
        now = time.monotonic()
        if self._beaten is not None:
            self._longest = max(self._longest, now - self._beaten)
        self._beaten = now

    def rest(self) -> None:
        """Say that work of unknown length follows; only the process as a whole is watched."""
        self._beaten = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While it lasts, this process waits for others, which is not its fault."""
        self._waits += 1
        try:
            yield
        finally:
            if self._beaten is not None:
                self._beaten = time.monotonic()
            self._waits -= 1

    def is_first_to_end(self) -> bool:
        """Whether this process is the first that ends by an error, so that it has to tell it."""
        try:
            mine = str(self._rank).encode()
            return bool(self._store.compare_set(_ENDED, "", str(self._rank)) == mine)
        except RuntimeError:  # whoever has the store is gone, and has told why if it could
            return False

    def _watch(self) -> None:
        signs: dict[int, tuple[bytes, float]] = {}
        beats = 0
        while not self._done.wait(_INTERVAL):
            beats += 1
            now = time.monotonic()
            try:
                self._store.set(str(self._rank), str(beats))
                if self._store.check([_ENDED]):
                    self._follow()
                    return
                for rank in range(self._size):
                    sign = self._store.get(str(rank)) if self._store.check([str(rank)]) else b""
                    if rank not in signs or signs[rank][0] != sign:
                        signs[rank] = sign, now
                    elif rank != self._rank and now - signs[rank][1] > SILENCE:
                        self._end(f"process {rank} of {self._size} gives no sign of life")
                        return
            except RuntimeError:
                if not self._done.wait(_GRACE):
                    self._leave()
                return
            limit = max(SILENCE, _SLOWER * self._longest)
            beaten = self._beaten
            if beaten is not None and not self._waits and now - beaten > limit:
                place = f"process {self._rank} of {self._size} hangs{self._place()}"
                self._end(f"{place}; its last step ended {now - beaten:.0f} s ago")
                return

    def _follow(self) -> None:
        """Another process, or the main thread of this one, has told an error."""
        if not self._done.wait(_GRACE):
            self._leave()

    def _end(self, line: str) -> None:
        if self.is_first_to_end():
            advice = "all processes end; the checkpoints are kept: go on with --resume"
            message = printable_message(f"{self._command}: error: {line}; {advice}")
            print(message, file=sys.stderr, flush=True)
        self._leave()

    def _leave(self) -> None:
        # The main thread is stuck in a call that knows no exception.
        sys.stdout.flush()
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
