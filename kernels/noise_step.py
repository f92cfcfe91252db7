"""Triton kernel of recycleseg.ops.noise_step: x_start, noise, x_t and its mask in one pass."""

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
def _noise_step_fwd_kernel(
    source_ptr,
    scale_start_ptr,
    scale_noise_ptr,
    noise_ptr,
    seed_ptr,
    offset_ptr,
    first_row,
    network_input_ptr,
    x_ptr,
    stride_sb,
    stride_sc,
    stride_sv,
    stride_nb,
    stride_nc,
    stride_nv,
    stride_ib,
    stride_ic,
    stride_iv,
    stride_xb,
    stride_xc,
    stride_xv,
    first_channel,
    V,
    SOURCE: tl.constexpr,
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
    mask = here[:, None] & (c < C)[None, :]

    if SOURCE == "label":
        label = tl.load(source_ptr + b * stride_sb + v * stride_sv, here, other=0)
        probs = (label[:, None] == c[None, :]).to(tl.float32)
    else:
        at = b * stride_sb + v[:, None] * stride_sv + c[None, :] * stride_sc
        source = tl.load(source_ptr + at, mask, other=0.0).to(tl.float32)
        if SOURCE == "logits":
            if EXCLUSIVE:
                source = tl.where((c < C)[None, :], source, float("-inf"))
            probs = class_probs(source, EXCLUSIVE)
        else:
            probs = source

    if noise_ptr is None:
        n = (first_row + b) * V + v
        noise = philox_normals(tl.load(seed_ptr), tl.load(offset_ptr), n, BLOCK, C_PAD)
    else:
        at = b * stride_nb + v[:, None] * stride_nv + c[None, :] * stride_nc
        noise = tl.load(noise_ptr + at, mask, other=0.0).to(tl.float32)

    scale_start = tl.load(scale_start_ptr + b)
    scale_noise = tl.load(scale_noise_ptr + b)
    x = scale_start * (2.0 * probs - 1.0) + scale_noise * noise
    at = b * stride_ib + v[:, None] * stride_iv + (first_channel + c)[None, :] * stride_ic
    tl.store(network_input_ptr + at, x_to_mask(x), mask)
    if x_ptr is not None:
        at = b * stride_xb + v[:, None] * stride_xv + c[None, :] * stride_xc
        tl.store(x_ptr + at, x, mask)


def launch_noise_step(
    source: Tensor,
    scale_start: Tensor,
    scale_noise: Tensor,
    noise: Tensor | None,
    seed: Tensor | None,
    offset: Tensor | None,
    first_row: int,
    network_input: Tensor,
    x_t: Tensor | None,
    source_type: str,
    num_classes: int,
    exclusive: bool,
    first_channel: int,
) -> None:
    """Fill channels of network_input (B, C_total, *S), and x_t (B, C, *S) unless None.

    source (B, C, *S), or (B, 1, *S) of a label; noise (B, C, *S), or seed and offset, 0-d, of a
    batch that begins with row first_row; scales (B,) contiguous. The voxels of each tensor have one
    stride.
    """
    batch, _, *spatial = source.shape
    V = 1
    for size in spatial:
        V = V * size
    if batch * V == 0:
        return
    block, num_warps = launch_shape(num_classes)
    # Named here, for torch looks into this source for the kernels that its caches depend on.
    kernel = _noise_step_fwd_kernel if INTERPRETED else wrap_triton(_noise_step_fwd_kernel)
    kernel[(batch * triton.cdiv(V, block),)](
        source,
        scale_start,
        scale_noise,
        noise,
        seed,
        offset,
        first_row,
        network_input,
        x_t,
        *strides(source),
        *strides(noise),
        *strides(network_input),
        *strides(x_t),
        first_channel,
        V,
        SOURCE=source_type,
        EXCLUSIVE=exclusive,
        C=num_classes,
        C_PAD=padded(num_classes),
        BLOCK=block,
        num_warps=num_warps,
    )


noise_step_op = triton_op(
    "recycleseg::noise_step", launch_noise_step, mutates_args=("network_input", "x_t")
)
