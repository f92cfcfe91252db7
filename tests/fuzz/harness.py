"""Give a reader damaged files for some seconds: it reads them or refuses them, in little memory.

The environment variable RECYCLESEG_FUZZ_SECONDS says for how long each reader is tried. It means
processor time, so that other work on the machine takes nothing from it. The targets of one test
function share the time.
"""

from __future__ import annotations

import os
import re
import resource
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from recycleseg.files import FileError
from recycleseg.limits import READ_LIMIT

SECONDS = float(os.environ.get("RECYCLESEG_FUZZ_SECONDS", "2"))
_INPUTS_PER_ROUND = 50
# For files, so that inputs at the limit are fast; and what libraries may take besides.
LIMIT = 2**26
_BESIDES = 2**25
# Beyond this, not even memory that is never touched may be asked for.
_ADDRESSES = 2**31


@dataclass
class Tried:
    """Counts of one target: all inputs, and those that were refused."""

    number: int = 0
    refused: int = 0


TRIED: dict[str, Tried] = {}
# Test function -> number of its targets.
TARGETS: Counter[str] = Counter()


def function_of(test: str) -> str:
    """The test function in pytest's name of a test, "FILE::FUNCTION[PARAMETERS] (PHASE)"."""
    return test.split("[")[0].split(" ")[0]


def fuzz(
    name: str,
    path: Path,
    inputs: SearchStrategy[bytes],
    read: Callable[[Path], object],
    *,
    named: str | None = None,
) -> None:
    """Read damaged files until the time is over.

    Args:
        name: of the target, for the counts.
        path: where each input is written.
        inputs: contents of the file.
        read: reads the file; it may raise FileError, in which a message names the file.
        named: what the messages must name; None means the file.
    """
    tried = TRIED.setdefault(name, Tried())
    named = path.name if named is None else named

    def read_one(content: bytes) -> None:
        path.write_bytes(content)
        tried.number += 1
        reset_peak()
        before = _status("VmRSS")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # as a user does, whose program goes on
                read(path)
        except FileError as error:
            tried.refused += 1
            assert named in str(error), f"the message does not name {named}: {error}"
            assert not _is_out_of_memory(error), f"too much memory was asked for: {error}"
        taken = _status("VmHWM") - before
        assert taken <= LIMIT + _BESIDES, f"{taken / 2**20:.0f} MiB were taken"

    seconds = SECONDS / TARGETS[function_of(os.environ["PYTEST_CURRENT_TEST"])]
    end, number = time.process_time() + seconds, 0
    with _limited():
        while number == 0 or time.process_time() < end:
            in_round = settings(
                max_examples=_INPUTS_PER_ROUND,
                database=None,
                deadline=None,
                phases=(Phase.generate,),
                suppress_health_check=tuple(HealthCheck),
            )
            seed(number)(in_round(given(inputs)(read_one)))()
            number += 1


def reset_peak() -> None:
    """Begin to measure the peak of the memory of this process anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int:
    """Bytes of memory by the system's account of this process."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def _is_out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__
    return False


@contextmanager
def _limited() -> Iterator[None]:
    """With a small limit for files, and a limit for the addresses of this process."""
    before, given_limit = resource.getrlimit(resource.RLIMIT_AS), os.environ.get(READ_LIMIT)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + _ADDRESSES, before[1]))
    os.environ[READ_LIMIT] = str(LIMIT / 2**30)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        if given_limit is None:
            del os.environ[READ_LIMIT]
        else:
            os.environ[READ_LIMIT] = given_limit
