"""Whole training steps by recycling and by standard diffusion."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from workloads import CASES, PROVIDERS, STRATEGIES, Workload, peak_memory_mb


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("case", CASES)
def test_train_step(benchmark: BenchmarkFixture, case: str, strategy: str, provider: str) -> None:
    benchmark.group = f"train step, {strategy}, case {case}"
    if provider != "compiled":  # the compiler itself would be weighed
        benchmark.extra_info["peak_memory_mb"] = peak_memory_mb(case, provider, "train", strategy)
    benchmark.pedantic(Workload(case, provider, strategy).train, rounds=3, warmup_rounds=1)
