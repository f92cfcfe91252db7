"""Ctrl-C ends a long call of the extension, which leaves everything as it was before."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

import pytest
import torch

from recycleseg import _ext
from recycleseg.ops.distance_transform import distance_transform
from recycleseg.ops.ensemble_vote import ensemble_vote
from recycleseg.ops.norm_act import norm_act
from recycleseg.ops.overlap_counts import overlap_counts
from recycleseg.ops.surface_distances import surface_distances

pytestmark = pytest.mark.skipif(not _ext.HAS_CPP, reason="the extension was not built")

# Of processor time, because other programs may keep the cores busy.
BEFORE, AFTER = 0.2, 1.0


Call = Callable[[], Any]


def far_surfaces(size: int) -> Call:
    """Speckle on both sides of a volume, so that each nearest point is far away."""
    generator = torch.Generator().manual_seed(0)
    one, other = torch.zeros(2, 1, size, size, size, dtype=torch.uint8)
    speckle = torch.rand(size // 3, size, size, generator=generator) < 0.3
    one[0, : size // 3], other[0, -(size // 3) :] = speckle, speckle
    return lambda: surface_distances(one, other, labels=[1], spacing=(1.0, 1.0, 1.0))


def transform(size: int) -> Call:
    mask = torch.ones(1, size, size, size, dtype=torch.uint8)
    mask[:, 0, 0, 0] = 0
    return lambda: distance_transform(mask, spacing=(1.0, 1.0, 1.0))


def vote(num_members: int) -> Call:
    probs = torch.rand(1, 8, 40, 40, 40, generator=torch.Generator().manual_seed(0)).softmax(1)
    return lambda: ensemble_vote([probs] * num_members, return_mutual_information=True)


def count(num_voxels: int) -> Call:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 200, (1, num_voxels), dtype=torch.uint8, generator=generator)
    return lambda: overlap_counts(label, label, 256, coordinate_sums=True)


def norm(size: int) -> Call:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 16, size, size, size, generator=generator)
    x, weight = x.to(memory_format=torch.channels_last_3d), torch.ones(1, 16)
    return lambda: norm_act(x, weight, weight, backend="cpp")


# What makes a call, and its argument for a short one and for one of seconds.
CALLS: dict[str, tuple[Callable[[int], Call], int, int]] = {
    "surface distances": (far_surfaces, 24, 280),
    "distance transform": (transform, 16, 420),
    "vote": (vote, 3, 2000),
}


def same(result: Any, expected: Any) -> None:
    pairs = zip(*((x if isinstance(x, tuple) else (x,)) for x in (result, expected)), strict=True)
    for ours, known in pairs:
        torch.testing.assert_close(ours, known, rtol=0, atol=0, equal_nan=True)


@pytest.fixture
def alarm() -> Iterator[Callable[[], None]]:
    """Starts a timer of processor time, whose signal raises KeyboardInterrupt as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGPROF, interrupt)
    yield lambda: signal.setitimer(signal.ITIMER_PROF, BEFORE)  # type: ignore[func-returns-value]
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", CALLS)
def test_a_signal_ends_a_long_call(name: str, threads: int, alarm: Callable[[], None]) -> None:
    make, short, long = CALLS[name]
    short_call, long_call = make(short), make(long)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        expected = short_call()
        alarm()
        started = time.process_time()
        with pytest.raises(KeyboardInterrupt):
            long_call()
        assert time.process_time() - started < BEFORE + threads * AFTER
        same(short_call(), expected)
    finally:
        torch.set_num_threads(num_threads)


@pytest.mark.parametrize(("make", "size"), [(count, 100_000), (norm, 20)])
def test_a_handler_that_does_not_raise_ends_nothing(make: Callable[[int], Call], size: int) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGPROF, lambda number, frame: seen.append(number))
    call = make(size)
    expected = call()
    signal.setitimer(signal.ITIMER_PROF, 0.05, 0.05)
    try:
        while len(seen) < 3:
            same(call(), expected)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def test_ctrl_c_in_a_process_of_its_own() -> None:
    code = (
        "import torch\n"
        "from recycleseg.ops.ensemble_vote import ensemble_vote\n"
        "members = [torch.full((1, 8, 40, 40, 40), 0.125)] * 20_000\n"
        "print('started', flush=True)\n"
        "ensemble_vote(members, return_mutual_information=True, backend='cpp')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert error.strip().endswith("KeyboardInterrupt")
