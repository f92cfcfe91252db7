"""Instance norm, affine, residual and GELU, forward and backward, in each dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_shapes import QUICK_DTYPE
from pytest_benchmark.fixture import BenchmarkFixture
from selection import DEVICE, full_unless
from torch import Tensor

from recycleseg.ops.norm_act import norm_act, norm_act_reference

# (B, C, *S): the first and the third level of a 3D network, the first of a 2D one.
SHAPES = [(2, 32, 32, 48, 32), (2, 128, 8, 12, 8), (4, 32, 256, 256)]
DTYPES = [torch.float32, torch.bfloat16]
PROVIDERS = ("ours", "native", "reference", "compiled")


def provider_of(name: str) -> Callable[..., Tensor]:
    """ours: what a network takes here; native: PyTorch's layers; compiled: by torch.compile."""
    if name == "native":
        return lambda *arguments: norm_act(*arguments, backend="native")
    if name == "compiled":
        torch.compiler.reset()  # else the limit on recompilations ends in timing eager code
        compiled: Callable[..., Tensor] = torch.compile(norm_act_reference, dynamic=False)
        return compiled
    return {"ours": norm_act, "reference": norm_act_reference}[name]


def arguments_of(shape: tuple[int, ...], dtype: torch.dtype, provider: str) -> list[Tensor]:
    """x, weight, bias, residual; x and residual in the layout that serves the provider best."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    layout = last if provider == "ours" and DEVICE.type == "cpu" else torch.contiguous_format

    def normal(size: tuple[int, ...]) -> Tensor:
        return torch.randn(size, generator=generator, device=DEVICE)

    x, residual = (normal(shape).to(dtype).contiguous(memory_format=layout) for _ in range(2))
    return [x, normal(shape[:2]), normal(shape[:2]), residual]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("dtype", [full_unless(d == QUICK_DTYPE, d) for d in DTYPES], ids=str)
@pytest.mark.parametrize("shape", [full_unless(s == SHAPES[0], s) for s in SHAPES], ids=str)
def test_norm_act(
    benchmark: BenchmarkFixture,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    direction: str,
    provider: str,
) -> None:
    """backward: of the gradients alone, from the graph that a forward pass has left."""
    benchmark.group = f"norm_act {direction}, {shape}, {dtype}"
    function = provider_of(provider)
    arguments = arguments_of(shape, dtype, provider)
    expected = norm_act_reference(*arguments)
    torch.testing.assert_close(function(*arguments), expected, rtol=5e-2, atol=5e-2)

    leaves = [argument.requires_grad_(direction == "backward") for argument in arguments]
    y = function(*leaves)
    cotangent = torch.ones_like(y)

    def run() -> Any:
        if direction == "backward":
            result = torch.autograd.grad(y, leaves, cotangent, retain_graph=True)
        else:
            result = function(*leaves)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return result

    benchmark(run)
