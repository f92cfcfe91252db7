"""How fast a cost grows: CPU seconds at several sizes, and the exponent that is fitted to them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.optimize import least_squares

# What rounding of sizes and noise of the clock add to an exponent of 1.
LARGEST_EXPONENT = 1.05
# A single call may be slowed down by others on the machine, so the fastest of these counts.
_REPEATS = 3


@dataclass(frozen=True)
class Fit:
    """seconds = constant + slope * size ** exponent."""

    constant: float
    slope: float
    exponent: float


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> Fit:
    """Fit the growth of a cost by least squares of log(seconds).

    The constant is fitted too. Otherwise what a start costs would hide the growth at small sizes.

    Args:
        sizes: at least four.
        seconds: above 0, one for each size.
    """
    if len(sizes) < 4 or len(sizes) != len(seconds):
        raise ValueError(
            f"sizes: expected at least 4 and as many seconds, got {len(sizes)} and {len(seconds)}"
        )
    relative, measured = np.asarray(sizes) / max(sizes), np.asarray(seconds)

    def residuals(x: Any) -> Any:
        constant, slope, exponent = x
        return np.log((constant + slope * relative**exponent) / measured)

    found = least_squares(
        residuals,
        x0=[measured.min() / 2, measured.max(), 1.0],
        bounds=([0, 1e-12, 0], [np.inf, np.inf, 4]),
        x_scale=[measured.min(), measured.max(), 1.0],
        xtol=1e-12,
        ftol=1e-12,
    )
    constant, slope, exponent = map(float, found.x)
    return Fit(constant, slope / max(sizes) ** exponent, exponent)


def check_growth(
    benchmark: BenchmarkFixture,
    cost: str,
    against: str,
    sizes: Sequence[int],
    make: Callable[[int], Callable[[], Any]],
) -> None:
    """Measure a cost at all sizes, print and keep the fit, and assert that it grows no faster.

    Args:
        benchmark: its `extra_info` gets sizes, CPU seconds and the fit.
        cost: what is measured.
        against: what the sizes count.
        sizes: from small to large.
        make: gives the call to measure, for a size; it is made anew for each measurement.
    """
    benchmark.group = f"growth, {cost} against {against}"
    seconds = dict.fromkeys(sizes, float("inf"))

    def measure() -> None:
        make(sizes[0])()  # loads what loads at first use
        for _ in range(_REPEATS):
            for size in sizes:
                seconds[size] = min(seconds[size], _cpu_seconds(make(size)))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for others burn processor time
    try:
        benchmark.pedantic(measure, rounds=1)
    finally:
        torch.set_num_threads(threads)
    found = fit(sizes, list(seconds.values()))
    benchmark.extra_info |= {
        "sizes": list(sizes),
        "cpu_seconds": [round(value, 4) for value in seconds.values()],
        "constant_seconds": round(found.constant, 4),
        "exponent": round(found.exponent, 3),
    }
    told = ", ".join(f"{size}: {value:.3f} s" for size, value in seconds.items())
    line = f"{benchmark.group}: exponent {found.exponent:.3f}, constant {found.constant:.3f} s"
    print(f"\n{line} ({told})")
    assert found.exponent <= LARGEST_EXPONENT, line


def _cpu_seconds(run: Callable[[], Any]) -> float:
    gc.collect()
    start = time.process_time()
    run()
    return time.process_time() - start
