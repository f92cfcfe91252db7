"""Area of the surface that marching cubes puts between the voxels of each 2x2x2 neighbourhood."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor


def surfel_areas(spacing: Sequence[float]) -> Tensor:
    """Area of the surface element (surfel) of every neighbourhood code.

    Bit i of a code says whether voxel i of the 2x2(x2) neighbourhood is inside, counted in C order:
    in 3D voxel (x, y, z) is bit 4x + 2y + z, in 2D voxel (x, y) is bit 2x + y. Codes that mirror
    each other have one area, so the opposite order, where bit 0 is voxel (1, 1, 1), gives the same
    table.

    Args:
        spacing: mm per axis, in the order of the array's axes; two or three numbers.

    Returns:
        float64 on the CPU: in 3D (256,) areas in mm^2, in 2D (16,) lengths in mm, of marching cubes
        (Lorensen and Cline 1987; squares in 2D) with vertices half-way between voxels and triangles
        as in DeepMind's surface-distance: a code and its complement have the same surface, and
        corners that touch only across a diagonal are cut off one by one.

    Raises:
        ValueError: spacing is not two or three positive finite numbers.
    """
    if len(spacing) not in (2, 3) or not all(0 < s < math.inf for s in spacing):
        raise ValueError(f"spacing: expected 2 or 3 positive finite numbers, got {tuple(spacing)}")
    return _areas(tuple(spacing))


@functools.lru_cache(maxsize=16)  # a data set often has one spacing
def _areas(spacing: tuple[float, ...]) -> Tensor:
    if len(spacing) == 2:  # a contour is the cross-section of its extrusion by 1 mm
        extruded = [sum(3 << 2 * i for i in range(4) if code >> i & 1) for code in range(16)]
        return _areas((*spacing, 1.0))[extruded]
    x, y, z = spacing
    faces = torch.tensor([y * z, x * z, x * y], dtype=torch.float64)
    return (_unit_pieces() * faces).square().sum(-1).sqrt().sum(-1)


@functools.cache
def _unit_pieces() -> Tensor:
    """(256, 4, 3): per code the area vectors of its flat pieces in a unit cube, or zeros."""
    pieces = torch.zeros(256, 4, 3, dtype=torch.float64)
    for code in range(256):
        inside = {corner for corner in range(8) if code >> corner & 1}
        fewer = inside if len(inside) <= 4 else set(range(8)) - inside
        vectors = [vector for part in _connected(fewer) for vector in _cut_off(part)]
        if vectors:
            pieces[code, : len(vectors)] = torch.stack(vectors)
    return pieces


def _axes_within(corner: int, corners: set[int]) -> list[int]:
    """The axes along which the neighbour of this corner of a cube is one of `corners`."""
    return [axis for axis in range(3) if corner ^ (4 >> axis) in corners]


def _connected(corners: set[int]) -> list[set[int]]:
    """The parts of `corners` that edges of the cube connect."""
    parts = []
    rest = set(corners)
    while rest:
        part, border = set(), {min(rest)}
        while border:
            part |= border
            steps = {c ^ (4 >> axis) for c in border for axis in _axes_within(c, corners)}
            border = steps - part
        parts.append(part)
        rest -= part
    return parts


def _cut_off(part: set[int]) -> list[Tensor]:
    """Area vectors, up to signs, of the pieces that cut one to four connected corners off."""
    along = torch.eye(3, dtype=torch.float64)
    every = along.sum(0)
    neighbours = [_axes_within(corner, part) for corner in part]
    crossed = {axis for axes in neighbours for axis in axes}
    ends = [axes[0] for axes in neighbours if len(axes) == 1]
    if len(part) == 1:  # a triangle
        return [every / 8]
    if len(part) == 2:  # a rectangle
        return [(every - along[ends[0]]) / 2]
    if len(part) == 3:  # a triangle in the middle of the cube and a trapezium
        (normal,) = {0, 1, 2} - crossed
        return [along[normal] / 2, every * 3 / 8]
    if not ends:  # half the cube
        (normal,) = {0, 1, 2} - crossed
        return [along[normal]]
    if len(ends) == 3:  # a hexagon
        return [every * 3 / 4]
    # A chain: two parallel triangles and one at each end.
    return [every / 2, *((every - along[axis]) / 4 for axis in ends)]
