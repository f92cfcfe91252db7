"""A lock of a folder, so that one process at a time works in it.

`flock` is not used, because on network disks it may hold on one machine only, or not at all.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import SystemRandom
from typing import NamedTuple

# Host, place (see `_place`), number and start (see `_start_of`) of the process that holds it.
_LOCK = re.compile(r"\.lock-(.+)-([0-9a-f]{8})-(\d+)-([0-9a-f]{12})", re.DOTALL)
# Whoever meets another process looks again so often, after so many seconds at most.
_TRIES, _PAUSE = 12, 0.1
# The number of the first PID namespace, which is a machine's own; others are of containers.
_OF_MACHINE = "pid:[4026531836]"
_ENDED, _UNKNOWN = "ended", "000000000000"


class _Holder(NamedTuple):
    """The process that a lock file names."""

    path: Path
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


def is_lock(name: str) -> bool:
    """Whether a file with this name is a lock."""
    return _LOCK.fullmatch(name) is not None


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the only lock of a folder while the block runs; the folder is made if needed.

    The lock is an empty file whose name says which process holds it, so it is complete when it
    exists. Every process first makes its own file, then looks for those of others, and works only
    if it finds none. Of two processes at least the later one sees the other, so both never work.
    A file of a process of this machine that has ended is deleted: no other process ever has this
    name, so nobody can delete the lock of a process that works.

    Folders that the block leaves empty and that did not exist before are removed again.

    Raises:
        ValueError: the path is a file, or another process holds the lock; the message says how to
            go on if that process is dead.
    """
    if root.exists() and not root.is_dir():
        raise ValueError(f"--out: expected a folder, got the file {root}")
    new = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    own = _own_lock(root)
    try:
        _make_lock(own, exist_ok=False)
    except FileExistsError as error:
        raise _is_held(_Holder(own, "", _place(), os.getpid(), "")) from error
    try:
        _wait_to_be_alone(root, own)
        yield
    finally:
        own.unlink(missing_ok=True)
        with suppress(OSError):
            for folder in new:
                folder.rmdir()


def check_unlocked(root: Path) -> None:
    """Check that no other process works in a folder, which need not exist.

    Raises:
        ValueError: one does.
    """
    if root.is_dir() and (holders := _other_holders(root)):
        raise _is_held(holders[0])


def _make_lock(path: Path, *, exist_ok: bool) -> None:
    for _ in range(_TRIES):
        try:
            path.touch(exist_ok=exist_ok)
            return
        except FileNotFoundError:  # another process removed the folder that it had made
            path.parent.mkdir(parents=True, exist_ok=True)
    raise FileNotFoundError(f"{path.parent}: expected a folder, got one that is removed again")


def _wait_to_be_alone(root: Path, own: Path) -> None:
    """Give way to others that begin at the same time; raise ValueError if one goes on working."""
    pause = SystemRandom()
    for _ in range(_TRIES):
        _make_lock(own, exist_ok=True)  # it may have given way before
        holders = _other_holders(root)
        if not holders:
            return
        # The first name stays, so that of many that begin together one is left.
        if holders[0].path.name < own.name:
            own.unlink(missing_ok=True)
        time.sleep(pause.uniform(_PAUSE / 5, _PAUSE))
    raise _is_held(holders[0])


def _other_holders(root: Path) -> list[_Holder]:
    """Processes beside this one that may work in a folder; locks of ended ones are deleted."""
    found = []
    own = _own_lock(root)
    for name in sorted(os.listdir(root)):
        match = _LOCK.fullmatch(name)
        if match is None or name == own.name:
            continue
        host, place, pid, start = match.groups()
        holder = _Holder(root / name, host, place, int(pid), start)
        if holder.is_gone:
            holder.path.unlink(missing_ok=True)
        else:
            found.append(holder)
    return found


def _is_held(holder: _Holder) -> ValueError:
    what = f"{holder.path.parent}: expected a folder in which nobody works, got one in which"
    if holder.place == _place():
        return ValueError(
            f"{what} process {holder.pid} of this machine works; wait until it ends, or stop it"
        )
    return ValueError(
        f"{what} process {holder.pid} of {holder.host} works; if it has ended there, delete "
        f"{holder.path} and run the command again"
    )


def _own_lock(root: Path) -> Path:
    host = re.sub(r"[^\w.-]", "_", socket.gethostname(), flags=re.ASCII)[:64] or "unnamed"
    pid = os.getpid()
    return root / f".lock-{host}-{_place()}-{pid}-{_start_of(pid)}"


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
