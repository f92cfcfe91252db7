"""Orientation and resampling of voxel grids, both invertible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor


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


def resample(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Linear resampling of (C, *S) float32 to (C, *shape) over the same field of view.

    One axis after the other, so strongly anisotropic voxels need no special case. An axis that
    shrinks is averaged over a triangle as wide as the step, against aliasing; an axis that keeps
    its size is left untouched, bit for bit.
    """
    for axis, (size, new_size) in enumerate(zip(x.shape[1:], shape, strict=True), start=1):
        if size != new_size:
            weights = _linear_weights(size, new_size).to(x)
            x = (x.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return x.contiguous()


def resample_label(label: Tensor, shape: Sequence[int], values: Sequence[int]) -> Tensor:
    """Resample an integer label map (*S) to (*shape) uint8.

    The largest of the linearly resampled indicator functions wins, the lower value on a tie.
    """
    if tuple(label.shape) == tuple(shape):
        return label.to(torch.uint8).contiguous()
    best = torch.full(tuple(shape), -1.0)
    result = torch.zeros(tuple(shape), dtype=torch.uint8)
    for value in values:
        score = resample((label == value).float()[None], shape)[0]
        result[score > best] = value
        best = torch.maximum(best, score)
    return result


def _linear_weights(size: int, new_size: int) -> Tensor:
    """(new_size, size) float32 rows that sum to 1."""
    step = size / new_size
    centre = (torch.arange(new_size, dtype=torch.float64) + 0.5) * step - 0.5
    distance = (torch.arange(size, dtype=torch.float64) - centre[:, None]).abs()
    weights = (1 - distance / max(step, 1.0)).clamp_min(0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()
