"""The Philox noise of the kernels against that in plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from recycleseg.ops.noise_step import noise_step
from recycleseg.ops.philox import philox_normal, philox_words

triton = pytest.importorskip("triton", reason="Triton is not installed")
tl = pytest.importorskip("triton.language")
philox_normals = pytest.importorskip("recycleseg.kernels._common").philox_normals


@triton.jit
def words_kernel(seed_ptr, counter_ptr, words_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    c0 = tl.load(counter_ptr + i).to(tl.uint32)
    c1 = tl.load(counter_ptr + BLOCK + i).to(tl.uint32)
    c2 = tl.load(counter_ptr + 2 * BLOCK + i).to(tl.uint32)
    c3 = tl.load(counter_ptr + 3 * BLOCK + i).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(tl.load(seed_ptr), c0, c1, c2, c3)
    tl.store(words_ptr + i, w0.to(tl.int64))
    tl.store(words_ptr + BLOCK + i, w1.to(tl.int64))
    tl.store(words_ptr + 2 * BLOCK + i, w2.to(tl.int64))
    tl.store(words_ptr + 3 * BLOCK + i, w3.to(tl.int64))


@triton.jit
def normals_kernel(seed_ptr, offset_ptr, n_ptr, y_ptr, BLOCK: tl.constexpr, C: tl.constexpr):
    i = tl.arange(0, BLOCK)
    seed, offset = tl.load(seed_ptr), tl.load(offset_ptr)
    normals = philox_normals(seed, offset, tl.load(n_ptr + i), BLOCK, C)
    tl.store(y_ptr + i[:, None] * C + tl.arange(0, C)[None, :], normals)


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63), 0x299F31D0A4093822])
def test_draws_the_same_words(seed: int, device: torch.device) -> None:
    counter = torch.randint(2**32, (4, 256), generator=torch.Generator().manual_seed(0))
    words = torch.empty_like(counter, device=device)
    words_kernel[(1,)](torch.tensor(seed, device=device), counter.to(device), words, BLOCK=256)
    key = torch.tensor(seed & 0xFFFFFFFF), torch.tensor(seed >> 32 & 0xFFFFFFFF)
    assert words.cpu().equal(torch.stack(philox_words(counter, key)))


@pytest.mark.parametrize("num_classes", [1, 2, 4, 16])
def test_draws_the_same_normals_where_counters_pass_32_bits(
    num_classes: int, device: torch.device, tolerance: float
) -> None:
    n = 2**32 - 8 + torch.arange(16)
    seed, offset = -3, 2**60 - 5
    y = torch.empty(16, num_classes, device=device)
    scalars = (torch.tensor(value, device=device) for value in (seed, offset))
    normals_kernel[(1,)](*scalars, n.to(device), y, BLOCK=16, C=num_classes)
    for c in range(num_classes):
        counter = [n & 0xFFFFFFFF, n >> 32, offset & 0xFFFFFFFF, offset >> 32 << 4 | c // 4]
        key = torch.tensor(seed & 0xFFFFFFFF), torch.tensor(seed >> 32 & 0xFFFFFFFF)
        words = philox_words([torch.as_tensor(word) + 0 * n for word in counter], key)
        u = [torch.where(w < 2**31, w, 2**32 - 1 - w).double() * 2.0**-31 for w in words]
        pair = 2 * (c % 4 // 2)
        trigonometric = torch.sin if c % 2 else torch.cos
        radius = (-2 * u[pair].clamp(min=1e-7).log()).sqrt()
        expected = radius * trigonometric(2 * math.pi * u[pair + 1])
        # The argument of cos is rounded to float32, which up to 2 pi is 2.4e-7.
        torch.testing.assert_close(y[:, c].cpu().double(), expected, rtol=0, atol=3 * tolerance)


def test_a_million_draws_of_a_kernel_are_the_tested_ones(
    fuse: Callable[[str], None], device: torch.device, tolerance: float
) -> None:
    """Those whose moments, distribution and independence tests/ops/test_philox.py looks at."""
    fuse("noise_step")
    source = torch.zeros(2, 4, 125_000, device=device)
    zero, one = torch.zeros(2, device=device), torch.ones(2, device=device)
    step = noise_step(source, zero, one, source_type="logits", num_classes=4, seed=7, return_x=True)
    assert step.x_t is not None
    expected = philox_normal(source.shape, 7, 0, device)
    torch.testing.assert_close(step.x_t, expected, rtol=0, atol=3 * tolerance)
    values = step.x_t.double().flatten()
    # a million draws: standard deviations 0.001 of the mean, 0.0014 of the variance, 0.01 of x^4
    assert abs(values.mean()) < 0.004
    assert abs(values.var() - 1) < 0.006
    assert abs(values.pow(4).mean() - 3) < 0.04
