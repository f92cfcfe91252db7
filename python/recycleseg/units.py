"""The unit of lengths: mm, or pixels where nothing tells the voxel size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

# "pixels" are steps from voxel to voxel, also in 3D.
Unit = Literal["mm", "pixels"]


def steps(spacing: Sequence[float] | None, spatial_dims: int) -> tuple[float, ...]:
    """The voxel size in the unit that `unit_of` gives: in mm, or one pixel along each axis."""
    return (1.0,) * spatial_dims if spacing is None else tuple(spacing)


def unit_of(spacing: Sequence[float] | None) -> Unit:
    """The unit of distances between voxels of this size in mm; None means unknown."""
    return "pixels" if spacing is None else "mm"
