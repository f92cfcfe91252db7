"""What the Triton kernels share: probabilities, masks, Philox noise, and how they are launched."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.jit import JITFunction


@triton.jit
def class_probs(logits, EXCLUSIVE: tl.constexpr):
    """Probabilities (BLOCK, C_PAD) of float32 logits; softmax needs padded classes at -inf."""
    if EXCLUSIVE:
        z = tl.exp(logits - tl.max(logits, axis=1, keep_dims=True))
        probs = z / tl.sum(z, axis=1, keep_dims=True)
    else:
        probs = tl.sigmoid(logits)
    return probs


@triton.jit
def x_to_mask(x):
    """(clip(x, -1, 1) + 1) / 2; NaN stays NaN, so that a broken network does not go unseen."""
    return tl.clamp(x, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL) * 0.5 + 0.5


@triton.jit
def philox_normals(seed, offset, n, BLOCK: tl.constexpr, C_PAD: tl.constexpr):
    """Normals (BLOCK, C_PAD) float32 of the elements n (BLOCK,) int64; see ops/philox.py.

    Each counter gives the normals of four classes.
    """
    GROUPS: tl.constexpr = (C_PAD + 3) // 4
    zero = tl.zeros((BLOCK, GROUPS), tl.uint32)
    group = tl.arange(0, GROUPS).to(tl.uint32)
    c0 = zero + n.to(tl.uint32)[:, None]
    c1 = zero + (n >> 32).to(tl.uint32)[:, None]
    c2 = zero + offset.to(tl.uint32)
    c3 = zero + ((((offset >> 32) << 4).to(tl.uint32)) | group)[None, :]
    w0, w1, w2, w3 = tl.philox(seed, c0, c1, c2, c3)
    n0, n1 = tl.pair_uniform_to_normal(tl.uint_to_uniform_float(w0), tl.uint_to_uniform_float(w1))
    n2, n3 = tl.pair_uniform_to_normal(tl.uint_to_uniform_float(w2), tl.uint_to_uniform_float(w3))
    if C_PAD == 1:
        normals = n0
    elif C_PAD == 2:
        normals = tl.reshape(tl.join(n0, n1), (BLOCK, C_PAD))
    else:
        normals = tl.reshape(tl.join(tl.join(n0, n2), tl.join(n1, n3)), (BLOCK, C_PAD))
    return normals


# TRITON_INTERPRET=1 when this was imported: kernels run in NumPy, on CPU tensors.
INTERPRETED = not isinstance(class_probs, JITFunction)


def strides(x: Tensor | None) -> tuple[int, int, int]:
    """Strides of batch, channels and voxels of x (B, C, *S), whose voxels have a single one."""
    if x is None:
        return 0, 0, 0
    voxel = 1
    for size, stride in zip(x.shape[2:], x.stride()[2:], strict=True):
        if size != 1:
            voxel = stride
    return x.stride(0), x.stride(1), voxel


def padded(num_classes: int) -> int:
    """The least power of two that holds num_classes."""
    power = 1
    while power < num_classes:
        power *= 2
    return power


def launch_shape(num_classes: int) -> tuple[int, int]:
    """Voxels a program, and its warps: 8 elements a thread, so that many programs fit at a time.

    No fewer than 32 voxels, that contiguous classes are read in whole sectors.
    """
    classes = padded(num_classes)
    block = max(32, min(512, 1024 // classes))
    return block, 8 if block * classes > 1024 else 4
