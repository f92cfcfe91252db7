"""Dice, HD95, ASSD and NSD of every class of two label maps, by us and by others."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
import torch
from metric_masks import VARIANTS, VOLUMES, masks
from metric_memory import bytes_per_voxel
from metric_rivals import PROVIDERS, THREADED, Scores, set_num_threads, why_not
from pytest_benchmark.fixture import BenchmarkFixture
from selection import full_unless

import recycleseg

TOLERANCE_MM = 1.0
FAST = ("ours", "ours_op", "exacta", "scipy_tree")  # on every input, however bad
CASES = [
    full_unless(volume in ("d2", "c4") and variant == "good", volume, variant, provider)
    for volume in VOLUMES
    for variant in VARIANTS
    for provider in (PROVIDERS if variant == "good" or volume == "c4" else FAST)
]


@pytest.mark.parametrize(("volume", "variant", "provider"), CASES)
def test_metrics(benchmark: BenchmarkFixture, volume: str, variant: str, provider: str) -> None:
    """Each provider's values are compared first, where its definition is ours."""
    benchmark.group = f"metrics, {volume}, {variant}, 1 thread"
    run = prepare(provider, volume, variant)
    with torch_threads(1):
        check(provider, run(), volume, variant)
        benchmark.pedantic(run, rounds=rounds_in_a_second(run))


@pytest.mark.full
@pytest.mark.parametrize("threads", [1, 2])
def test_metrics_of_a_batch(benchmark: BenchmarkFixture, threads: int) -> None:
    """16 images in one call; a single one is done before a second thread would have started."""
    benchmark.group = "metrics, 16 x d2, good, ours"
    kind = VOLUMES["d2"]
    pred, ref = (np.stack([maps] * 16) for maps in masks("d2"))
    with torch_threads(threads):
        benchmark.pedantic(
            recycleseg.evaluate,
            (pred, ref),
            {"spacing": kind.spacing, "labels": {"blob": 1}, "tolerance_mm": TOLERANCE_MM},
            rounds=100,
            warmup_rounds=2,
        )


@pytest.mark.full
@pytest.mark.parametrize("provider", ["ours", "ours_op", "exacta"])
def test_metrics_on_busy_cores(benchmark: BenchmarkFixture, provider: str) -> None:
    """Two threads while two other processes compute; extra_info has their time by one thread's."""
    benchmark.group = "metrics, c4, good, 2 threads beside 2 busy processes"
    run = prepare(provider, "c4", "good")
    with busy_processes(2), torch_threads(2):
        compare_threads(benchmark, run, rounds=15)
        benchmark.pedantic(run, rounds=5)


@pytest.mark.full
@pytest.mark.parametrize("provider", THREADED)
@pytest.mark.parametrize("volume", VOLUMES)
def test_metrics_on_idle_cores(benchmark: BenchmarkFixture, volume: str, provider: str) -> None:
    """One thread and two in turn, so that whoever else is on the machine slows both."""
    benchmark.group = f"metrics, {volume}, good, 2 threads"
    run = prepare(provider, volume, "good")
    with torch_threads(2):
        check(provider, run(), volume, "good")
        compare_threads(benchmark, run, rounds_in_a_second(run))
        benchmark.pedantic(run, rounds=5)


def rounds_in_a_second(run: Callable[[], object]) -> int:
    """From 5 to 200."""
    started = time.perf_counter()
    run()
    return max(5, min(200, int(1 / (time.perf_counter() - started))))


def compare_threads(benchmark: BenchmarkFixture, run: Callable[[], object], rounds: int) -> None:
    """Runs it on one thread and on two in turn; extra_info has the medians and their ratio."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for threads, times in seconds.items():
            set_num_threads(threads)
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
    medians = {threads: statistics.median(times) for threads, times in seconds.items()}
    benchmark.extra_info["seconds_one_thread"] = medians[1]
    benchmark.extra_info["seconds_two_threads"] = medians[2]
    benchmark.extra_info["two_threads_by_one"] = medians[2] / medians[1]


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("provider", ["ours", "exacta", "monai"])
@pytest.mark.parametrize(("volume", "variant"), [("amos", "good"), ("c4", "shifted")])
def test_metrics_memory(
    benchmark: BenchmarkFixture, volume: str, variant: str, provider: str
) -> None:
    """extra_info has bytes per voxel at the peak; the time is of the process that weighed it."""
    benchmark.group = f"memory of metrics, {volume}, {variant}"
    if reason := why_not(provider):
        pytest.skip(reason)
    extra = benchmark.pedantic(bytes_per_voxel, (provider, volume, variant, 2), rounds=1)
    benchmark.extra_info["bytes_per_voxel"] = extra


def prepare(provider: str, volume: str, variant: str) -> Callable[[], Scores]:
    """The call to be timed; skips what this machine lacks."""
    if reason := why_not(provider):
        pytest.skip(reason)
    kind = VOLUMES[volume]
    pred, ref = masks(volume, variant)
    compute = PROVIDERS[provider]
    return lambda: compute(pred, ref, kind.num_classes, kind.spacing, TOLERANCE_MM)


@cache
def expected(volume: str, variant: str) -> Scores:
    """By SciPy; where structures fill the volume by its tree, which takes a tenth of the time."""
    return prepare("scipy_tree" if variant == "salt" else "scipy_transform", volume, variant)()


def check(provider: str, scores: Scores, volume: str, variant: str) -> None:
    """1e-5: MONAI and edt return float32."""
    columns = slice(0, 1) if provider == "surface_distance" else slice(0, 4)
    np.testing.assert_allclose(
        scores[:, columns], expected(volume, variant)[:, columns], rtol=1e-5, atol=0
    )


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many for each provider."""
    before = torch.get_num_threads()
    set_num_threads(count)
    try:
        yield
    finally:
        set_num_threads(before)


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Processes that leave no core idle."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
