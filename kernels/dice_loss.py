"""Sums over voxels that soft Dice, focal loss and cross entropy are made of, and their gradient.

The forward kernel reads logits and label once and writes a row of sums per program, the backward
kernel reads them once more and recomputes the probabilities. Rows have 3 C + 2 columns: overlap,
probability and count of each class, focal loss, cross entropy. A voxel that is not known adds
nothing, as one beyond the last.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from recycleseg.kernels._common import (
    INTERPRETED,
    launch_shape,
    padded,
    strides,
)
from torch import Tensor
from torch.library import triton_op, wrap_triton

# More programs than any GPU runs at once, so few that to sum up their rows costs nothing.
_PROGRAMS = 4096


@triton.jit
def _log1p_unit(e):
    """log(1 + e) for e in [0, 1], to the last digits where e is small: 2 atanh(e / (2 + e))."""
    s = e / (2.0 + e)
    s2 = s * s
    series = 1.0 / 11 + s2 * (1.0 / 13)
    series = 1.0 / 5 + s2 * (1.0 / 7 + s2 * (1.0 / 9 + s2 * series))
    return 2.0 * s * (1.0 + s2 * (1.0 / 3 + s2 * series))


@triton.jit
def _one_minus_exp(x):
    """1 - exp(x) for x <= 0, to the last digits where x is small: there by its Taylor series."""
    y = tl.maximum(x, -0.5)
    series = 1.0 + y * (1.0 / 5) * (1.0 + y * (1.0 / 6) * (1.0 + y * (1.0 / 7)))
    series = -y * (1.0 + y * 0.5 * (1.0 + y * (1.0 / 3) * (1.0 + y * 0.25 * series)))
    return tl.where(x > -0.35, series, 1.0 - tl.exp(x))


@triton.jit
def _power(w, EXPONENT: tl.constexpr):
    """w ** EXPONENT for w >= 0, and 0 ** 0 = 1."""
    if EXPONENT == 0.0:
        power = w * 0.0 + 1.0
    elif EXPONENT == 1.0:
        power = w
    elif EXPONENT == 2.0:
        power = w * w
    else:
        power = tl.where(w == 0.0, 0.0, tl.exp(EXPONENT * tl.log(tl.where(w == 0.0, 1.0, w))))
    return power


@triton.jit
def _load(
    logits_ptr,
    label_ptr,
    known_ptr,
    voxel,
    channel,
    num_voxels,
    stride_xc,
    stride_xv,
    stride_lc,
    stride_lv,
    C: tl.constexpr,
    IS_MASK: tl.constexpr,
):
    """Logits and target (BLOCK, C_PAD) in float32, and which of them count.

    A label that is no class makes its voxel NaN, of every class.
    """
    here = voxel < num_voxels
    if known_ptr is not None:
        here = here & (tl.load(known_ptr + voxel, mask=here, other=0) != 0)
    valid = here & (channel < C)
    logits = tl.load(logits_ptr + voxel * stride_xv + channel * stride_xc, mask=valid, other=0.0)
    logits = logits.to(tl.float32)
    if IS_MASK:
        target = tl.load(label_ptr + voxel * stride_lv + channel * stride_lc, mask=valid, other=0)
        target = target.to(tl.float32)
    else:
        label = tl.load(label_ptr + voxel * stride_lv, mask=here, other=0)
        label = label.to(tl.int64)
        no_class = (label < 0) | (label >= C)
        target = (((label == channel) | no_class) & valid).to(tl.float32)
        logits = tl.where(no_class, float("nan"), logits)
    return logits, target, valid


@triton.jit
def _softmax(logits, channel, C: tl.constexpr):
    """p and log p, which are 0 in padded channels."""
    logits = tl.where(channel < C, logits, float("-inf"))
    shifted = logits - tl.max(logits, axis=1, keep_dims=True)
    z = tl.exp(shifted)
    total = tl.sum(z, axis=1, keep_dims=True)
    return z / total, tl.where(channel < C, shifted - tl.log(total), 0.0)


@triton.jit
def _sigmoid(logits):
    """p, 1 - p and their logarithms."""
    e = tl.exp(-tl.abs(logits))
    larger = 1.0 / (1.0 + e)
    smaller = e * larger
    positive = logits >= 0.0
    log_larger = -_log1p_unit(e)
    p = tl.where(positive, larger, smaller)
    not_p = tl.where(positive, smaller, larger)
    log_p = tl.where(positive, log_larger, logits + log_larger)
    log_not_p = tl.where(positive, log_larger - logits, log_larger)
    return p, not_p, log_p, log_not_p


@triton.jit
def _dice_loss_fwd_kernel(
    logits_ptr,
    label_ptr,
    known_ptr,
    row_ptr,
    num_voxels,
    programs,
    tiles,
    stride_xb,
    stride_xc,
    stride_xv,
    stride_lb,
    stride_lc,
    stride_lv,
    GAMMA: tl.constexpr,
    C: tl.constexpr,
    C_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    EXCLUSIVE: tl.constexpr,
    IS_MASK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    sample = program // programs
    first = (program - sample * programs) * tiles * BLOCK
    logits_ptr += sample * stride_xb
    label_ptr += sample * stride_lb
    if known_ptr is not None:
        known_ptr += sample * num_voxels
    channel = tl.arange(0, C_PAD).to(tl.int64)[None, :]
    overlap = tl.zeros((BLOCK, C_PAD), tl.float32)
    probability = tl.zeros((BLOCK, C_PAD), tl.float32)
    count = tl.zeros((BLOCK, C_PAD), tl.float32)
    focal = tl.zeros((BLOCK,), tl.float32)
    entropy = tl.zeros((BLOCK,), tl.float32)
    for tile in range(tiles):
        voxel = first + tile * BLOCK + tl.arange(0, BLOCK)[:, None]
        logits, target, valid = _load(
            logits_ptr, label_ptr, known_ptr, voxel, channel, num_voxels,
            stride_xc, stride_xv, stride_lc, stride_lv, C, IS_MASK,
        )  # fmt: skip
        if EXCLUSIVE:
            p, log_p = _softmax(logits, channel, C)
            if IS_MASK:
                log_true = tl.where(valid, log_p * target, 0.0)
                focal -= tl.sum(_power(_one_minus_exp(log_p), GAMMA) * log_true, axis=1)
                entropy -= tl.sum(log_true, axis=1)
            else:
                log_true = tl.sum(tl.where(target > 0.0, log_p, 0.0), axis=1)
                focal -= _power(_one_minus_exp(log_true), GAMMA) * log_true
                entropy -= log_true
        else:
            p, not_p, log_p, log_not_p = _sigmoid(logits)
            true = tl.where(valid, log_p * target, 0.0)
            false = tl.where(valid, log_not_p * (1.0 - target), 0.0)
            focal -= tl.sum(_power(not_p, GAMMA) * true + _power(p, GAMMA) * false, axis=1)
            entropy -= tl.sum(true + false, axis=1)
        p = tl.where(valid, p, 0.0)
        overlap += p * target
        probability += p
        count += target
    row_ptr += program * (3 * C + 2)
    column = tl.arange(0, C_PAD)
    tl.store(row_ptr + column, tl.sum(overlap, axis=0), mask=column < C)
    tl.store(row_ptr + C + column, tl.sum(probability, axis=0), mask=column < C)
    tl.store(row_ptr + 2 * C + column, tl.sum(count, axis=0), mask=column < C)
    tl.store(row_ptr + 3 * C, tl.sum(focal, axis=0))
    tl.store(row_ptr + 3 * C + 1, tl.sum(entropy, axis=0))


@triton.jit
def _dice_loss_bwd_kernel(
    logits_ptr,
    label_ptr,
    known_ptr,
    grad_row_ptr,
    grad_ptr,
    num_voxels,
    programs,
    stride_xb,
    stride_xc,
    stride_xv,
    stride_lb,
    stride_lc,
    stride_lv,
    stride_gb,
    stride_gc,
    stride_gv,
    GAMMA: tl.constexpr,
    C: tl.constexpr,
    C_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    EXCLUSIVE: tl.constexpr,
    IS_MASK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    sample = program // programs
    channel = tl.arange(0, C_PAD).to(tl.int64)[None, :]
    voxel = (program - sample * programs) * BLOCK + tl.arange(0, BLOCK)[:, None]
    if known_ptr is not None:
        known_ptr += sample * num_voxels
    logits, target, valid = _load(
        logits_ptr + sample * stride_xb, label_ptr + sample * stride_lb, known_ptr,
        voxel, channel, num_voxels,
        stride_xc, stride_xv, stride_lc, stride_lv, C, IS_MASK,
    )  # fmt: skip
    grad_row_ptr += sample * (3 * C + 2)
    of_overlap = tl.load(grad_row_ptr + channel, mask=channel < C, other=0.0)
    of_probability = tl.load(grad_row_ptr + C + channel, mask=channel < C, other=0.0)
    of_focal = tl.load(grad_row_ptr + 3 * C)
    of_entropy = tl.load(grad_row_ptr + 3 * C + 1)
    of_p = of_overlap * target + of_probability
    if EXCLUSIVE:
        p, log_p = _softmax(logits, channel, C)
        if IS_MASK:
            at, p_at = log_p, p
        else:
            at = tl.sum(tl.where(target > 0.0, log_p, 0.0), axis=1, keep_dims=True)
            p_at = tl.exp(at)
        not_p = _one_minus_exp(at)
        slope = -_power(not_p, GAMMA)
        if GAMMA != 0.0:
            slope += GAMMA * _power(not_p, GAMMA - 1.0) * p_at * at
        of_log_p = of_p * p + target * (of_focal * slope - of_entropy)
        grad = of_log_p - p * tl.sum(of_log_p, axis=1, keep_dims=True)
    else:
        p, not_p, log_p, log_not_p = _sigmoid(logits)
        true = _power(not_p, GAMMA) * (not_p - GAMMA * p * log_p)
        false = _power(p, GAMMA) * (p - GAMMA * not_p * log_not_p)
        focal = (1.0 - target) * false - target * true
        grad = of_p * p * not_p + of_focal * focal + of_entropy * (p - target)
    if known_ptr is not None:
        grad = tl.where(valid, grad, 0.0)
    tl.store(
        grad_ptr + sample * stride_gb + voxel * stride_gv + channel * stride_gc,
        grad.to(grad_ptr.dtype.element_ty),
        mask=(voxel < num_voxels) & (channel < C),
    )


@triton_op("recycleseg::dice_loss", mutates_args=())
def dice_loss_fwd(
    logits: Tensor, label: Tensor, known: Tensor | None, exclusive: bool, gamma: float
) -> Tensor:
    """Sums (B, 3 C + 2) in float32 over logits (B, C, V) and label (B, V) or mask (B, C, V).

    known: (B, V) uint8, contiguous, 0 where a voxel adds nothing; None for all.
    """
    batch, classes, num_voxels = logits.shape
    block, num_warps = launch_shape(classes)
    tiles_of_sample = triton.cdiv(num_voxels, block)
    tiles = triton.cdiv(batch * tiles_of_sample, _PROGRAMS)
    programs = triton.cdiv(tiles_of_sample, tiles)
    rows = torch.empty(
        (batch, programs, 3 * classes + 2), dtype=torch.float32, device=logits.device
    )
    # Named here, for torch looks into this source for the kernels that its caches depend on.
    kernel = _dice_loss_fwd_kernel if INTERPRETED else wrap_triton(_dice_loss_fwd_kernel)
    kernel[(batch * programs,)](
        logits,
        label,
        known,
        rows,
        num_voxels,
        programs,
        tiles,
        *strides(logits),
        *strides(label if label.ndim == 3 else label.unsqueeze(1)),
        GAMMA=gamma,
        C=classes,
        C_PAD=padded(classes),
        BLOCK=block,
        EXCLUSIVE=exclusive,
        IS_MASK=label.ndim == 3,
        num_warps=num_warps,
    )
    return rows.sum(1, dtype=torch.float64).float()


@triton_op("recycleseg::dice_loss_backward", mutates_args=())
def dice_loss_bwd(
    grad_sums: Tensor,
    logits: Tensor,
    label: Tensor,
    known: Tensor | None,
    exclusive: bool,
    gamma: float,
) -> Tensor:
    """Gradient (B, C, V) of the logits, in their dtype and layout, from that of the sums."""
    batch, classes, num_voxels = logits.shape
    grad = torch.empty_like(logits)
    block, num_warps = launch_shape(classes)
    programs = triton.cdiv(num_voxels, block)
    kernel = _dice_loss_bwd_kernel if INTERPRETED else wrap_triton(_dice_loss_bwd_kernel)
    kernel[(batch * programs,)](
        logits,
        label,
        known,
        grad_sums.contiguous(),
        grad,
        num_voxels,
        programs,
        *strides(logits),
        *strides(label if label.ndim == 3 else label.unsqueeze(1)),
        *strides(grad),
        GAMMA=gamma,
        C=classes,
        C_PAD=padded(classes),
        BLOCK=block,
        EXCLUSIVE=exclusive,
        IS_MASK=label.ndim == 3,
        num_warps=num_warps,
    )
    return grad


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, label, known, ctx.exclusive, ctx.gamma = inputs
    ctx.save_for_backward(logits, label, known)


def _backward(ctx: Any, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
    grad = dice_loss_bwd(grad_sums, *ctx.saved_tensors, ctx.exclusive, ctx.gamma)
    return grad, None, None, None, None


dice_loss_fwd.register_autograd(_backward, setup_context=_setup_context)
