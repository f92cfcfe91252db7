"""Five DDIM steps of one batch."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from workloads import CASES, PROVIDERS, Workload, peak_memory_mb


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("case", CASES)
def test_sampler(benchmark: BenchmarkFixture, case: str, provider: str) -> None:
    benchmark.group = f"5-step sampling, case {case}"
    benchmark.extra_info["peak_memory_mb"] = peak_memory_mb(case, provider, "sample")
    benchmark.pedantic(Workload(case, provider).sample, rounds=5, warmup_rounds=2)
