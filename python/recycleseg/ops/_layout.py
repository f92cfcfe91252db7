"""Memory layouts of (B, C, *S) tensors, as the Triton kernels take them.

A kernel knows one stride a tensor for the batch, one for the channels and one for the voxels, so
that the spatial axes must collapse to one: contiguous and channels-last memory do, channel slices
of them too.
"""

from __future__ import annotations

import torch
from torch import Tensor


def voxel_stride(x: Tensor) -> int | None:
    """Stride of the voxels of x (B, C, *S) in row-major order; None where there is no single one.

    1 for a single voxel, whose stride is never used.
    """
    stride = None
    expected = 0
    for size, step in zip(reversed(x.shape[2:]), reversed(x.stride()[2:]), strict=True):
        if size == 1:
            continue
        if stride is None:
            stride = step
        elif step != expected:
            return None
        expected = step * size
    return 1 if stride is None else stride


def is_channels_last(x: Tensor) -> bool:
    """Whether neighbours in memory are channels of one voxel of x (B, C, *S)."""
    return x.stride(1) == 1 and voxel_stride(x) not in (None, 1)


def collapsible(x: Tensor) -> Tensor:
    """x (B, C, *S) itself where its voxels have one stride, else a contiguous copy."""
    return x.contiguous() if voxel_stride(x) is None else x


def check_output(name: str, x: Tensor | None) -> None:
    """Raise ValueError where x (B, C, *S) cannot be written in place through one voxel stride."""
    if x is not None and not voxel_stride(x):
        raise ValueError(
            f"{name}: expected spatial axes that collapse to one (contiguous or channels-last), "
            f"got shape {tuple(x.shape)} with strides {x.stride()}"
        )


def collapse_spatial(x: Tensor, *, output: str | None = None) -> Tensor:
    """x (B, C, *S) as (B, C, V): a view where the voxels have one stride, else a contiguous copy.

    Args:
        x: of any layout; a label (B, *S) goes in as ``label.unsqueeze(1)``.
        output: name of the argument that x is, where it is written to and must not be copied.

    Raises:
        ValueError: an output whose voxels have no single stride.
    """
    if output is not None:
        check_output(output, x)
    return collapsible(x).flatten(2)


def empty_in_layout_of(like: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Uninitialised (B, C, *S) tensor, channels-last in memory where `like` is, else contiguous."""
    if not is_channels_last(like):
        return torch.empty(shape, dtype=dtype, device=like.device)
    last = torch.empty((shape[0], *shape[2:], shape[1]), dtype=dtype, device=like.device)
    return last.movedim(-1, 1)
