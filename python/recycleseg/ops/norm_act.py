"""Instance normalisation with a per-sample affine, a residual and GELU, as one operation.

Between two convolutions a network does little arithmetic but reads and writes its activations many
times. The compiled extension reads them twice and writes them once forward, and keeps nothing but
its arguments for the backward pass. Where it does not serve, on a GPU above all, PyTorch's own
layers do: three passes, in the dtype of the activations, that keep what goes into the norm and what
goes into GELU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recycleseg import _ext
from recycleseg.ops._backend import resolve_backend
from recycleseg.ops._checks import choice, is_tensor

_COMPILED_DTYPES = (torch.float32, torch.bfloat16)


def norm_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    *,
    activation: bool = True,
    eps: float = 1e-6,
    backend: str = "auto",
) -> Tensor:
    """Normalise each channel of each sample, then affine, residual and GELU (tanh form).

        y = act((x - mean) / sqrt(variance + eps) * weight + bias + residual)

    with mean and biased variance over the voxels (Ulyanov et al. 2016, arXiv 1607.08022). Mean and
    variance are float32 (float64 for float64), whatever the dtype of x; so is all arithmetic, but
    that "native" rounds to x's dtype after the affine and after the residual. Differentiable in all
    four tensors, with "cpp" once.

    Args:
        x: (B, C, *S), floating point, not empty; fastest where it lies channels-last in memory.
        weight: (B, C), in float32 (float64 for a float64 x).
        bias: (B, C), in the same dtype.
        residual: like x, or None.
        activation: whether act is GELU or nothing.
        eps: added to the variance.
        backend: "cpp" (float32 and bfloat16 on a CPU; threads: ``torch.get_num_threads()``),
            "native" (PyTorch's layers, any device), "reference" (the equation, term by term), or
            "auto": "cpp" where it was built and serves x, else "native".

    Returns:
        (B, C, *S) in x's dtype, channels-last in memory from "cpp".

    Raises:
        ValueError: an argument does not meet its description.
        RuntimeError: the backend was not built.
    """
    _check(x, weight, bias, residual)
    choice("backend", backend, ("auto", "cpp", "native", "reference"))
    compiled = x.dtype in _COMPILED_DTYPES and x.device.type == "cpu"
    if backend == "auto":
        backend = "cpp" if compiled and _ext.HAS_CPP else "native"
    if backend == "native":
        return _norm_act_native(x, weight, bias, residual, activation, eps)
    if backend == "reference":
        return norm_act_reference(x, weight, bias, residual, activation=activation, eps=eps)
    resolve_backend(backend, x.device)
    if not compiled:
        raise ValueError(f"backend='cpp': expected float32 or bfloat16, got {x.dtype}")
    y: Tensor = _norm_act(x, weight, bias, residual, activation, eps)[0]
    return y


def norm_act_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    *,
    activation: bool = True,
    eps: float = 1e-6,
) -> Tensor:
    """What :func:`norm_act` computes, in plain torch."""
    voxels = tuple(range(2, x.ndim))
    per_channel = (*weight.shape, *(1,) * len(voxels))
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(wide, voxels, correction=0, keepdim=True)
    y = (wide - mean) * torch.rsqrt(variance + eps)
    y = y * weight.view(per_channel) + bias.view(per_channel)
    if residual is not None:
        y = y + residual
    if activation:
        y = F.gelu(y, approximate="tanh")
    return y.to(x.dtype)


def _norm_act_native(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    activation: bool,
    eps: float,
) -> Tensor:
    # One sample with B * C channels, for each sample has an affine of its own. Not F.instance_norm,
    # which refuses a single voxel.
    merged = x.reshape(1, -1, *x.shape[2:])
    affine = weight.flatten(), bias.flatten()
    y = torch.instance_norm(merged, *affine, None, None, True, 0.0, eps, True).reshape(x.shape)
    if residual is not None:
        y = y + residual
    return F.gelu(y, approximate="tanh") if activation else y


def _check(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> None:
    is_tensor("x", x)
    if x.ndim < 3 or not x.is_floating_point() or x.numel() == 0:
        raise ValueError(
            "x: expected floating point (B, C, *S), not empty, "
            f"got {x.dtype} of shape {tuple(x.shape)}"
        )
    dtype = torch.promote_types(x.dtype, torch.float32)
    for name, table in (("weight", weight), ("bias", bias)):
        if table.shape != x.shape[:2] or table.dtype != dtype:
            raise ValueError(
                f"{name}: expected {dtype} of shape {tuple(x.shape[:2])}, "
                f"got {table.dtype} of shape {tuple(table.shape)}"
            )
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        raise ValueError(
            f"residual: expected {x.dtype} of shape {tuple(x.shape)}, "
            f"got {residual.dtype} of shape {tuple(residual.shape)}"
        )


def _channels_last(x: Tensor) -> Tensor:
    """A copy of x (B, C, *S), or x itself, that lies as (B, *S, C) in memory."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def _empty_channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).new_empty((x.shape[0], *x.shape[2:], x.shape[1])).movedim(-1, 1)


def _capsule(x: Tensor | None) -> object:
    return None if x is None else _ext.capsule(x.detach().movedim(1, -1))


@torch.library.custom_op("recycleseg::norm_act", mutates_args=())
def _norm_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    activation: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """y and the moments (2, B, C): mean and 1 / sqrt(variance + eps)."""
    y = _empty_channels_last(x)
    moments = x.new_empty((2, *x.shape[:2]), dtype=torch.float32)
    _ext.C.norm_act_forward_cpu(
        _capsule(_channels_last(x)),
        _ext.capsule(weight.detach().contiguous()),
        _ext.capsule(bias.detach().contiguous()),
        _capsule(None if residual is None else _channels_last(residual)),
        _capsule(y),
        _ext.capsule(moments),
        activation,
        eps,
        torch.get_num_threads(),
    )
    return y, moments


@_norm_act.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    activation: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    return _empty_channels_last(x), x.new_empty((2, *x.shape[:2]), dtype=torch.float32)


@torch.library.custom_op("recycleseg::norm_act_backward", mutates_args=())
def _norm_act_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    moments: Tensor,
    activation: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of the residual (empty where none flows by itself), of weight and bias."""
    grad_x = _empty_channels_last(x)
    own = residual is not None and activation
    grad_residual = _empty_channels_last(x) if own else x.new_empty(0)
    grad_affine = x.new_empty((2, *x.shape[:2]), dtype=torch.float32)
    _ext.C.norm_act_backward_cpu(
        _capsule(_channels_last(x)),
        _ext.capsule(weight.detach().contiguous()),
        _ext.capsule(bias.detach().contiguous()),
        _capsule(None if residual is None else _channels_last(residual)),
        _capsule(_channels_last(grad_y)),
        _ext.capsule(moments.detach()),
        _capsule(grad_x),
        _capsule(grad_residual if own else None),
        _ext.capsule(grad_affine),
        activation,
        torch.get_num_threads(),
    )
    return grad_x, grad_residual, grad_affine


@_norm_act_backward.register_fake
def _(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    moments: Tensor,
    activation: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    own = residual is not None and activation
    grad_residual = _empty_channels_last(x) if own else x.new_empty(0)
    grad_affine = x.new_empty((2, *x.shape[:2]), dtype=torch.float32)
    return _empty_channels_last(x), grad_residual, grad_affine


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, residual, activation, _ = inputs
    moments = output[1]
    ctx.mark_non_differentiable(moments)
    ctx.save_for_backward(x, weight, bias, residual, moments)
    ctx.activation = activation


def _backward(ctx: Any, grad_y: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, residual, moments = ctx.saved_tensors
    grad_x, grad_residual, grad_affine = _norm_act_backward(
        grad_y, x, weight, bias, residual, moments, ctx.activation
    )
    if residual is None:
        grad_residual = None
    elif not ctx.activation:
        grad_residual = grad_y
    return grad_x, grad_affine[0], grad_affine[1], grad_residual, None, None


_norm_act.register_autograd(_backward, setup_context=_setup_context)
