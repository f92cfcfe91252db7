"""Cutting a volume into overlapping windows and joining their predictions again."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType

import torch
from torch import Tensor


def window_starts(
    image_shape: Sequence[int], patch_size: Sequence[int], overlap: Sequence[int]
) -> Tensor:
    """First voxel of each window: steps of patch_size - overlap, the last one flush with the end.

    Args:
        image_shape: voxels of each of n axes.
        patch_size: voxels of a window along each axis, at most the image's.
        overlap: voxels that neighbouring windows share at least, less than patch_size.

    Returns:
        (N, n) int64, last axis fastest.

    Raises:
        ValueError: lengths differ, or a size is out of range.
    """
    if not len(image_shape) == len(patch_size) == len(overlap):
        raise ValueError(
            "image_shape, patch_size, overlap: expected one number per axis, "
            f"got {tuple(image_shape)}, {tuple(patch_size)}, {tuple(overlap)}"
        )
    along = []
    for axis, (size, patch, shared) in enumerate(
        zip(image_shape, patch_size, overlap, strict=True)
    ):
        if not 1 <= patch <= size:
            raise ValueError(f"patch_size[{axis}]: expected 1 to {size} (the image), got {patch}")
        if not 0 <= shared < patch:
            raise ValueError(f"overlap[{axis}]: expected 0 to {patch - 1}, got {shared}")
        last = size - patch
        along.append(torch.tensor([*range(0, last, patch - shared), last]))
    return torch.cartesian_prod(*along).view(-1, len(along))


def extract_windows(x: Tensor, starts: Tensor, patch_size: Sequence[int]) -> Tensor:
    """Cut windows out of x.

    Args:
        x: (B, C, *S).
        starts: (N, n) first voxels.
        patch_size: n sizes.

    Returns:
        (B, N, C, *patch_size), a copy.

    Raises:
        ValueError: a window leaves x.
    """
    return torch.stack([x[box] for box in _boxes(starts, patch_size, x.shape[2:])], dim=1)


def gaussian_weight(patch_size: Sequence[int]) -> Tensor:
    """Weight of a window's voxels that falls off towards its rim (nnU-Net, Isensee et al. 2021).

    A Gaussian whose standard deviation is an eighth of the size.

    Args:
        patch_size: n sizes.

    Returns:
        patch_size, float32, highest value 1, lowest above 0.
    """
    weight = torch.ones((), dtype=torch.float64)
    for size in patch_size:
        offset = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
        weight = weight[..., None] * torch.exp(-0.5 * (8 * offset / size) ** 2)
    return (weight / weight.max()).float()


class WindowMerger:
    """Weighted mean of windows that arrive a few at a time, so that not all are held at once.

    Args:
        image_shape: n sizes of the volume.
        weight: weight of each voxel of a window, shape patch_size, positive; None: plain mean.
    """

    def __init__(self, image_shape: Sequence[int], weight: Tensor | None = None) -> None:
        self.image_shape = tuple(image_shape)
        self.weight = weight
        self._sum: Tensor | None = None
        self._total: Tensor | None = None

    def add(self, windows: Tensor, starts: Tensor) -> None:
        """Add windows (B, N, C, *patch_size) whose first voxels are starts (N, n).

        Raises:
            ValueError: weight has another shape than a window, or a window leaves the volume.
        """
        patch_size = windows.shape[3:]
        dtype = torch.promote_types(windows.dtype, torch.float32)
        if self.weight is None:
            weight = torch.ones(patch_size, dtype=dtype, device=windows.device)
        else:
            weight = self.weight.to(windows.device, dtype)
        if weight.shape != patch_size:
            raise ValueError(
                f"weight: expected shape {tuple(patch_size)}, got {tuple(weight.shape)}"
            )
        if self._sum is None or self._total is None:
            batch_and_channels = (windows.shape[0], windows.shape[2])
            self._sum = weight.new_zeros(batch_and_channels + self.image_shape)
            self._total = weight.new_zeros(self.image_shape)
        for k, box in enumerate(_boxes(starts, patch_size, self.image_shape)):
            self._sum[box] += windows[:, k] * weight
            self._total[box] += weight

    def merged(self) -> Tensor:
        """The mean (B, C, *image_shape), float32 or wider.

        Raises:
            ValueError: voxels without a window.
        """
        if self._sum is None or self._total is None:
            raise ValueError("windows: expected at least one, got none")
        missing = int((self._total == 0).sum())
        if missing:
            raise ValueError(f"windows: expected every voxel covered, got {missing} without one")
        return self._sum / self._total


def merge_windows(
    windows: Tensor, starts: Tensor, image_shape: Sequence[int], weight: Tensor | None = None
) -> Tensor:
    """Mean, or weighted mean, of windows where they overlap; see `WindowMerger`.

    Args:
        windows: (B, N, C, *patch_size).
        starts: (N, n) first voxels.
        image_shape: n sizes.
        weight: patch_size, positive, such as `gaussian_weight(patch_size)`; None: plain mean.

    Returns:
        (B, C, *image_shape), float32 or wider.

    Raises:
        ValueError: weight of another shape, a window outside the volume, voxels without a window.
    """
    merger = WindowMerger(image_shape, weight)
    merger.add(windows, starts)
    return merger.merged()


def _boxes(
    starts: Tensor, patch_size: Sequence[int], image_shape: Sequence[int]
) -> list[tuple[slice | EllipsisType, ...]]:
    """Index of each window's voxels; ValueError where one leaves the volume."""
    boxes: list[tuple[slice | EllipsisType, ...]] = []
    for start in starts.tolist():
        ends = [first + size for first, size in zip(start, patch_size, strict=True)]
        if min(start) < 0 or any(end > size for end, size in zip(ends, image_shape, strict=True)):
            raise ValueError(
                f"starts: expected windows of {tuple(patch_size)} within {tuple(image_shape)}, "
                f"got one at {tuple(start)}"
            )
        boxes.append((..., *(slice(*ends_of) for ends_of in zip(start, ends, strict=True))))
    return boxes
