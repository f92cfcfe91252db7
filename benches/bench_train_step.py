"""Whole training steps by recycling and by standard diffusion."""

from __future__ import annotations

import itertools

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from selection import full_unless
from step_cases import CASES
from step_timing import PROVIDERS_AND_RIVALS, QUICK_CASE, time_step
from workloads import PROVIDERS, STRATEGIES

# MONAI knows the standard strategy alone, torch.compile gains as much by one as by the other.
QUICK_PROVIDERS = {"recycling": PROVIDERS, "standard": ("fused", "monai")}
TIMED = [
    full_unless(
        case == QUICK_CASE and provider in QUICK_PROVIDERS[strategy], case, strategy, provider
    )
    for case, strategy, provider in itertools.product(CASES, STRATEGIES, PROVIDERS_AND_RIVALS)
]


@pytest.mark.parametrize(("case", "strategy", "provider"), TIMED)
def test_train_step(
    benchmark: BenchmarkFixture, full: bool, case: str, strategy: str, provider: str
) -> None:
    benchmark.group = f"train step, {strategy}, case {case}"
    time_step(benchmark, case, provider, "train", strategy, weigh=full)
