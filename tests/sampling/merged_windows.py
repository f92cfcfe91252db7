"""The weighted mean of windows in the simplest way, with all windows and weights in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gaussian_weight(patch_size: Sequence[int]) -> Tensor:
    """A Gaussian (*patch_size) float32, standard deviation an eighth of the size, maximum 1."""
    axes = [torch.arange(size, dtype=torch.float64) - (size - 1) / 2 for size in patch_size]
    grids = torch.meshgrid(*axes, indexing="ij")
    squares = sum((8 * grid / size) ** 2 for grid, size in zip(grids, patch_size, strict=True))
    weight = torch.exp(-0.5 * torch.as_tensor(squares))
    return (weight / weight.max()).float()


def merge_windows(
    windows: Tensor, starts: Tensor, image_shape: Sequence[int], weight: Tensor | None = None
) -> Tensor:
    """The weighted mean (B, C, *image_shape) of windows.

    Args:
        windows: (B, N, C, *patch_size).
        starts: (N, n), first voxels of the windows.
        image_shape: n sizes of the volume.
        weight: (*patch_size); None gives the plain mean.
    """
    patch_size = windows.shape[3:]
    weight = torch.ones(patch_size) if weight is None else weight
    merged = torch.zeros(windows.shape[0], windows.shape[2], *image_shape)
    total = torch.zeros(tuple(image_shape))
    for k, start in enumerate(starts.tolist()):
        box = tuple(slice(s, s + size) for s, size in zip(start, patch_size, strict=True))
        merged[(..., *box)] += windows[:, k] * weight
        total[box] += weight
    return merged / total
