"""Distances between the surfaces of structures in two label maps, or in two sets of masks.

Hausdorff distance, average surface distances and surface Dice follow from these numbers alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recycleseg import _ext

DEFINITIONS = ("voxel", "surfel")
# A distance that equals the tolerance but for rounding lies within it.
TOLERANCE_SLACK = 1 + 1e-9
_LABEL_DTYPES = (torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64)
_PAIRS_AT_ONCE = 1 << 20

Labels = Sequence[int | tuple[int, ...]]


class SurfaceDistances(NamedTuple):
    """Statistics of surface distances in mm; see :func:`surface_distances`.

    directed: float64 (B, C, 2, 3 + P + K), P percentiles and K tolerances. Along axis 2: from pred
    to ref, from ref to pred. Along the last axis: size of the surface that is measured from (in
    voxels; for "surfel" in mm^2, in 2D mm), mean distance, maximum, the P percentiles, and for each
    tolerance the size of the part of that surface that lies within it.
    pooled: float64 (B, C, P), percentiles of the distances of both directions together; NaN for
    "surfel".
    """

    directed: Tensor
    pooled: Tensor


def surface_distances(
    pred: Tensor,
    ref: Tensor,
    *,
    labels: Labels | None,
    spacing: Sequence[float],
    tolerances: Sequence[float] = (1.0,),
    percentiles: Sequence[float] = (95.0,),
    definition: str = "voxel",
    border_is_outside: bool = True,
    backend: str = "auto",
) -> SurfaceDistances:
    """Measure, for every structure of a batch, from each of two surfaces to the other.

    Args:
        pred, ref: label maps (B, *S), or masks (B, C, *S) where `labels` is None, nonzero inside;
            of one shape and device; bool, uint8, int16, int32 or int64, each its own. S has 2 or 3
            axes.
        labels: the C structures of label maps: each a label value, or a tuple of values whose union
            it is. Structures may overlap, and labels that belong to none are background.
        spacing: mm between voxel centres along each axis of S, in the order of the axes.
        tolerances: in mm; a distance d is within one if d <= tolerance * (1 + 1e-9).
        percentiles: from 0 to 100.
        definition: "voxel": the surface is made of the structure's voxels with a face neighbour
            outside it; distances d^2 = sum_i (n_i spacing_i)^2 between voxel centres, n integer;
            every voxel weighs the same, percentiles are interpolated linearly (NumPy's default).
            "surfel": as DeepMind's surface-distance: the surface is made of the corners between
            2x2(x2) voxels of which some are inside and some outside; distances between corners;
            each weighs the area (in 2D the length) that marching cubes finds in its cell. A
            percentile is the first distance, in rising order, at which that share of the area is
            reached.
        border_is_outside: whether what lies beyond the volume counts as outside a structure, so
            that a structure cut off by the volume's border has a surface there. "surfel" knows no
            other way.
        backend: "cpp" (threads: `torch.get_num_threads()`), "reference" (quadratic: for tests), or
            "auto". Tensors on a GPU are copied to the CPU and the result back.

    Returns:
        :class:`SurfaceDistances` on the device of pred. A surface that is empty has size 0 and 0
        within each tolerance, all else NaN; where only the other one is empty, mean, maximum and
        percentiles are inf and 0 is within each tolerance. pooled is NaN where both are empty, inf
        where one is.

    Raises:
        ValueError: an argument is not as said. RuntimeError: a backend that was not built.
    """
    num_axes = pred.ndim - (2 if labels is None else 1)
    _check_maps(pred, ref, "(B, *S)" if labels is not None else "(B, C, *S)", num_axes)
    _check_numbers("spacing", spacing, "positive, finite mm", lambda s: 0 < s < math.inf)
    if len(spacing) != num_axes:
        raise ValueError(
            f"spacing: expected {num_axes} numbers, one for each axis of S in "
            f"{tuple(pred.shape)}, got {len(spacing)}"
        )
    _check_numbers("tolerances", tolerances, "finite mm from 0 on", lambda t: 0 <= t < math.inf)
    _check_numbers("percentiles", percentiles, "0 to 100", lambda p: 0 <= p <= 100)
    if definition not in DEFINITIONS:
        raise ValueError(f"definition: expected 'voxel' or 'surfel', got {definition!r}")
    if definition == "surfel" and not border_is_outside:
        raise ValueError("border_is_outside: expected True for definition='surfel', got False")
    structures = _structures(labels)
    directed, pooled = _surface_distances(
        pred,
        ref,
        None if structures is None else [value for values in structures for value in values],
        None if structures is None else [len(values) for values in structures],
        [float(s) for s in spacing],
        [float(t) for t in tolerances],
        [float(p) for p in percentiles],
        definition == "surfel",
        border_is_outside,
        _resolve(backend, pred.device),
    )
    return SurfaceDistances(directed, pooled)


def surface_distances_reference(
    pred: Tensor,
    ref: Tensor,
    *,
    labels: Labels | None,
    spacing: Sequence[float],
    tolerances: Sequence[float] = (1.0,),
    percentiles: Sequence[float] = (95.0,),
    definition: str = "voxel",
    border_is_outside: bool = True,
) -> SurfaceDistances:
    """What :func:`surface_distances` computes, in plain torch: every pair of surface points."""
    structures = _structures(labels)
    num_structures = pred.shape[1] if structures is None else len(structures)
    num_rows, num_percentiles = pred.shape[0], len(percentiles)
    shape = (num_rows, num_structures, num_percentiles, len(tolerances))
    directed, pooled = _empty_result(pred, *shape)
    pooled.fill_(math.nan)

    for b in range(num_rows):
        for c in range(num_structures):
            surfaces = []
            for maps in (pred, ref):
                if structures is None:
                    mask = maps[b, c] != 0
                else:
                    row = maps[b].long()  # as uint8, 255 would equal -1
                    mask = torch.stack([row == value for value in structures[c]]).any(0)
                if definition == "surfel":
                    surfaces.append(_surfels(mask, spacing))
                else:
                    surfaces.append(_border_voxels(mask, border_is_outside))
            distances = []
            for way, (own, other) in enumerate((surfaces, surfaces[::-1])):
                distances.append(_nearest(own[0], other[0], spacing))
                directed[b, c, way] = _statistics(
                    distances[way], own[1], tolerances, percentiles, definition
                )
            if definition == "voxel":
                both = torch.cat(distances)
                pooled[b, c] = _percentiles(both, torch.ones_like(both), percentiles, "voxel")
    return SurfaceDistances(directed, pooled)


def _border_voxels(mask: Tensor, border_is_outside: bool) -> tuple[Tensor, Tensor]:
    """Indices (N, D) of voxels of mask (*S) with a face neighbour outside it, and weights 1."""
    padded = F.pad(mask.byte(), (1, 1) * mask.ndim, value=int(not border_is_outside)).bool()
    surrounded = torch.ones_like(mask)
    for axis, size in enumerate(mask.shape):
        line = padded
        for other, other_size in enumerate(mask.shape):
            if other != axis:
                line = line.narrow(other, 1, other_size)
        surrounded &= line.narrow(axis, 0, size) & line.narrow(axis, 2, size)
    points = (mask & ~surrounded).nonzero()
    return points, torch.ones(len(points), dtype=torch.float64, device=mask.device)


def _surfels(mask: Tensor, spacing: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Corners (N, D) that the surface of mask (*S) passes, and its area around each, in mm^2.

    Bit 0 of a corner's code is the voxel after it along every axis, the highest bit the one
    before it along every axis; the last axis changes fastest.
    """
    from recycleseg.ops.surfel_areas import surfel_areas

    num_bits = 2**mask.ndim
    padded = F.pad(mask.byte(), (1, 1) * mask.ndim).long()
    code = torch.zeros([size + 1 for size in mask.shape], dtype=torch.int64, device=mask.device)
    for bit in range(num_bits):
        neighbour = padded
        for axis, size in enumerate(code.shape):
            is_before = bit >> (mask.ndim - 1 - axis) & 1
            neighbour = neighbour.narrow(axis, 1 - is_before, size)
        code += neighbour << bit
    points = ((code != 0) & (code != 2**num_bits - 1)).nonzero()
    areas = surfel_areas(spacing).to(mask.device)
    return points, areas[code[tuple(points.unbind(1))]]


def _nearest(points: Tensor, others: Tensor, spacing: Sequence[float]) -> Tensor:
    """Distance (N,) in mm from each of points (N, D) to the nearest of others (M, D), inf if 0."""
    scale = torch.tensor(spacing, dtype=torch.float64, device=points.device)
    if len(others) == 0:
        return torch.full((len(points),), math.inf, dtype=torch.float64, device=points.device)
    nearest = [
        ((part[:, None] - others[None]) * scale).square().sum(-1).amin(1)
        for part in points.split(max(1, _PAIRS_AT_ONCE // len(others)))
    ]
    return torch.cat(nearest).sqrt()


def _statistics(
    distances: Tensor,
    weights: Tensor,
    tolerances: Sequence[float],
    percentiles: Sequence[float],
    definition: str,
) -> Tensor:
    """One row of `directed`."""
    size = weights.sum()
    mean = (distances * weights).sum() / size if len(distances) else size.new_tensor(math.nan)
    maximum = distances.max() if len(distances) else mean
    within = [weights[distances <= tolerance * TOLERANCE_SLACK].sum() for tolerance in tolerances]
    head = torch.stack([size, mean, maximum])
    tail = torch.stack(within) if within else head[:0]
    return torch.cat([head, _percentiles(distances, weights, percentiles, definition), tail])


def _percentiles(
    distances: Tensor, weights: Tensor, percentiles: Sequence[float], definition: str
) -> Tensor:
    shares = torch.tensor(percentiles, dtype=torch.float64, device=distances.device) / 100
    if len(distances) == 0:
        return torch.full_like(shares, math.nan)
    if distances.isinf().any():  # from a surface to nowhere
        return torch.full_like(shares, math.inf)
    if definition == "voxel":
        return torch.quantile(distances, shares)
    ordered, order = distances.sort()
    reached = weights[order].cumsum(0) / weights.sum()
    at = torch.searchsorted(reached, shares * (1 - 1e-12))  # whatever the sum's rounding
    return ordered[at.clamp(max=len(ordered) - 1)]


@torch.library.custom_op("recycleseg::surface_distances", mutates_args=())
def _surface_distances(
    pred: Tensor,
    ref: Tensor,
    label_values: Sequence[int] | None,
    structure_sizes: Sequence[int] | None,
    spacing: Sequence[float],
    tolerances: Sequence[float],
    percentiles: Sequence[float],
    surfel: bool,
    border_is_outside: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    structures = None
    if label_values is not None and structure_sizes is not None:
        values = iter(label_values)
        structures = [tuple(next(values) for _ in range(size)) for size in structure_sizes]
    if backend == "reference" or pred.numel() == 0:
        return surface_distances_reference(
            pred,
            ref,
            labels=structures,
            spacing=spacing,
            tolerances=tolerances,
            percentiles=percentiles,
            definition="surfel" if surfel else "voxel",
            border_is_outside=border_is_outside,
        )
    num_structures = pred.shape[1] if structures is None else len(structures)
    directed, pooled = _empty_result(
        torch.empty(0), pred.shape[0], num_structures, len(percentiles), len(tolerances)
    )
    _ext.C.surface_distances_cpu(
        _ext.capsule(pred.cpu().contiguous()),
        _ext.capsule(ref.cpu().contiguous()),
        structures,
        spacing,
        tolerances,
        percentiles,
        surfel,
        border_is_outside,
        _ext.capsule(directed),
        _ext.capsule(pooled),
        torch.get_num_threads(),
    )
    return directed.to(pred.device), pooled.to(pred.device)


@_surface_distances.register_fake
def _(
    pred: Tensor,
    ref: Tensor,
    label_values: Sequence[int] | None,
    structure_sizes: Sequence[int] | None,
    spacing: Sequence[float],
    tolerances: Sequence[float],
    percentiles: Sequence[float],
    surfel: bool,
    border_is_outside: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    num_structures = pred.shape[1] if structure_sizes is None else len(structure_sizes)
    return _empty_result(pred, pred.shape[0], num_structures, len(percentiles), len(tolerances))


def _empty_result(
    like: Tensor, num_rows: int, num_structures: int, num_percentiles: int, num_tolerances: int
) -> tuple[Tensor, Tensor]:
    head, width = (num_rows, num_structures), 3 + num_percentiles + num_tolerances
    return (
        like.new_empty((*head, 2, width), dtype=torch.float64),
        like.new_empty((*head, num_percentiles), dtype=torch.float64),
    )


def _structures(labels: Labels | None) -> list[tuple[int, ...]] | None:
    if labels is None:
        return None
    structures = [(entry,) if isinstance(entry, int) else tuple(entry) for entry in labels]
    if not structures or not all(structures):
        raise ValueError(
            f"labels: expected at least one structure, each of at least one label, got {labels!r}"
        )
    for values in structures:
        for value in values:
            if not isinstance(value, int) or not -(2**63) <= value < 2**63:
                raise ValueError(f"labels: expected integers of 64 bits, got {value!r}")
    return structures


def _check_maps(pred: Tensor, ref: Tensor, shape: str, num_axes: int) -> None:
    for name, maps in (("pred", pred), ("ref", ref)):
        if maps.dtype not in _LABEL_DTYPES:
            raise ValueError(
                f"{name}: expected dtype bool, uint8, int16, int32 or int64, got {maps.dtype}"
            )
    if num_axes not in (2, 3):
        raise ValueError(
            f"pred: expected shape {shape} where S has 2 or 3 axes, got {tuple(pred.shape)}"
        )
    if ref.shape != pred.shape:
        raise ValueError(
            f"ref: expected the shape of pred, {tuple(pred.shape)}, got {tuple(ref.shape)}"
        )
    if ref.device != pred.device:
        raise ValueError(f"ref: expected the device of pred, {pred.device}, got {ref.device}")


def _check_numbers(
    name: str, numbers: Sequence[float], expected: str, is_valid: Callable[[float], bool]
) -> None:
    for number in numbers:
        if not is_valid(number):
            raise ValueError(f"{name}: expected {expected}, got {number!r}")


def _resolve(backend: str, device: torch.device) -> str:
    if backend != "auto":
        return _ext.resolve_backend(backend, device)
    return _ext.resolve_backend(backend, torch.device("cpu"))
