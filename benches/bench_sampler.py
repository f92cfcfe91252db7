"""Five DDIM steps of one batch."""

from __future__ import annotations

import pytest
from measure import PROVIDERS_AND_RIVALS, measure
from pytest_benchmark.fixture import BenchmarkFixture
from workloads import CASES


@pytest.mark.parametrize("provider", PROVIDERS_AND_RIVALS)
@pytest.mark.parametrize("case", CASES)
def test_sampler(benchmark: BenchmarkFixture, case: str, provider: str) -> None:
    benchmark.group = f"5-step sampling, case {case}"
    measure(benchmark, case, provider, "sample")
