"""Grids along the axes of the world, for files with axes that are turned against them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # loads its modules at first use
import torch
from torch import Tensor

from recycleseg.data.geometry import Kernel, Region, largest_share, resample

Array = np.ndarray[Any, Any]

# A smaller turn moves no voxel of an organ 50 voxels wide by a whole voxel.
_LARGEST_DEGREES = 1.0
# In voxels. It covers the float32 rounding of affines.
_ROUNDING = 0.01


def is_upright(affine: Array) -> bool:
    """Whether all axes of a file with this (4, 4) affine are within 1 degree of a world axis."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(directions).max(axis=0).min() >= np.cos(np.radians(_LARGEST_DEGREES)))


@dataclass(frozen=True)
class UprightGrid:
    """Voxels along the world axes (right, anterior, superior) that cover the content of a file.

    Voxel centres are whole multiples of `spacing` in world coordinates, so copies of a scan with
    different grids are sampled at the same places of the body.

    Attributes:
        shape: number of voxels along each axis.
        spacing: mm along each axis.
        to_file: (3, 4), from indices of this grid to indices of the file.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    to_file: tuple[tuple[float, ...], ...]

    @classmethod
    def around(cls, image: Tensor, affine: Array, spacing: Sequence[float]) -> UprightGrid:
        """The grid that covers all voxels of the image that are not zero in every channel.

        Voxels that are zero are left out, because a scan that was turned has zeros in its corners.

        Args:
            image: (C, *S) in the axes of the file, before normalisation.
            affine: (4, 4) of the file, mm.
            spacing: of the grid, mm.
        """
        seen = (image != 0).any(0).numpy()
        points = _ends_of_lines(seen if seen.any() else np.ones_like(seen))
        voxels = (points @ affine[:3, :3].T + affine[:3, 3]) / np.array(spacing)
        first = np.floor(voxels.min(axis=0) + _ROUNDING)
        last = np.ceil(voxels.max(axis=0) - _ROUNDING)
        to_world = np.diag([*spacing, 1.0])
        to_world[:3, 3] = first * spacing
        to_file = (np.linalg.inv(affine) @ to_world)[:3]
        shape = tuple(int(size) for size in last - first + 1)
        return cls(shape, tuple(map(float, spacing)), tuple(map(tuple, to_file.tolist())))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UprightGrid:
        """The inverse of `dataclasses.asdict`; also takes values that come from JSON."""
        to_file = tuple(map(tuple, values["to_file"]))
        return cls(tuple(values["shape"]), tuple(values["spacing"]), to_file)

    def sample_image(self, image: Tensor, kernel: Kernel) -> Tensor:
        """Sample an image on this grid with cubic splines.

        If an axis of the file has smaller voxels than this grid, it is first shrunk with `kernel`
        to avoid aliasing. Beyond the border of the file an image has its darkest value.

        Args:
            image: (C, *S) float32 in the axes of the file.
            kernel: see `resample`.

        Returns:
            (C, *shape) float32.
        """
        matrix, offset = _split(np.array(self.to_file))
        old = image.shape[1:]
        # The longest step along each file axis, in its voxels, between neighbours of this grid.
        steps = np.abs(matrix).max(axis=1)
        new = [max(1, min(n, round(n / step))) for n, step in zip(old, steps, strict=True)]
        scale = np.array(new) / np.array(old)
        matrix, offset = matrix * scale[:, None], (offset + 0.5) * scale - 0.5
        channels = [
            _transform(_widened(channel), matrix, offset + 1, self.shape, 3, darkest)
            for channel, darkest in zip(
                resample(image, new, kernel=kernel).numpy(),
                image.amin((1, 2, 3)).tolist(),
                strict=True,
            )
        ]
        return torch.from_numpy(np.stack(channels))

    def sample_label(self, label: Tensor, values: Sequence[int]) -> Tensor:
        """Sample a label map on this grid; see `resample_label` for the rule.

        Args:
            label: (*S) integers in the axes of the file.
            values: the label values.

        Returns:
            (*shape) uint8; 0 beyond the border of the file.
        """
        matrix, offset = _split(np.array(self.to_file))

        def share(value: int) -> tuple[Region, Tensor]:
            inside = _widened((label.numpy() == value).astype(np.float32))
            beyond = float(value == 0)
            found = _transform(inside, matrix, offset + 1, self.shape, 1, beyond)
            return (slice(None),) * 3, torch.from_numpy(found)

        return largest_share(self.shape, values, share)

    def restore(self, x: Tensor, file_shape: Sequence[int], rows: slice) -> Tensor:
        """Sample probabilities of this grid at the voxels of the file, linearly.

        Args:
            x: (C, *shape).
            file_shape: shape of the file.
            rows: range of the first axis of the file to restore. The result equals the same rows
                of the whole file except for rounding.

        Returns:
            (C, rows, ...) float32; 0 beyond this grid.
        """
        whole = np.vstack([np.array(self.to_file), [0, 0, 0, 1]])
        matrix, offset = _split(np.linalg.inv(whole)[:3])
        start, stop, _ = rows.indices(file_shape[0])
        offset = offset + matrix[:, 0] * start
        shape = (stop - start, *file_shape[1:])
        # x may be on a GPU, so only the part that these rows need is copied.
        corners = np.array(list(itertools.product(*((0, n - 1) for n in shape))))
        seen = corners @ matrix.T + offset
        low = np.clip(np.floor(seen.min(axis=0)).astype(int) - 1, 0, self.shape)
        high = np.clip(np.ceil(seen.max(axis=0)).astype(int) + 2, 0, self.shape)
        if (high <= low).any():
            return x.new_zeros((len(x), *shape), dtype=torch.float32)
        box = tuple(slice(first, end) for first, end in zip(low, high, strict=True))
        channels = [
            _transform(channel, matrix, offset - low, shape, 1, 0.0)
            for channel in x[(slice(None),) + box].float().cpu().numpy()
        ]
        return torch.from_numpy(np.stack(channels)).to(x.device)


def _split(affine: Array) -> tuple[Array, Array]:
    """The matrix (3, 3) and the offset (3,) of an affine (3, 4)."""
    return affine[:, :3], affine[:, 3]


def _widened(x: Array) -> Array:
    """x with its outermost voxels repeated once around it.

    A voxel extends by half its size beyond its centre, which is far if slices are thick.
    """
    return np.pad(x, 1, mode="edge")


def _transform(
    x: Array, matrix: Array, offset: Array, shape: Sequence[int], order: int, beyond: float
) -> Array:
    """x at matrix @ index + offset, float32; beyond its border it fades to `beyond` in a voxel."""
    result: Array = scipy.ndimage.affine_transform(
        x, matrix, offset, tuple(shape), np.float32, order, "grid-constant", beyond
    )
    return result


def _ends_of_lines(mask: Array) -> Array:
    """Indices (N, 3) of the first and last true voxel of each line along the first axis.

    They are enough to find the extent in any direction, because all others lie between them.
    """
    any_set = mask.any(axis=0)
    first, last = mask.argmax(axis=0), len(mask) - 1 - mask[::-1].argmax(axis=0)
    others = np.argwhere(any_set)
    return np.concatenate([np.column_stack([end[any_set], others]) for end in (first, last)])
