"""Whether two grids of voxels are one; everything is measured in voxels, whatever their size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# In voxels. Programs and scanners round positions and voxel sizes by less. A slice that is missing
# and an axis that is reversed differ by a whole voxel or more.
GRID_TOLERANCE = 0.05
# What an origin that is far away may add to it, in voxels, where float32 is too coarse for it.
_MOST_ROUNDING = 0.4
_FLOAT32 = float(np.finfo(np.float32).eps)
# As a share. Some formats hold whole pixels per metre.
_SIZE_TOLERANCE = 1e-3


def same_grid(affine: Array, other: Array, shape: Sequence[int]) -> bool:
    """Whether each voxel lies at the same place, to a twentieth of a voxel along each axis.

    Args:
        affine: (4, 4) voxel index -> mm.
        other: the same of the other grid.
        shape: (3,) number of voxels along each axis of both.
    """
    per_mm = np.abs(np.linalg.inv(affine[:3, :3]))
    rounding = per_mm @ (_FLOAT32 * np.maximum(*np.abs([affine[:3, 3], other[:3, 3]])))
    apart = np.linalg.solve(affine[:3, :3], offsets(affine, other, shape).T)
    allowed = GRID_TOLERANCE + np.minimum(rounding, _MOST_ROUNDING)
    return bool((np.abs(apart).max(axis=1) <= allowed).all())


def offsets(affine: Array, other: Array, shape: Sequence[int]) -> Array:
    """From each corner voxel to that of the other grid, (8, 3) in mm: no voxel is farther apart."""
    corners = np.array([*np.ndindex(2, 2, 2)]) * (np.array(shape) - 1)
    difference = other - affine
    result: Array = corners @ difference[:3, :3].T + difference[:3, 3]
    return result


def same_sizes(sizes: Sequence[float], others: Sequence[float]) -> bool:
    """Whether voxels without a place in space have the same sizes in mm, to a thousandth."""
    return bool(np.allclose(sizes, others, rtol=_SIZE_TOLERANCE, atol=0))
