"""Triton kernel of recycleseg.ops.ddim_update: one reverse step, and what is asked of it."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl
from recycleseg.kernels._common import (
    INTERPRETED,
    class_probs,
    launch_shape,
    padded,
    philox_normals,
    strides,
    x_to_mask,
)
from torch import Tensor
from torch.library import triton_op, wrap_triton


@triton.jit
def _ddim_update_fwd_kernel(
    model_out_ptr,
    x_ptr,
    coefficients_ptr,
    start_coefficients_ptr,
    noise_ptr,
    seed_ptr,
    offset_ptr,
    x_prev_ptr,
    network_input_ptr,
    label_ptr,
    probs_ptr,
    mean_ptr,
    mean_weight_ptr,
    stride_mb,
    stride_mc,
    stride_mv,
    stride_xb,
    stride_xc,
    stride_xv,
    stride_nb,
    stride_nc,
    stride_nv,
    stride_yb,
    stride_yc,
    stride_yv,
    stride_ib,
    stride_ic,
    stride_iv,
    stride_pb,
    stride_pc,
    stride_pv,
    stride_ab,
    stride_ac,
    stride_av,
    first_channel,
    V,
    PREDICTS_NOISE: tl.constexpr,
    EXCLUSIVE: tl.constexpr,
    C: tl.constexpr,
    C_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(V, BLOCK)
    pid = tl.program_id(0)
    b = (pid // blocks).to(tl.int64)
    v = (pid % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, C_PAD).to(tl.int64)
    here = v < V
    is_class = (c < C)[None, :]
    mask = here[:, None] & is_class

    at = b * stride_mb + v[:, None] * stride_mv + c[None, :] * stride_mc
    out = tl.load(model_out_ptr + at, mask, other=0.0).to(tl.float32)
    at = b * stride_xb + v[:, None] * stride_xv + c[None, :] * stride_xc
    x = tl.load(x_ptr + at, mask, other=0.0).to(tl.float32)
    score = out  # whose arg-max is the label
    if PREDICTS_NOISE:
        if start_coefficients_ptr is not None:
            start_x = tl.load(start_coefficients_ptr + 2 * b)
            start_out = tl.load(start_coefficients_ptr + 2 * b + 1)
            probs = x_to_mask(start_x * x + start_out * out)
            score = probs
    else:
        if EXCLUSIVE:
            score = tl.where(is_class, out, float("-inf"))
        probs = class_probs(score, EXCLUSIVE)
        out = 2.0 * probs - 1.0

    x_prev = tl.load(coefficients_ptr + 3 * b) * out + tl.load(coefficients_ptr + 3 * b + 1) * x
    if noise_ptr is not None:
        at = b * stride_nb + v[:, None] * stride_nv + c[None, :] * stride_nc
        noise = tl.load(noise_ptr + at, mask, other=0.0).to(tl.float32)
        x_prev += tl.load(coefficients_ptr + 3 * b + 2) * noise
    elif seed_ptr is not None:
        n = b * V + v
        noise = philox_normals(tl.load(seed_ptr), tl.load(offset_ptr), n, BLOCK, C_PAD)
        x_prev += tl.load(coefficients_ptr + 3 * b + 2) * noise

    at = b * stride_yb + v[:, None] * stride_yv + c[None, :] * stride_yc
    tl.store(x_prev_ptr + at, x_prev, mask)
    if network_input_ptr is not None:
        at = b * stride_ib + v[:, None] * stride_iv + (first_channel + c)[None, :] * stride_ic
        tl.store(network_input_ptr + at, x_to_mask(x_prev), mask)
    if label_ptr is not None:
        score = tl.where(is_class, score, float("-inf"))
        is_best = score == tl.max(score, axis=1, keep_dims=True)
        label = tl.min(tl.where(is_best, c[None, :], C - 1), axis=1)
        tl.store(label_ptr + b * V + v, label.to(tl.uint8), here)
    if probs_ptr is not None:
        at = b * stride_pb + v[:, None] * stride_pv + c[None, :] * stride_pc
        tl.store(probs_ptr + at, probs, mask)
    if mean_ptr is not None:
        at = b * stride_ab + v[:, None] * stride_av + c[None, :] * stride_ac
        mean = tl.load(mean_ptr + at, mask, other=0.0)
        tl.store(mean_ptr + at, mean + tl.load(mean_weight_ptr) * (probs - mean), mask)


def launch_ddim_update(
    model_out: Tensor,
    x_t: Tensor,
    coefficients: Tensor,
    start_coefficients: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    offset: Tensor | None,
    x_prev: Tensor,
    network_input: Tensor | None,
    label: Tensor | None,
    probs: Tensor | None,
    probs_mean: Tensor | None,
    mean_weight: Tensor | None,
    predicts_noise: bool,
    exclusive: bool,
    first_channel: int,
) -> None:
    """Fill x_prev (B, C, *S), and of the other outputs those that are not None.

    model_out, x_t, noise, probs and probs_mean as x_prev, network_input (B, C_total, *S), label
    (B, *S) contiguous; coefficients (B, 3) and start_coefficients (B, 2) contiguous; seed, offset
    and mean_weight 0-d. The voxels of each tensor have one stride.
    """
    batch, num_classes, *spatial = x_t.shape
    V = 1
    for size in spatial:
        V = V * size
    if batch * V == 0:
        return
    block, num_warps = launch_shape(num_classes)
    # Named here, for torch looks into this source for the kernels that its caches depend on.
    kernel = _ddim_update_fwd_kernel if INTERPRETED else wrap_triton(_ddim_update_fwd_kernel)
    kernel[(batch * triton.cdiv(V, block),)](
        model_out,
        x_t,
        coefficients,
        start_coefficients,
        noise,
        seed,
        offset,
        x_prev,
        network_input,
        label,
        probs,
        probs_mean,
        mean_weight,
        *strides(model_out),
        *strides(x_t),
        *strides(noise),
        *strides(x_prev),
        *strides(network_input),
        *strides(probs),
        *strides(probs_mean),
        first_channel,
        V,
        PREDICTS_NOISE=predicts_noise,
        EXCLUSIVE=exclusive,
        C=num_classes,
        C_PAD=padded(num_classes),
        BLOCK=block,
        num_warps=num_warps,
    )


ddim_update_op = triton_op(
    "recycleseg::ddim_update",
    launch_ddim_update,
    mutates_args=("x_prev", "network_input", "label", "probs", "probs_mean"),
)
