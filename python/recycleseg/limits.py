"""How much memory a file may take while it is read, and what this machine has: memory and cores.

A small file cannot take all of the memory.
"""

from __future__ import annotations

import os
from pathlib import Path

from recycleseg.files import FileError

READ_LIMIT = "RECYCLESEG_READ_LIMIT"
# A label map of 1 GiB packs to 1 MB, so every file may take this much.
_ALWAYS = 2**30
# More than this many times its own size is taken by few files that hold an image.
_TIMES_ITS_SIZE = 32
_GIB = 2**30
# For less, nobody asks how much memory is free.
_SMALL = 2**26


def check_memory(path: Path, needed: int, stored: int | None = None) -> None:
    """Refuse a file before the memory is taken that it declares to need.

    A file may take 1 GiB, or 32 times its own size if this is more. The environment variable
    `RECYCLESEG_READ_LIMIT`, in GiB, is another limit in place of both. No file may take more than
    the main memory that is free.

    Args:
        path: the file, or the folder of a series.
        needed: bytes that reading takes at its peak.
        stored: bytes of the file on disk; None asks the file system.

    Raises:
        FileError: the file needs more.
        ValueError: the variable is no positive number.
    """
    size = path.stat().st_size if stored is None else stored
    limit = read_limit(size)
    if needed > limit:
        advice = ""
        if needed <= free_main_memory():
            advice = f"; if you trust it, set {READ_LIMIT}={-(-needed // _GIB)} (GiB)"
        raise FileError(
            f"{path}: expected a file of {_shown(size)} to need at most {_shown(limit)} of memory, "
            f"got one that declares {_shown(needed)}{advice}"
        )
    if needed > _SMALL and needed > (free := free_main_memory()):
        raise FileError(
            f"{path}: expected a file that needs at most the free memory, {_shown(free)}, got one "
            f"that declares {_shown(needed)}"
        )


def read_limit(stored: int) -> int:
    """Bytes that a file may take while it is read.

    Args:
        stored: bytes of the file on disk.

    Raises:
        ValueError: the environment variable is no positive number.
    """
    given = os.environ.get(READ_LIMIT, "")
    if not given:
        return max(_ALWAYS, _TIMES_ITS_SIZE * stored)
    try:
        limit = int(float(given) * _GIB)
    except (OverflowError, ValueError):
        limit = 0
    if limit <= 0:
        raise ValueError(f"{READ_LIMIT}: expected a number of GiB above 0, got {given!r}")
    return limit


def free_main_memory() -> int:
    """Free bytes of the main memory; 4 GiB if the system does not tell."""
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 4 * _GIB


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shown(size: int) -> str:
    """A number of bytes for people."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"
