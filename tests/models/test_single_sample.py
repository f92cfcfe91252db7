from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recycleseg.models.single_sample import Conv3d

GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1, "bias": False},
    {"kernel_size": 1},
    {"kernel_size": 2, "stride": 2, "bias": False},
    {"kernel_size": (3, 3, 1), "padding": (1, 1, 0), "bias": False},
    {"kernel_size": (1, 5, 3), "padding": (0, 2, 1), "bias": False},
    {"kernel_size": (2, 2, 1), "stride": (2, 2, 1), "bias": False},
]


@pytest.mark.parametrize("size", [(9, 8, 10), (32, 39, 41), (1, 2, 3)])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_value_and_gradients_of_one_sample_equal_float64(
    size: tuple[int, ...], geometry: dict[str, Any], channels_last: bool
) -> None:
    torch.manual_seed(0)
    conv = Conv3d(16, 8, **geometry)
    if min(size) < conv.kernel_size[0] - 2 * conv.padding[0]:
        size = tuple(max(n, 2) for n in size)
    x = torch.randn(1, 16, *size)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    x.requires_grad_()
    y = conv(x)
    assert is_ours(y)
    with torch.no_grad():
        assert torch.equal(conv(x), y)
    cotangent = torch.randn_like(y)
    leaves = [x, *conv.parameters()]
    grads = torch.autograd.grad((y * cotangent).sum(), leaves)

    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = F.conv3d(
        wide[0],
        wide[1],
        wide[2] if len(wide) > 2 else None,
        stride=conv.stride,
        padding=conv.padding,
    )
    expected_grads = torch.autograd.grad((expected * cotangent.double()).sum(), wide)
    for ours, theirs in zip((y, *grads), (expected, *expected_grads), strict=True):
        close(ours.detach(), theirs.detach())


def close(ours: Tensor, expected: Tensor) -> None:
    """To float32 rounding of sums of up to 50 000 products, of a weight's gradient."""
    atol = 2e-5 * float(expected.abs().max())
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=atol)


def test_frozen_weights_get_no_gradient() -> None:
    conv = Conv3d(4, 4, 3, padding=1).requires_grad_(False)
    x = torch.randn(1, 4, 5, 6, 7, requires_grad=True)
    conv(x).sum().backward()
    assert x.grad is not None and conv.weight.grad is None


def test_all_else_is_pytorchs() -> None:
    conv = Conv3d(1, 6, 3, padding=1)
    x = torch.randn(2, 1, 5, 6, 7)
    assert torch.equal(conv(x), F.conv3d(x, conv.weight, conv.bias, padding=1))
    assert not is_ours(conv(x))
    assert not is_ours(conv(x[0]))  # no batch, but one channel
    assert not is_ours(conv(torch.randn(1, 1, 150, 140, 2)))  # large
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x[:1])
    assert y.dtype == torch.bfloat16 and not is_ours(y)
    torch._C._set_mkldnn_enabled(False)  # its public name warns of Intel's GPUs
    try:
        assert not is_ours(conv(x[:1]))
    finally:
        torch._C._set_mkldnn_enabled(True)
    assert not is_ours(conv.double()(x[:1].double()))


def is_ours(y: Tensor) -> bool:
    return "_SingleConvolution" in type(y.grad_fn).__name__
