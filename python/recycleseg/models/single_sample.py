"""A convolution that takes a small, single float32 volume as fast as a batch.

PyTorch hands a batch of one, where it is small, not to oneDNN but to an unfolding of its own
(`ConvParams::use_mkldnn`), which takes two to eighteen times as long in 3D. In 2D it is as fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Beyond so many voxels of a slice, all channels together, PyTorch takes oneDNN for one sample too.
_SMALL = 20480


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d`, padded with zeros and by numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *S) -> (B, C_out, *S')."""
        return _convolve(self, x) if _is_small_and_single(self, x) else super().forward(x)


def _is_small_and_single(conv: nn.Conv3d, x: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()  # which knows no shape of oneDNN's operation
        and x.device.type == "cpu"
        and x.dtype == conv.weight.dtype == torch.float32
        and x.ndim == conv.weight.ndim
        and len(x) == 1
        and x.shape[:4].numel() <= _SMALL
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
    )


def _convolve(conv: nn.Conv3d, x: Tensor) -> Tensor:
    apply: Callable[..., Tensor] = _SingleConvolution.apply  # typed in some versions of PyTorch
    geometry = conv.stride, conv.padding, conv.dilation, conv.groups
    return apply(x, conv.weight, conv.bias, geometry)


class _SingleConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple[Any, ...]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        stride, padding, dilation, groups = geometry
        return torch.mkldnn_convolution(x, weight, bias, padding, stride, dilation, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        # With a second sample, which adds nothing, PyTorch takes oneDNN.
        grad_pair, pair = (torch.cat([t, torch.zeros_like(t)]) for t in (grad_y, x))
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad_pair,
            pair,
            weight,
            ctx.bias_sizes,
            stride,
            padding,
            dilation,
            False,
            [0] * len(stride),
            groups,
            ctx.needs_input_grad[:3],
        )
        return None if grad_x is None else grad_x[:1], grad_weight, grad_bias, None
