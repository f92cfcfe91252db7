"""Dropout whose random bits are a function of seed and place, so that processes can share a batch.

It also takes little time on a CPU. PyTorch draws random numbers one after the other there, and a
training step with the network of the preset `imgx` takes 10 % (float32) to 28 % (bfloat16) longer.
The compiled extension derives 16 random bits for each element from a seed and the element's place
in memory, in one pass, and repeats that in the backward pass instead of keeping a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recycleseg import _ext
from recycleseg.ops._checks import is_tensor

_COMPILED_DTYPES = (torch.float32, torch.bfloat16)
_WORD = 2**32 - 1
# As csrc/dropout has them; the first as a signed number.
_SEED_STEP = 0x9E3779B97F4A7C15 - 2**64
_GROUP, _LANES = 32, 16


def dropout(
    x: Tensor, rate: float, training: bool = True, *, first_row: int | None = None
) -> Tensor:
    """Zero elements with probability `rate` and scale the others by 1 / (1 - rate).

    The rate is rounded to a multiple of 2^-16. The same seed, shape and memory layout drop the same
    elements, compiled by ``torch.compile`` or not; the seed is drawn from torch's default generator
    of the device. On a CPU, float32 and bfloat16 are computed by the compiled extension where it
    was built. Differentiable in x.

    Args:
        x: of any shape, floating point.
        rate: 0 to below 1.
        training: False: x itself is returned.
        first_row: x is a batch (B, ...) whose rows have random bits of their own. It begins with
            this row of a batch that several processes share; so with equal seeds they drop what one
            process would.

    Returns:
        Like x, in its memory layout where it is dense.

    Raises:
        ValueError: for a rate out of range, or a batch whose rows are not one after the other in
            memory.
    """
    is_tensor("x", x)
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"rate: expected 0 to below 1, got {rate}")
    if not training or rate == 0.0:
        return x
    rows = 1 if first_row is None else len(x)
    first_row = first_row or 0
    if x.device.type != "cpu" or x.dtype not in _COMPILED_DTYPES or not _ext.HAS_CPP:
        seed = torch.randint(-(2**63), 2**63 - 1, (), device=x.device)
        kept = dropout_mask(x, rate, seed, rows, first_row)
        return torch.where(kept, x * (1 / (1 - rate)), torch.zeros_like(x))
    y: Tensor = _dropout(x, rate, rows, first_row)[0]
    return y


@torch.no_grad()
def dropout_mask(x: Tensor, rate: float, seed: Tensor, rows: int, first_row: int) -> Tensor:
    """Which elements of a tensor are kept, in plain torch.

    Args:
        x: the tensor; as in the extension, an element's place in memory decides.
        rate: 0 to below 1.
        seed: 0-d int64.
        rows: equal parts of the tensor with random bits of their own.
        first_row: number of the first of them.

    Returns:
        bool, of the shape and layout of x, on the seed's device.
    """
    numbers = torch.arange(first_row, first_row + rows, device=seed.device).unsqueeze(1)
    seed = seed + numbers * _SEED_STEP
    place = torch.arange(x.numel() // max(rows, 1), device=seed.device)
    group = place // _GROUP
    word = (group * _LANES + place % _LANES) & _WORD
    second = ((seed >> 32) & _WORD) ^ ((group >> 28) * 0x9E3779B9 & _WORD)
    bits = _mix(_mix(word ^ (seed & _WORD)) ^ second)
    bits = torch.where(place % _GROUP < _LANES, bits & 0xFFFF, bits >> 16)
    kept = (bits >= round(rate * 2**16)).flatten()
    return kept.as_strided(x.shape, torch.empty_like(x).stride())


def _mix(word: Tensor) -> Tensor:
    """A bijection of 32-bit words whose outputs look random (C. Wellons's "lowbias32")."""
    word = ((word ^ (word >> 16)) * 0x7FEB352D) & _WORD
    word = ((word ^ (word >> 15)) * 0x846CA68B) & _WORD
    return word ^ (word >> 16)


# Draws from the default generator: two calls with equal arguments are not one.
@torch.library.custom_op(
    "recycleseg::dropout", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,)
)
def _dropout(x: Tensor, rate: float, rows: int, first_row: int) -> tuple[Tensor, Tensor]:
    """y and the seed that was drawn, 0-d int64."""
    seed = torch.empty((), dtype=torch.int64).random_(-(2**63), None)
    return _apply(x, seed, rate, rows, first_row, torch.empty_like(x).stride()), seed


@_dropout.register_fake
def _(x: Tensor, rate: float, rows: int, first_row: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty((), dtype=torch.int64)


@torch.library.custom_op("recycleseg::dropout_backward", mutates_args=())
def _dropout_backward(
    grad_y: Tensor, seed: Tensor, rate: float, rows: int, first_row: int, strides: list[int]
) -> Tensor:
    """Gradient of x, laid out in memory as y was: an element's place decides whether it is kept."""
    return _apply(grad_y, seed, rate, rows, first_row, strides)


@_dropout_backward.register_fake
def _(
    grad_y: Tensor, seed: Tensor, rate: float, rows: int, first_row: int, strides: list[int]
) -> Tensor:
    return torch.empty_strided(grad_y.shape, strides, dtype=grad_y.dtype, device=grad_y.device)


def _apply(
    x: Tensor, seed: Tensor, rate: float, rows: int, first_row: int, strides: Sequence[int]
) -> Tensor:
    y = torch.empty_strided(x.shape, strides, dtype=x.dtype)
    if rows > 1 and y.stride(0) * rows != y.numel():
        raise ValueError(f"x: expected rows one after the other in memory, got strides {strides}")
    dense = x.detach() if x.stride() == y.stride() else y.copy_(x)
    capsules = (_ext.capsule(t.as_strided((t.numel(),), (1,))) for t in (dense, y))
    threads = torch.get_num_threads()
    _ext.C.dropout_cpu(*capsules, rate, int(seed), max(rows, 1), first_row, threads)
    return y


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    y, seed = output
    ctx.mark_non_differentiable(seed)
    ctx.save_for_backward(seed)
    _, *ctx.how = inputs
    ctx.strides = y.stride()


def _backward(ctx: Any, grad_y: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    grad_x = _dropout_backward(grad_y, *ctx.saved_tensors, *ctx.how, ctx.strides)
    return grad_x, None, None, None


_dropout.register_autograd(_backward, setup_context=_setup_context)
