"""How a call of microseconds or of a second is timed, on any device."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from selection import DEVICE

ROUND_SECONDS = 0.03


def time_op(benchmark: BenchmarkFixture, run: Callable[[], Any], num_bytes: int) -> None:
    """Time a call that has run before, so often a round that waiting for the device is nothing.

    extra_info gets "bytes", those that must be moved at least, and on a GPU "peak_memory_mb", of
    all tensors there are while it runs.
    """
    benchmark.extra_info["bytes"] = num_bytes
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        run()
        benchmark.extra_info["peak_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
    if benchmark.disabled:
        benchmark.pedantic(run)
        return
    seconds = _seconds(run)
    calls = max(1, min(1000, int(ROUND_SECONDS / seconds)))
    benchmark.pedantic(
        _Synchronised(run, calls),
        rounds=3 if seconds > 0.1 else 7,
        iterations=calls,
        warmup_rounds=0 if seconds > 0.1 else 1,
    )


def synchronize() -> None:
    """Wait for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


class _Synchronised:
    """A call, the last of every `calls` of which waits for the device: the end of a round."""

    def __init__(self, run: Callable[[], Any], calls: int) -> None:
        self.run = run
        self.calls = calls
        self.count = 0

    def __call__(self) -> None:
        self.run()
        self.count += 1
        if self.count % self.calls == 0:
            synchronize()


def _seconds(run: Callable[[], Any]) -> float:
    """Of one call, of three where they are short."""
    for calls in (1, 3):
        synchronize()
        started = time.perf_counter()
        for _ in range(calls):
            run()
        synchronize()
        seconds = (time.perf_counter() - started) / calls
        if seconds > 0.1:
            break
    return seconds
