"""Five DDIM steps of one batch."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from workloads import CASES, PROVIDERS, Workload, peak_memory_mb


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("case", CASES)
def test_sampler(benchmark: BenchmarkFixture, case: str, provider: str) -> None:
    benchmark.group = f"5-step sampling, case {case}"
    if provider != "compiled":  # the compiler itself would be weighed
        benchmark.extra_info["peak_memory_mb"] = peak_memory_mb(case, provider, "sample")
    benchmark.pedantic(Workload(case, provider).sample, rounds=3, warmup_rounds=1)
