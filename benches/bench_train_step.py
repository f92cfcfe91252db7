"""Whole training steps by recycling and by standard diffusion."""

from __future__ import annotations

import pytest
from measure import PROVIDERS_AND_RIVALS, measure
from pytest_benchmark.fixture import BenchmarkFixture
from workloads import CASES, STRATEGIES


@pytest.mark.parametrize("provider", PROVIDERS_AND_RIVALS)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("case", CASES)
def test_train_step(benchmark: BenchmarkFixture, case: str, strategy: str, provider: str) -> None:
    benchmark.group = f"train step, {strategy}, case {case}"
    measure(benchmark, case, provider, "train", strategy)
