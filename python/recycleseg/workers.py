"""Processes that work in one folder at the same time, each on other cases."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from recycleseg.locks import ALONE, AMONG, Held, Holder, locked, other_holders, this_process

# A process shows every so many seconds that it works.
PULSE = 20.0
# One of another machine that has not done so for so many seconds has ended. Network disks may show
# the time of a file a minute late.
SILENCE = 300.0


class Worker:
    """This process, among those that work in a folder.

    It has an empty file there, whose name says which process it is, and whose time a thread renews.
    So processes of other machines are known as ended, too, some minutes later. Their clocks do not
    matter, because the times are those of one disk.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._own = this_process().file(root, AMONG)
        self._ended = Event()

    def begin(self) -> None:
        """Show the others that this process works, until `end`."""
        self._own.touch()
        self._ended = Event()
        Thread(target=_show, args=(self._own, self._ended), daemon=True).start()

    def end(self) -> None:
        """Leave the folder to the others."""
        self._ended.set()
        self._own.unlink(missing_ok=True)

    def others(self) -> list[Holder]:
        """The other processes that work in the folder."""
        return other_holders(self._root, (AMONG,), self._is_gone)

    @contextmanager
    def claimed(self, folder: Path) -> Iterator[bool]:
        """Try to be the only one who works on what a folder stands for.

        Args:
            folder: below the root; made if needed, and removed if it stays empty.

        Yields:
            Whether this process has it. If not, another process does.

        Raises:
            ValueError: this process did not run for minutes, so that others took it for ended.
        """
        if not self._own.exists():
            raise ValueError(
                f"{self._root}: expected that this process can write {self._own.name} every "
                f"{PULSE:.0f} seconds, got stopped for so long that others took it for ended; run "
                "the same command again"
            )
        with ExitStack() as stack:
            claim = locked(folder, patience=0, kinds=(ALONE,), is_gone=self._is_gone)
            try:
                stack.enter_context(claim)
                ours = True
            except Held:
                ours = False
            yield ours

    def _is_gone(self, holder: Holder) -> bool:
        """Whether a process that has a file here, or below, has ended."""
        if holder.is_gone:
            return True
        if holder.place == this_process().place:
            return False
        try:
            seen = holder.file(self._root, AMONG).stat().st_mtime
        except FileNotFoundError:
            return True
        return self._own.stat().st_mtime - seen > SILENCE


def _show(own: Path, ended: Event) -> None:
    while not ended.wait(PULSE):
        with suppress(OSError):  # a disk that does not answer may do so later
            os.utime(own)
