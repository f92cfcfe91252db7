"""A lock of a folder, so that one process at a time works in it.

`flock` is not used, because on network disks it may hold on one machine only, or not at all.
Processes that work in a folder together are in `recycleseg.workers`.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import SystemRandom
from typing import NamedTuple

# What a process has in a folder: it alone works there, or it works there among others.
ALONE, AMONG = "lock", "work"
# One of these; host, place (see `_place`), number and start (see `_start_of`) of the process.
_LOCK = re.compile(rf"\.({ALONE}|{AMONG})-(.+)-([0-9a-f]{{8}})-(\d+)-([0-9a-f]{{12}})", re.DOTALL)
# Processes that begin together look for each other so often, after so many seconds at most.
_TRIES, _PAUSE = 12, 0.1
# For so many seconds a process waits for another one, unless it is told to wait longer; then it
# looks less and less often, because on a network disk each look costs time.
_PATIENCE, _LONGEST_PAUSE = 0.5, 2.0
# The number of the first PID namespace, which is a machine's own; others are of containers.
_OF_MACHINE = "pid:[4026531836]"
_ENDED, _UNKNOWN = "ended", "000000000000"


class Holder(NamedTuple):
    """The process that a lock file names."""

    path: Path
    kind: str
    host: str
    place: str
    pid: int
    start: str

    @property
    def is_gone(self) -> bool:
        """Whether the process has certainly ended; of other machines nobody knows here."""
        if self.place != _place():
            return False
        now = _start_of(self.pid)
        return now == _ENDED or (now != self.start and _UNKNOWN not in (now, self.start))

    def file(self, root: Path, kind: str) -> Path:
        """The file that tells of this process in a folder."""
        return root / f".{kind}-{self.host}-{self.place}-{self.pid}-{self.start}"


class Held(ValueError):
    """Another process works in a folder; the message says which, and how to go on."""


def is_lock(name: str) -> bool:
    """Whether a file with this name is a lock."""
    return _LOCK.fullmatch(name) is not None


@contextmanager
def locked(
    root: Path,
    *,
    patience: float = _PATIENCE,
    kinds: tuple[str, ...] = (ALONE, AMONG),
    is_gone: Callable[[Holder], bool] = lambda holder: holder.is_gone,
) -> Iterator[None]:
    """Hold the only lock of a folder while the block runs; the folder is made if needed.

    The lock is an empty file whose name says which process holds it, so it is complete when it
    exists. Every process first makes its own file, then looks for those of others, and works only
    if it finds none. Of two processes at least the later one sees the other, so both never work.
    A file of a process of this machine that has ended is deleted: no other process ever has this
    name, so nobody can delete the lock of a process that works.

    Folders that the block leaves empty and that did not exist before are removed again.

    Args:
        root: the folder.
        patience: seconds to wait for another process.
        kinds: whom the lock keeps out: those that work alone, or among others.
        is_gone: whether a process has ended, so that its files may be deleted.

    Raises:
        ValueError: the path is a file.
        Held: another process works there.
    """
    if root.exists() and not root.is_dir():
        raise ValueError(f"--out: expected a folder, got the file {root}")
    new = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    own = this_process().file(root, ALONE)
    _take(own, patience, lambda: other_holders(root, kinds, is_gone))
    try:
        yield
    finally:
        own.unlink(missing_ok=True)
        with suppress(OSError):
            for folder in new:
                folder.rmdir()


def check_unlocked(root: Path) -> None:
    """Check that no other process works in a folder, which need not exist.

    Raises:
        Held: one does.
    """
    if root.is_dir() and (holders := other_holders(root)):
        raise held_by(holders[0])


def other_holders(
    root: Path,
    kinds: tuple[str, ...] = (ALONE, AMONG),
    is_gone: Callable[[Holder], bool] = lambda holder: holder.is_gone,
) -> list[Holder]:
    """Processes beside this one that may work in a folder; files of ended ones are deleted."""
    found, own = [], this_process()
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:  # another process removed the folder that it had made
        return []
    for name in names:
        match = _LOCK.fullmatch(name)
        if match is None or match[1] not in kinds:
            continue
        kind, host, place, pid, start = match.groups()
        holder = Holder(root / name, kind, host, place, int(pid), start)
        if holder[2:] == own[2:]:
            continue
        if is_gone(holder):
            holder.path.unlink(missing_ok=True)
        else:
            found.append(holder)
    return found


def this_process() -> Holder:
    """This process, without a file."""
    host = re.sub(r"[^\w.-]", "_", socket.gethostname(), flags=re.ASCII)[:64] or "unnamed"
    pid = os.getpid()
    return Holder(Path(), "", host, _place(), pid, _start_of(pid))


def held_by(holder: Holder) -> Held:
    """The error that names a process which works in a folder."""
    what = f"{holder.path.parent}: expected a folder in which nobody works, got one in which"
    if holder.place == _place():
        return Held(
            f"{what} process {holder.pid} of this machine works; wait until it ends, or stop it"
        )
    return Held(
        f"{what} process {holder.pid} of {holder.host} works; if it has ended there, delete "
        f"{holder.path} and run the command again"
    )


def _take(own: Path, patience: float, others: Callable[[], list[Holder]]) -> None:
    """Make the lock file when nobody else works; raise Held if somebody goes on working."""
    longest, end = _PAUSE, time.monotonic() + patience
    while True:
        # Those who wait make no file, because many of them would see each other all the time.
        holders = others()
        if not holders:
            _make_lock(own)
            try:
                holders = _of_those_who_begin(own, others)
            except BaseException:
                own.unlink(missing_ok=True)
                raise
            if not holders:
                return
            own.unlink(missing_ok=True)
        if time.monotonic() >= end:
            raise held_by(holders[0])
        time.sleep(SystemRandom().uniform(longest / 5, longest))
        longest = min(2 * longest, _LONGEST_PAUSE)


def _make_lock(own: Path) -> None:
    for _ in range(_TRIES):
        try:
            own.touch(exist_ok=False)
            return
        except FileNotFoundError:  # another process removed the folder that it had made
            own.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise held_by(this_process()._replace(path=own)) from error
    raise FileNotFoundError(f"{own.parent}: expected a folder, got one that is removed again")


def _of_those_who_begin(own: Path, others: Callable[[], list[Holder]]) -> list[Holder]:
    """Those to whom this process gives way; none if it may work."""
    holders = others()
    for _ in range(_TRIES):
        # The first name stays, so that of many that begin together one is left.
        if not holders or holders[0].path.name < own.name:
            break
        time.sleep(SystemRandom().uniform(_PAUSE / 5, _PAUSE))
        holders = others()
    return holders


def _place() -> str:
    """A hash of where numbers of processes mean the same: the machine, or one life of a container.

    A machine keeps its place when it starts again, so that locks from before are known as ended.
    """
    try:
        of = os.readlink("/proc/self/ns/pid")
    except OSError:
        of = ""
    life = "" if of == _OF_MACHINE else _boot()
    return _hash(socket.gethostname(), _line("/etc/machine-id"), of, life)[:8]


def _start_of(pid: int) -> str:
    """A hash of when a process began; `_ENDED` if there is none."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return _ENDED
    except PermissionError:  # another user's
        pass
    # The name of the program, in parentheses, may hold anything.
    status = _line(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if not status:
        return _UNKNOWN
    if status[0] in "ZX":  # its parent has not asked yet how it ended
        return _ENDED
    return _hash(_boot(), status[19])[:12]


def _boot() -> str:
    return _line("/proc/sys/kernel/random/boot_id")


def _line(path: str) -> str:
    """A short file of the system; empty if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
