"""Surfaces of masks and summaries of the distances between them, in torch on any device.

The caller of :func:`measure` chooses how the distances are found.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from recycleseg.ops.surfel_areas import surfel_areas

# What rounding may add to a length, as a share of it: files hold voxel sizes as float32, callers
# give tolerances as such (6e-8 each), and distance_transform gives distances so (2e-7). A distance
# that equals the tolerance but for this is within it; an area that is the share of a percentile but
# for this reaches it.
ROUNDING_SLACK = 1e-6

Box = tuple[slice, ...]
Maps = TypeVar("Maps", Tensor, NDArray[Any])


class Query(NamedTuple):
    """What is asked of two label maps (B, *S), or of masks (B, C, *S) if structures is None."""

    structures: Sequence[tuple[int, ...]] | None
    spacing: Sequence[float]
    tolerances: Sequence[float]
    percentiles: Sequence[float]
    surfel: bool
    border_is_outside: bool

    @property
    def areas(self) -> list[float]:
        """By code, of surface elements; none where surfaces are made of voxels."""
        return surfel_areas(self.spacing).tolist() if self.surfel else []

    def num_structures(self, shape: Sequence[int]) -> int:
        """Of maps of this shape."""
        return shape[1] if self.structures is None else len(self.structures)

    def mask(self, maps: Tensor, sample: int, structure: int, box: Box) -> Tensor:
        """Bool mask of one structure within a box of one sample."""
        if self.structures is None:
            return maps[sample, structure][box] != 0
        row = maps[sample][box]
        # A bool compares as an integer, but an integer's type turns -1 into 255, if it is uint8.
        numbers = torch.iinfo(torch.int64 if row.dtype == torch.bool else row.dtype)
        mask = torch.zeros_like(row, dtype=torch.bool)
        for value in self.structures[structure]:
            if numbers.min <= value <= numbers.max:
                mask |= row == value
        return mask


def slice_axis(size: Sequence[int]) -> int | None:
    """The axis across a volume of one slice: of S with three axes, the last of one voxel."""
    flat = [axis for axis, n in enumerate(size) if n == 1]
    return flat[-1] if len(size) == 3 and flat else None


def slice_as_image(pred: Maps, ref: Maps, query: Query) -> tuple[Maps, Maps, Query]:
    """A volume of one slice as the image that it is; all else as it comes.

    Across the slice every voxel has a border on both sides. They would all be surface, and so hide
    the contour.
    """
    leading = pred.ndim - len(query.spacing)
    axis = slice_axis(pred.shape[leading:])
    if axis is None:
        return pred, ref, query
    spacing = [s for other, s in enumerate(query.spacing) if other != axis]
    at = leading + axis
    return pred.squeeze(at), ref.squeeze(at), query._replace(spacing=spacing)


class Surface(NamedTuple):
    """grid: bool, where the N points are; points: their (N, D) indices; weights: (N,), float64."""

    grid: Tensor
    points: Tensor
    weights: Tensor


def empty_result(
    like: Tensor, num_structures: int, num_percentiles: int, num_tolerances: int
) -> tuple[Tensor, Tensor]:
    """Tensors for `directed` and `pooled`, with the batch and the device of `like`."""
    head, width = (like.shape[0], num_structures), 3 + num_percentiles + num_tolerances
    return (
        like.new_empty((*head, 2, width), dtype=torch.float64),
        like.new_empty((*head, num_percentiles), dtype=torch.float64),
    )


def bounding_boxes(pred: Tensor, ref: Tensor, query: Query) -> list[Box]:
    """Per sample and structure the box of both masks together, and one voxel more on each side.

    Whatever lies beyond such a box counts for as much as the volume's border there: the voxels next
    to the box's sides are in the masks only where these are sides of the volume. The host waits
    for the device once, for all boxes.
    """
    size = pred.shape[-len(query.spacing) :]
    whole = (slice(None),) * len(size)
    indices = [torch.arange(n, device=pred.device) for n in size]
    bounds = []
    for b, c in _samples_and_structures(pred, query):
        mask = query.mask(pred, b, c, whole) | query.mask(ref, b, c, whole)
        for axis, index in enumerate(indices):
            present = mask.any([other for other in range(mask.ndim) if other != axis])
            bounds.append(torch.where(present, index, len(index)).amin())
            bounds.append(torch.where(present, index, -1).amax())
    if not bounds:
        return []
    table = torch.stack(bounds).reshape(-1, len(size), 2).tolist()
    return [tuple(slice(max(low - 1, 0), high + 2) for low, high in box) for box in table]


def measure(
    pred: Tensor,
    ref: Tensor,
    query: Query,
    boxes: Sequence[Box] | None,
    nearest: Callable[[Surface, Surface, Sequence[float]], Tensor],
) -> tuple[Tensor, Tensor]:
    """`directed` and `pooled` of surface_distances.

    boxes: as of :func:`bounding_boxes`; None for whole volumes. nearest: from (own, other, spacing)
    to the float64 distance (N,) in mm from each point of `own` to the nearest one of `other`, inf
    if there is none.
    """
    pairs = list(_samples_and_structures(pred, query))
    directed, pooled = empty_result(
        pred, query.num_structures(pred.shape), len(query.percentiles), len(query.tolerances)
    )
    pooled.fill_(math.nan)
    areas = surfel_areas(query.spacing).to(pred.device) if query.surfel else None
    shares = torch.tensor(query.percentiles, dtype=torch.float64, device=pred.device) / 100
    limits = [tolerance * (1 + ROUNDING_SLACK) for tolerance in query.tolerances]
    if boxes is None:
        boxes = [(slice(None),) * len(query.spacing)] * len(pairs)

    for (b, c), box in zip(pairs, boxes, strict=True):
        surfaces = [
            _border_voxels(query.mask(maps, b, c, box), query.border_is_outside)
            if areas is None
            else _surfels(query.mask(maps, b, c, box), areas)
            for maps in (pred, ref)
        ]
        distances = []
        for way, (own, other) in enumerate((surfaces, surfaces[::-1])):
            distances.append(nearest(own, other, query.spacing))
            directed[b, c, way] = _statistics(distances[way], own.weights, shares, limits, areas)
        if areas is None:
            pooled[b, c] = _percentiles(torch.cat(distances), shares)
    return directed, pooled


def _samples_and_structures(pred: Tensor, query: Query) -> itertools.product[tuple[int, int]]:
    return itertools.product(range(pred.shape[0]), range(query.num_structures(pred.shape)))


def _border_voxels(mask: Tensor, border_is_outside: bool) -> Surface:
    """Voxels of mask (*S) with a face neighbour outside it, each of weight 1."""
    padded = F.pad(mask, (1, 1) * mask.ndim, value=not border_is_outside)
    surrounded = torch.ones_like(mask)
    for axis, size in enumerate(mask.shape):
        line = padded
        for other, other_size in enumerate(mask.shape):
            if other != axis:
                line = line.narrow(other, 1, other_size)
        surrounded &= line.narrow(axis, 0, size)
        surrounded &= line.narrow(axis, 2, size)
    grid = mask & ~surrounded
    points = grid.nonzero()
    return Surface(grid, points, points.new_ones(len(points), dtype=torch.float64))


def _surfels(mask: Tensor, areas: Tensor) -> Surface:
    """Corners that the surface of mask (*S) passes, each of its area around it, in mm^2.

    Bit 0 of a corner's code is the voxel after it along every axis, the highest bit the one
    before it along every axis; the last axis changes fastest.
    """
    padded = F.pad(mask.byte(), (1, 1) * mask.ndim)
    code = padded.new_zeros([size + 1 for size in mask.shape])
    for bit in range(2**mask.ndim):
        neighbour = padded
        for axis, size in enumerate(code.shape):
            is_before = bit >> (mask.ndim - 1 - axis) & 1
            neighbour = neighbour.narrow(axis, 1 - is_before, size)
        code |= neighbour << bit
    grid = (code != 0) & (code != len(areas) - 1)
    points = grid.nonzero()
    return Surface(grid, points, areas[code[points.unbind(1)].long()])


def _statistics(
    distances: Tensor,
    weights: Tensor,
    shares: Tensor,
    limits: Sequence[float],
    areas: Tensor | None,
) -> Tensor:
    """One row of `directed`."""
    size = weights.sum()
    mean = (distances * weights).sum() / size  # NaN where there is no surface
    maximum = distances.amax() if len(distances) else mean
    head = torch.stack([size, mean, maximum])
    percentiles = _percentiles(distances, shares, None if areas is None else weights)
    within = [(weights * (distances <= limit)).sum() for limit in limits]
    return torch.cat([head, percentiles, torch.stack(within) if within else head[:0]])


def _percentiles(distances: Tensor, shares: Tensor, weights: Tensor | None = None) -> Tensor:
    """At each share: interpolated linearly, or the first distance that reaches it by weight.

    Not by torch.quantile, which takes up to 2^24 elements.
    """
    if len(distances) == 0:
        return torch.full_like(shares, math.nan)
    ordered, order = distances.sort()
    last = len(ordered) - 1
    if weights is not None:
        reached = weights[order].cumsum(0) / weights.sum()
        # Relative errors of the areas within and beyond shift a share by this factor of them.
        at = torch.searchsorted(reached, shares * (1 - ROUNDING_SLACK * (1 - shares)))
        return ordered[at.clamp(max=last)]
    rank = shares * last
    below = rank.long()
    low, high = ordered[below], ordered[(below + 1).clamp(max=last)]
    between = low + (high - low) * (rank - below)
    return torch.where(low == high, low, between)  # infinite ones have no difference
