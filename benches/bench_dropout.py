"""Dropout of the first level of a 3D network, forward and backward, in each dtype."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from op_shapes import PROVIDERS, QUICK_DTYPE, as_provided
from op_timing import time_op
from pytest_benchmark.fixture import BenchmarkFixture
from selection import DEVICE, full_unless
from torch import Tensor

from recycleseg.ops.dropout import dropout

SHAPE = (2, 32, 32, 48, 32)
RATE = 0.1
DTYPES = (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("dtype", [full_unless(d == QUICK_DTYPE, d) for d in DTYPES], ids=str)
def test_dropout(benchmark: BenchmarkFixture, dtype: torch.dtype, provider: str) -> None:
    """Each drops what it draws itself, so their shares of zeros are compared."""
    benchmark.group = f"dropout, {SHAPE}, {dtype}"
    function = partial(dropout, rate=RATE) if provider == "fused" else partial(F.dropout, p=RATE)
    drop = as_provided(provider, function)
    generator = torch.Generator(DEVICE).manual_seed(0)
    x = torch.randn(SHAPE, generator=generator, device=DEVICE).to(dtype).requires_grad_()
    y = drop(x)
    kept = y != 0
    assert abs(kept.float().mean().item() - (1 - RATE)) < 6 * x.numel() ** -0.5
    torch.testing.assert_close(y[kept], x[kept] / (1 - RATE))
    cotangent = torch.ones_like(x)

    def run() -> Tensor:
        (gradient,) = torch.autograd.grad(drop(x), x, cotangent)
        return gradient

    time_op(benchmark, run, 4 * x.nbytes)  # each pass reads and writes
