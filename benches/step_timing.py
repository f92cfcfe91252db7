"""One row of the table: a case computed by one of our providers or by a rival."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from rivals import imgx, monai
from selection import on_device
from step_cases import CASES
from step_memory import peak_memory_mb
from workloads import PROVIDERS, make_workload

PROVIDERS_AND_RIVALS = (*PROVIDERS, "monai", "monai_bf16", "imgx")
QUICK_CASE = on_device("A", "B")
QUICK_PROVIDERS = (*PROVIDERS, "monai")


def time_step(
    benchmark: BenchmarkFixture,
    case: str,
    provider: str,
    work: str,
    strategy: str = "recycling",
    *,
    weigh: bool,
) -> None:
    """Time a whole step; skip what this machine lacks and what a rival does not do.

    Args:
        benchmark: What it is timed by.
        case: Name of one of CASES.
        provider: One of PROVIDERS_AND_RIVALS.
        work: "train" or "sample".
        strategy: One of `workloads.STRATEGIES`.
        weigh: Whether to weigh its memory too, in a process that takes seconds to start.
    """
    if reason := _why_not(provider, work, strategy):
        pytest.skip(reason)
    if provider == "imgx":
        with imgx.ImgxWorkload(CASES[case], strategy) as rival:
            benchmark.pedantic(getattr(rival, work), rounds=3, warmup_rounds=1)
        benchmark.extra_info.update(rival.extra_info)
        return
    if weigh and provider != "compiled":  # the compiler itself would be weighed
        benchmark.extra_info["peak_memory_mb"] = peak_memory_mb(case, provider, work, strategy)
    workload = make_workload(case, provider, strategy)
    benchmark.extra_info["parameters"] = sum(p.numel() for p in workload.network.parameters())
    benchmark.pedantic(getattr(workload, work), rounds=3, warmup_rounds=1)


def _why_not(provider: str, work: str, strategy: str) -> str | None:
    if provider == "imgx":
        return imgx.why_not()
    if provider.startswith("monai"):
        if work == "train" and strategy != "standard":
            return "MONAI trains by standard diffusion alone"
        return monai.why_not("bf16" if provider.endswith("bf16") else "float32")
    return None
