"""Five DDIM steps of one batch."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from selection import full_unless
from step_cases import CASES
from step_timing import PROVIDERS_AND_RIVALS, QUICK_CASE, QUICK_PROVIDERS, time_step


@pytest.mark.parametrize(
    "provider", [full_unless(p in QUICK_PROVIDERS, p) for p in PROVIDERS_AND_RIVALS]
)
@pytest.mark.parametrize("case", [full_unless(case == QUICK_CASE, case) for case in CASES])
def test_sampler(benchmark: BenchmarkFixture, full: bool, case: str, provider: str) -> None:
    benchmark.group = f"5-step sampling, case {case}"
    time_step(benchmark, case, provider, "sample", weigh=full)
