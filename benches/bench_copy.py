"""Copy bandwidth of the device's memory, the bound of whatever does little arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from op_timing import time_op
from pytest_benchmark.fixture import BenchmarkFixture
from selection import DEVICE
from torch import Tensor

SIZE = 2**30 if DEVICE.type == "cuda" else 2**28


@pytest.mark.parametrize("provider", ["clone", "copy_"])
def test_copy(benchmark: BenchmarkFixture, provider: str) -> None:
    """clone: into new memory; copy_: into memory that was there."""
    benchmark.group = f"copy, {SIZE >> 20} MiB"
    source = torch.arange(SIZE // 4, dtype=torch.int32, device=DEVICE)
    target = torch.empty_like(source)
    run: Callable[[], Tensor] = (
        source.clone if provider == "clone" else lambda: target.copy_(source)
    )
    assert torch.equal(run(), source)
    time_op(benchmark, run, 2 * SIZE)
