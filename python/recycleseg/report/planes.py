"""How a slice of a case is turned: as radiologists view it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class View(NamedTuple):
    """A direction of view.

    Attributes:
        name: "axial", "coronal", "sagittal", or empty for 2D.
        across, down: axes of the array that run to the right and down in the picture.
        through: axis of the slices; None for 2D.
        edges: letters at left, right, top and bottom; empty for 2D.
    """

    name: str
    across: int
    down: int
    through: int | None
    edges: tuple[str, str, str, str]


# Canonical axes run to right, anterior and superior. A radiologist faces the patient or looks from
# the feet, so all axes are reversed; see `as_viewed`.
VIEWS_3D = (
    View("axial", 0, 1, 2, ("R", "L", "A", "P")),
    View("coronal", 0, 2, 1, ("R", "L", "S", "I")),
    View("sagittal", 1, 2, 0, ("A", "P", "S", "I")),
)
VIEWS_2D = (View("", 1, 0, None, ("", "", "", "")),)
# So many times thicker than they are high, slices count as those of the scan.
_THICK = 2.0


def view_of_scan(spacing: Sequence[float]) -> View:
    """The axial view, or that of the thick slices of a scan if these are sagittal or coronal.

    Args:
        spacing: voxel size along each canonical axis.
    """
    if len(spacing) == 2:
        return VIEWS_2D[0]
    thickest = max(VIEWS_3D, key=lambda view: spacing[view.through or 0])
    axial = VIEWS_3D[0]
    thicker = spacing[thickest.through or 0] / spacing[axial.through or 0]
    return thickest if thicker > _THICK else axial


def as_viewed(canonical: NDArray[Any]) -> NDArray[Any]:
    """An array in canonical axes, reversed so that slices of it are pictures; 2D stays as it is."""
    return np.flip(canonical) if canonical.ndim == 3 else canonical


def slice_of(array: NDArray[Any], view: View, index: int) -> NDArray[Any]:
    """The slice (down, across) of an array `as_viewed`, at this index of the axis through it."""
    flat = array if view.through is None else array.take(index, view.through)
    return flat if view.down < view.across else flat.T


def busiest_slice(mask: NDArray[np.bool_], view: View) -> int:
    """Index of the slice with the most voxels in a mask `as_viewed`; 0 in 2D.

    It is the middle slice of an empty mask.
    """
    if view.through is None:
        return 0
    others = tuple(axis for axis in range(mask.ndim) if axis != view.through)
    counts = mask.sum(others)
    return int(counts.argmax()) if counts.any() else len(counts) // 2
