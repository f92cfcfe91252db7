"""Every open, write, sync and rename of a training run fails once; nothing is lost by it."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.reliability.commands import (
    Server,
    bits_of_run,
    train_arguments,
    train_to_the_end,
)

# How many faults are tried; "all" tries every call with the first error, and a sample of the
# others.
TRIES = os.environ.get("RECYCLESEG_FAULT_TRIES", "8")
SAMPLE = 20
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Runs commands whose calls of the system can fail."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("server")
    shim = folder / "fault_shim.so"
    source = Path(__file__).with_name("fault_shim.c")
    flags = ["-O1", "-Wall", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", shim, source, "-ldl"], check=True)
    with Server(folder, shim) as started:
        yield started


def cases_to_try(calls: int) -> list[tuple[int, int, bool]]:
    """Number of the call, error, and whether all later calls fail too."""
    rng = random.Random(0)
    if TRIES == "all":
        first = [(call, ERRORS[0], False) for call in range(1, calls + 1)]
        kinds = [(ERRORS[0], True), *((error, False) for error in ERRORS[1:])]
        return first + [(rng.randint(1, calls), *kind) for kind in kinds for _ in range(SAMPLE)]
    return [
        (rng.randint(1, calls), rng.choice(ERRORS), rng.random() < 0.25) for _ in range(int(TRIES))
    ]


def test_a_fault_ends_in_one_line_and_nothing_is_lost(
    discs: Path, server: Server, tmp_path: Path, count: Callable[[str], None]
) -> None:
    whole = server.run("train", train_arguments(discs, tmp_path), watched=[tmp_path])
    assert whole.code == 0, whole.text
    bits = bits_of_run(tmp_path)
    assert whole.seen > 100  # the shim has seen the calls of Python, C and Rust
    tries, unharmed, wrong = cases_to_try(whole.seen), 0, []
    for call, error, lasting in tries:
        for part in ("run", "cache"):
            shutil.rmtree(tmp_path / part, ignore_errors=True)
        result = server.run(
            "train",
            train_arguments(discs, tmp_path),
            watched=[tmp_path],
            fail_at=call,
            errno=error,
            lasting=lasting,
        )
        case = f"call {call} {errno.errorcode[error]}{' and all later' if lasting else ''}"
        unharmed += result.code == 0
        if result.code not in (0, 2) or len(result.errors) != (result.code == 2):
            wrong.append(f"{case}: exit code {result.code}: {result.text[-3000:]}")
        elif result.errors and str(tmp_path) not in result.errors[0]:
            wrong.append(f"{case}: no file is named: {result.errors[0]}")
        if result.code != 0:
            again = train_to_the_end(server, discs, tmp_path)
            if again.code != 0:
                wrong.append(f"{case}: cannot go on: {again.text[-3000:]}")
                continue
        if (now := bits_of_run(tmp_path)) != bits:
            changed = [name for name in {**bits, **now} if bits.get(name) != now.get(name)]
            wrong.append(f"{case}: other results: {changed}")
    count(
        f"{len(tries)} faults among {whole.seen} calls of the system: {len(wrong)} wrong, "
        f"{unharmed} did not stop the run"
    )
    assert not wrong, "\n".join(wrong)
