"""Orientation and resampling of voxel grids, both invertible."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

Kernel = Literal["linear", "cubic"]


@dataclass(frozen=True)
class Orientation:
    """How a file's axes become canonical: `flipped` axes are reversed, then axes permuted.

    Canonical axes of NIfTI run closest to right, anterior, superior; a PNG is left as it is.
    """

    flipped: tuple[int, ...]
    permutation: tuple[int, ...]

    @classmethod
    def of(cls, affine: np.ndarray[Any, Any] | None, spatial_dims: int) -> Orientation:
        """Orientation of a file with this (4, 4) affine, the identity where there is none."""
        if affine is None:
            return cls((), tuple(range(spatial_dims)))
        target, direction = nib.io_orientation(affine).T
        flipped = tuple(int(axis) for axis in np.flatnonzero(direction < 0))
        return cls(flipped, tuple(int(axis) for axis in np.argsort(target)))

    def sizes(self, per_axis: Sequence[float]) -> tuple[float, ...]:
        """Values per file axis (shape, spacing), in canonical order."""
        return tuple(per_axis[axis] for axis in self.permutation)

    def apply(self, x: Tensor) -> Tensor:
        """(C, *S) from the file's axes to canonical ones; a view where possible."""
        flipped = x.flip([axis + 1 for axis in self.flipped]) if self.flipped else x
        return flipped.permute(0, *(axis + 1 for axis in self.permutation))

    def undo(self, x: Tensor) -> Tensor:
        """(C, *S) from canonical axes back to the file's."""
        inverse = sorted(range(len(self.permutation)), key=self.permutation.__getitem__)
        permuted = x.permute(0, *(axis + 1 for axis in inverse))
        return permuted.flip([axis + 1 for axis in self.flipped]) if self.flipped else permuted


def resample(
    x: Tensor,
    shape: Sequence[int],
    part: Sequence[slice] | None = None,
    *,
    kernel: Kernel = "linear",
) -> Tensor:
    """Resample (C, *S) float32 to (C, *shape) over the same field of view.

    One axis after the other, so strongly anisotropic voxels need no special case. Where an axis
    shrinks the kernel is as much wider as the voxels, against aliasing; an axis that keeps its size
    is left untouched, bit for bit.

    part: a range of the result along each axis, which alone is computed, to the same bits as
    within the whole. kernel: "linear" keeps probabilities between 0 and 1; "cubic" (Keys 1981,
    a = -1/2), for images, keeps edges sharper and may overshoot.
    """
    parts = part or [slice(None)] * len(shape)
    taps = [
        _taps(size, new_size, wanted, kernel)
        for size, new_size, wanted in zip(x.shape[1:], shape, parts, strict=True)
    ]
    for axis, (places, _) in enumerate(taps, start=1):
        first = int(places.min())
        x = x.narrow(axis, first, int(places.max()) - first + 1)
        places -= first
    for axis, (places, weights) in enumerate(taps, start=1):
        if weights is not None:
            x = _weighted_sum(x, axis, places.to(x.device), weights.to(x))
    return x.contiguous()


def resample_label(label: Tensor, shape: Sequence[int], values: Sequence[int]) -> Tensor:
    """Resample an integer label map (*S) to (*shape) uint8.

    The largest of the linearly resampled indicator functions wins, the lower value on a tie.
    """
    if tuple(label.shape) == tuple(shape):
        return label.to(torch.uint8).contiguous()
    return largest_share(
        shape, values, lambda value: resample((label == value).float()[None], shape)[0]
    )


def largest_share(
    shape: Sequence[int], values: Sequence[int], share: Callable[[int], Tensor]
) -> Tensor:
    """Label map (*shape) uint8: of the values the one whose share(value), (*shape) float32, is the
    largest, the lower value on a tie. The shares are made one at a time.
    """
    best = torch.full(tuple(shape), -1.0)
    result = torch.zeros(tuple(shape), dtype=torch.uint8)
    for value in values:
        score = share(value)
        result[score > best] = value
        best = torch.maximum(best, score)
    return result


def _taps(size: int, new_size: int, wanted: slice, kernel: Kernel) -> tuple[Tensor, Tensor | None]:
    """Which of `size` voxels each wanted one of `new_size` is made of, (n, K), and their weights.

    No weights: each is one of the old.
    """
    if size == new_size:
        return torch.arange(size)[wanted, None], None
    step = size / new_size
    width = max(step, 1.0)
    reach = 1 if kernel == "linear" else 2
    centre = (torch.arange(new_size, dtype=torch.float64)[wanted, None] + 0.5) * step - 0.5
    first = (centre - reach * width).floor() + 1
    places = first + torch.arange(math.ceil(2 * reach * width))
    distance = (places - centre).abs() / width
    weights = (1 - distance).clamp_min(0) if kernel == "linear" else _keys(distance)
    # Beyond the border there is nothing; what weighs within it is scaled up to a sum of 1.
    weights = weights * ((places >= 0) & (places < size))
    weights = weights / weights.sum(dim=1, keepdim=True)
    return places.clamp(0, size - 1).long(), weights.float()


def _keys(distance: Tensor) -> Tensor:
    """Weights at these distances >= 0 from the kernel's centre: Keys 1981, equation 15."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


def _weighted_sum(x: Tensor, axis: int, places: Tensor, weights: Tensor) -> Tensor:
    # Voxel by voxel, not as a matrix product, whose rounding depends on the matrix's size.
    along = [-1 if n == axis else 1 for n in range(x.ndim)]
    total = x.index_select(axis, places[:, 0]).mul_(weights[:, 0].view(along))
    for k in range(1, places.shape[1]):
        total += x.index_select(axis, places[:, k]).mul_(weights[:, k].view(along))
    return total
