"""Orientation and resampling of voxel grids; both have an inverse."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import nibabel as nib
import numpy as np
import scipy  # loads its modules at first use
import torch
from torch import Tensor

Kernel = Literal["linear", "cubic"]
# A box of voxels.
Region = tuple[slice, ...]


@dataclass(frozen=True)
class Orientation:
    """How the axes of a file become canonical.

    The canonical axes of NIfTI are those closest to right, anterior and superior. The axes of a
    PNG stay as they are.

    Attributes:
        flipped: axes that are reversed first.
        permutation: order of the axes after that.
    """

    flipped: tuple[int, ...]
    permutation: tuple[int, ...]

    @classmethod
    def of(cls, affine: np.ndarray[Any, Any] | None, spatial_dims: int) -> Orientation:
        """Orientation of a file with this (4, 4) affine; the identity without an affine."""
        if affine is None:
            return cls((), tuple(range(spatial_dims)))
        target, direction = nib.io_orientation(affine).T
        flipped = tuple(int(axis) for axis in np.flatnonzero(direction < 0))
        return cls(flipped, tuple(int(axis) for axis in np.argsort(target)))

    def sizes(self, per_axis: Sequence[float]) -> tuple[float, ...]:
        """Numbers per axis of the file (shape, spacing), in canonical order."""
        return tuple(per_axis[axis] for axis in self.permutation)

    def canonical(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """An array (*S) with the axes of the file, in canonical axes; a view."""
        turned: np.ndarray[Any, Any] = np.flip(array, self.flipped).transpose(self.permutation)
        return turned

    def apply(self, x: Tensor) -> Tensor:
        """Turn x (C, *S) from the axes of the file to canonical axes; a view if possible."""
        flipped = x.flip([axis + 1 for axis in self.flipped]) if self.flipped else x
        return flipped.permute(0, *(axis + 1 for axis in self.permutation))

    def undo(self, x: Tensor) -> Tensor:
        """Turn x (C, *S) from canonical axes back to the axes of the file."""
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
    """Resample to another number of voxels over the same field of view.

    Axes are resampled one after the other, so strongly anisotropic voxels need no special case.
    If an axis shrinks, the kernel widens with the voxels to avoid aliasing. An axis that keeps its
    size does not change, bit for bit.

    Args:
        x: (C, *S) float32, or narrower.
        shape: the new sizes.
        part: one range of the result per axis, if only a part is needed. It has the same bits as
            in the whole result.
        kernel: "linear" keeps probabilities between 0 and 1. "cubic" (Keys 1981, a = -1/2) is for
            images: it keeps edges sharper and may overshoot.

    Returns:
        (C, *shape) float32, or its part.
    """
    x, taps = _narrowed(x, shape, part, kernel)
    return _weighted_sums(x.float(), taps)


def resample_label(label: Tensor, shape: Sequence[int], values: Sequence[int]) -> Tensor:
    """Resample an integer label map (*S) to (*shape) uint8.

    The indicator function of each value is resampled linearly. In each voxel the value with the
    largest result wins; if two are equal, the lower value wins.
    """
    if tuple(label.shape) == tuple(shape):
        return label.to(torch.uint8).contiguous()
    boxes = scipy.ndimage.find_objects(label.numpy(), max(*values, 1))

    def share(value: int) -> tuple[Region, Tensor] | None:
        where: Region = (slice(None),) * label.ndim
        if value > 0 and value != values[0]:
            box = boxes[value - 1]
            if box is None:
                return None
            where = tuple(map(_reached, box, label.shape, shape))
        part, taps = _narrowed(label[None], shape, where, "linear")
        return where, _weighted_sums((part == value).float(), taps)[0]

    return largest_share(shape, values, share)


def _reached(box: slice, size: int, new_size: int) -> slice:
    """New voxels along an axis that see old ones of this range, and perhaps some more."""
    step = size / new_size
    reach = max(step, 1.0) + 1
    first, last = ((end + 0.5) / step - 0.5 for end in (box.start - reach, box.stop - 1 + reach))
    return slice(max(0, math.floor(first)), min(new_size, math.ceil(last) + 1))


def largest_share(
    shape: Sequence[int],
    values: Sequence[int],
    share: Callable[[int], tuple[Region, Tensor] | None],
) -> Tensor:
    """The label map in which the value with the largest share of a voxel wins.

    Args:
        shape: of the label map.
        values: the label values, at least one; if shares are equal, the first value wins.
        share: gives the shares float32 of a value within a region; elsewhere, and for None, they
            are 0. That of the first value is the whole map. It is called for one value at a time,
            so that only few volumes are in memory.

    Returns:
        (*shape) uint8.
    """
    best = torch.full(tuple(shape), -1.0)
    result = torch.zeros(tuple(shape), dtype=torch.uint8)
    for value in values:
        if (found := share(value)) is not None:
            where, score = found
            result[where][score > best[where]] = value
            torch.maximum(best[where], score, out=best[where])
    return result


def _narrowed(
    x: Tensor, shape: Sequence[int], part: Sequence[slice] | None, kernel: Kernel
) -> tuple[Tensor, list[tuple[Tensor, Tensor | None]]]:
    """The part of x (C, *S) that a part of the resampled result needs, and its `_taps`."""
    taps = [
        _taps(size, new_size, wanted, kernel)
        for size, new_size, wanted in zip(
            x.shape[1:], shape, part or [slice(None)] * len(shape), strict=True
        )
    ]
    for axis, (places, _) in enumerate(taps, start=1):
        first = int(places.min())
        x = x.narrow(axis, first, int(places.max()) - first + 1)
        places -= first
    return x, taps


def _weighted_sums(x: Tensor, taps: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
    """Resample x (C, *S), one axis after the other."""
    for axis, (places, weights) in enumerate(taps, start=1):
        if weights is not None:
            x = _weighted_sum(x, axis, places.to(x.device), weights.to(x))
    return x.contiguous()


def _taps(size: int, new_size: int, wanted: slice, kernel: Kernel) -> tuple[Tensor, Tensor | None]:
    """Which old voxels make up each new voxel, and their weights.

    Args:
        size: number of old voxels along an axis.
        new_size: number of new voxels.
        wanted: range of the n new voxels to compute.
        kernel: the kernel.

    Returns:
        Indices (n, K) of old voxels and their weights (n, K), or None if the size stays the same.
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
    # There are no voxels beyond the border, so the weights inside it are scaled to a sum of 1.
    weights = weights * ((places >= 0) & (places < size))
    weights = weights / weights.sum(dim=1, keepdim=True)
    return places.clamp(0, size - 1).long(), weights.float()


def _keys(distance: Tensor) -> Tensor:
    """Weights at these distances >= 0 from the centre of the kernel: Keys 1981, equation 15."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


def _weighted_sum(x: Tensor, axis: int, places: Tensor, weights: Tensor) -> Tensor:
    # Not a matrix product, because its rounding depends on the size of the matrix.
    along = [-1 if n == axis else 1 for n in range(x.ndim)]
    total = x.index_select(axis, places[:, 0]).mul_(weights[:, 0].view(along))
    for k in range(1, places.shape[1]):
        total += x.index_select(axis, places[:, k]).mul_(weights[:, k].view(along))
    return total
