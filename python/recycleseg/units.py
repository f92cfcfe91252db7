"""The unit of lengths: mm, or pixels where nothing tells the voxel size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

# "pixels" are steps from voxel to voxel, also in 3D.
Unit = Literal["mm", "pixels"]


def unit_of(spacing: Sequence[float] | None) -> Unit:
    """The unit of distances between voxels of this size in mm; None means unknown."""
    return "pixels" if spacing is None else "mm"
