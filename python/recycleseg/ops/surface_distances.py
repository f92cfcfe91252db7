"""Distances between the surfaces of structures in two label maps, or in two sets of masks.

Hausdorff distance, average surface distances and surface Dice follow from these numbers alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recycleseg import _ext
from recycleseg.ops._backend import resolve_backend
from recycleseg.ops._checks import choice, integers, numbers, same_map
from recycleseg.ops._surfaces import (
    Query,
    Surface,
    bounding_boxes,
    empty_result,
    measure,
    slice_as_image,
    slice_axis,
)
from recycleseg.ops.distance_transform import MAX_SPACING, MIN_SPACING, distance_transform

DEFINITIONS = ("voxel", "surfel")
_PAIRS_AT_ONCE = 1 << 20

Labels = Sequence[int | tuple[int, ...]]


class SurfaceDistances(NamedTuple):
    """Statistics of surface distances in mm; see :func:`surface_distances`.

    Attributes:
        directed: float64 (B, C, 2, 3 + P + K), P percentiles and K tolerances. Along axis 2: from
            pred to ref, from ref to pred. Along the last axis: size of the surface that is measured
            from (in voxels; for "surfel" in mm^2, in 2D mm), mean distance, maximum, the P
            percentiles, and for each tolerance the size of the part of that surface within it.
        pooled: float64 (B, C, P), percentiles of the distances of both directions together; NaN for
            "surfel".
    """

    directed: Tensor
    pooled: Tensor


class StructureCounts(NamedTuple):
    """Voxels of the structures of a batch, all int64; see :func:`count_and_measure`.

    Attributes:
        counts: (B, C, 3), in both maps, in pred, in ref.
        coordinate_sums: (B, C, 2, D), of the voxels' indices along each axis of S, in pred, in ref.
        unlisted: (2), voxels of pred and of ref with a label that is neither 0 nor in a structure.
    """

    counts: NDArray[np.int64]
    coordinate_sums: NDArray[np.int64]
    unlisted: NDArray[np.int64]


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
            of one shape and device. Each may be bool, uint8, int16, int32 or int64. S has 2 or 3
            axes. An axis of one voxel carries no surface: a volume of one slice, (x, y, 1) or
            (1, y, x), is measured as the 2D image of that slice, contour to contour.
        labels: the C structures of label maps: each a label value, or a tuple of values whose union
            it is. Structures may overlap, and labels that belong to none are background.
        spacing: mm between voxel centres along each axis of S, in the order of the axes;
            from 1e-9 to 1e9.
        tolerances: in mm; a distance d is within one if d <= tolerance * (1 + 1e-6), so that voxel
            sizes and tolerances in float32 and in float64 give the same.
        percentiles: from 0 to 100.
        definition: "voxel": the surface is made of the structure's voxels with a face neighbour
            outside it; distances d^2 = sum_i (n_i spacing_i)^2 between voxel centres, n integer;
            every voxel weighs the same, percentiles are interpolated linearly (NumPy's default).
            "surfel": as DeepMind's surface-distance: the surface is made of the corners between
            2x2(x2) voxels of which some are inside and some outside; distances between corners;
            each weighs the area (in 2D the length) that marching cubes finds in its cell. A
            percentile is the first distance, in rising order, at which that share of the area is
            reached, to 1e-6 of the areas.
        border_is_outside: whether what lies beyond the volume counts as outside a structure, so
            that a structure cut off by the volume's border has a surface there. "surfel" knows no
            other way.
        backend: "cpp" (threads: `torch.get_num_threads()`); "cuda": torch and
            :func:`distance_transform` on the device, for spacing from 1e-9 to 1e9 mm; "reference"
            (quadratic: for tests); or "auto", the best that was built. Where that is not "cuda",
            "auto" copies tensors on a GPU to the CPU, if the extension was built at all, and the
            result back.

    Memory besides the arguments, with "cpp": for each structure that is being measured, half a byte
    for each voxel of the box around it (three quarters if voxels are longer along the last axis
    than along the one before) and 32 KiB. Structures are measured at the same time while their
    boxes have together no more voxels than the volume, or than 4 million if that is more. Each
    different distance takes about 50 bytes. If distances are long, each 4x4x4 cell with surface
    takes about 25 bytes. A tensor that is not contiguous is copied.
    With "cuda": for one structure after the other, 12 bytes for each voxel of the box around it
    and one voxel on each side, and some 100 bytes for each voxel or corner of its two surfaces;
    first, to find the boxes, 5 bytes for each voxel of a volume. The host waits for the device once
    for all boxes, and once for each surface.

    Returns:
        :class:`SurfaceDistances` on the device of pred. A surface that is empty has size 0 and 0
        within each tolerance, all else NaN; where only the other one is empty, mean, maximum and
        percentiles are inf and 0 is within each tolerance. pooled is NaN where both are empty, inf
        where one is.

    Raises:
        ValueError: an argument does not meet its description, or the backend does not serve the
            device.
        RuntimeError: the backend was not built.
    """
    integers("pred", pred)
    integers("ref", ref)
    num_axes = pred.ndim - (2 if labels is None else 1)
    _check_maps(pred, ref, "(B, *S)" if labels is not None else "(B, C, *S)", num_axes)
    sizes = _numbers(
        "spacing",
        spacing,
        f"mm from {MIN_SPACING} to {MAX_SPACING}",
        lambda s: MIN_SPACING <= s <= MAX_SPACING,
    )
    if len(sizes) != num_axes:
        raise ValueError(
            f"spacing: expected {num_axes} numbers, one for each axis of S in "
            f"{tuple(pred.shape)}, got {len(sizes)}"
        )
    limits = _numbers("tolerances", tolerances, "finite mm from 0 on", lambda t: 0 <= t < math.inf)
    shares = _numbers("percentiles", percentiles, "0 to 100", lambda p: 0 <= p <= 100)
    choice("definition", definition, DEFINITIONS)
    if definition == "surfel" and not border_is_outside:
        raise ValueError("border_is_outside: expected True for definition='surfel', got False")
    structures = _structures(labels)
    directed, pooled = _surface_distances(
        pred,
        ref,
        None if structures is None else [value for values in structures for value in values],
        None if structures is None else [len(values) for values in structures],
        sizes,
        limits,
        shares,
        definition == "surfel",
        border_is_outside,
        _resolve(backend, pred.device),
    )
    return SurfaceDistances(directed, pooled)


def count_and_measure(
    pred: NDArray[Any],
    ref: NDArray[Any],
    *,
    labels: Labels | None,
    spacing: Sequence[float],
    tolerances: Sequence[float],
    percentiles: Sequence[float],
    definition: str = "voxel",
    border_is_outside: bool = True,
) -> tuple[StructureCounts, NDArray[np.float64], NDArray[np.float64]]:
    """The structures' voxels and, from the same reading of the maps, `directed` and `pooled` of
    :func:`surface_distances`, by "cpp": of arrays that are not empty, for callers that have checked
    the arguments. The distances are not set where a label is unlisted.
    """
    query = Query(
        _structures(labels),
        spacing,
        tolerances,
        percentiles,
        definition == "surfel",
        border_is_outside,
    )
    head = (pred.shape[0], query.num_structures(pred.shape))
    across = slice_axis(pred.shape[-len(spacing) :])
    pred, ref, query = slice_as_image(pred, ref, query)
    counts = StructureCounts(
        np.empty((*head, 3), np.int64),
        np.empty((*head, 2, len(query.spacing)), np.int64),
        np.empty(2, np.int64),
    )
    directed = np.empty((*head, 2, 3 + len(percentiles) + len(tolerances)))
    pooled = np.empty((*head, len(percentiles)))
    arrays = (np.ascontiguousarray(pred), np.ascontiguousarray(ref), directed, pooled, *counts)
    _run_extension(query, *(x.__dlpack__() for x in arrays))
    if across is not None:  # where every index is 0
        sums = np.insert(counts.coordinate_sums, across, 0, axis=-1)
        counts = counts._replace(coordinate_sums=sums)
    return counts, directed, pooled


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
    query = Query(
        _structures(labels),
        spacing,
        tolerances,
        percentiles,
        definition == "surfel",
        border_is_outside,
    )
    return SurfaceDistances(*_measure_by_pairs(*slice_as_image(pred, ref, query)))


def _measure_by_pairs(pred: Tensor, ref: Tensor, query: Query) -> tuple[Tensor, Tensor]:
    return measure(pred, ref, query, None, _nearest_of_pairs)


def _nearest_of_pairs(own: Surface, other: Surface, spacing: Sequence[float]) -> Tensor:
    scale = torch.tensor(spacing, dtype=torch.float64, device=own.points.device)
    if len(other.points) == 0:
        return torch.full_like(own.weights, math.inf)
    nearest = [
        ((part[:, None] - other.points[None]) * scale).square().sum(-1).amin(1)
        for part in own.points.split(max(1, _PAIRS_AT_ONCE // len(other.points)))
    ]
    return torch.cat(nearest).sqrt()


def _measure_by_transforms(pred: Tensor, ref: Tensor, query: Query) -> tuple[Tensor, Tensor]:
    """The "cuda" backend: torch and distance_transform, on whatever device the maps are."""
    boxes = bounding_boxes(pred, ref, query)
    return measure(pred, ref, query, boxes, _nearest_by_transform)


def _nearest_by_transform(own: Surface, other: Surface, spacing: Sequence[float]) -> Tensor:
    if len(other.points) == 0:
        return torch.full_like(own.weights, math.inf)
    distance = distance_transform(~other.grid[None], spacing=spacing)[0]
    return distance[own.points.unbind(1)].double()


def _measure_by_extension(pred: Tensor, ref: Tensor, query: Query) -> tuple[Tensor, Tensor]:
    """The "cpp" backend."""
    directed, pooled = empty_result(
        pred, query.num_structures(pred.shape), len(query.percentiles), len(query.tolerances)
    )
    tensors = (pred.contiguous(), ref.contiguous(), directed, pooled)
    _run_extension(query, *map(_ext.capsule, tensors))
    return directed, pooled


def _run_extension(
    query: Query, pred: object, ref: object, directed: object, pooled: object, *counts: object
) -> None:
    """Fills the tensors of the DLPack capsules `directed`, `pooled` and, of a StructureCounts or
    none, `counts`.
    """
    threads = torch.get_num_threads()
    _ext.C.surface_distances_cpu(pred, ref, query, directed, pooled, threads, counts)


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
    query = Query(structures, spacing, tolerances, percentiles, surfel, border_is_outside)
    pred, ref, query = slice_as_image(pred, ref, query)
    if backend == "reference" or pred.numel() == 0:
        return _measure_by_pairs(pred, ref, query)
    if backend == "cuda":
        return _measure_by_transforms(pred, ref, query)
    directed, pooled = _measure_by_extension(pred.cpu(), ref.cpu(), query)
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
    return empty_result(pred, num_structures, len(percentiles), len(tolerances))


def _structures(labels: Labels | None) -> list[tuple[int, ...]] | None:
    if labels is None:
        return None
    entries = labels if isinstance(labels, Sequence) and not isinstance(labels, str) else ()
    structures = [tuple(e) if isinstance(e, Sequence) else (e,) for e in entries]
    if not structures or not all(structures):
        raise ValueError(
            f"labels: expected at least one structure, each of at least one label, got {labels!r}"
        )
    for values in structures:
        for value in values:
            if type(value) is not int or not -(2**63) <= value < 2**63:
                raise ValueError(f"labels: expected integers of 64 bits, got {value!r}")
    return structures


def _check_maps(pred: Tensor, ref: Tensor, shape: str, num_axes: int) -> None:
    if num_axes not in (2, 3):
        raise ValueError(
            f"pred: expected shape {shape} where S has 2 or 3 axes, got {tuple(pred.shape)}"
        )
    same_map(pred, ref)


def _numbers(
    name: str, values: Sequence[float], expected: str, is_valid: Callable[[float], bool]
) -> list[float]:
    found = numbers(name, values)
    for number in found:
        if not is_valid(number):
            raise ValueError(f"{name}: expected {expected}, got {number!r}")
    return found


def _resolve(backend: str, device: torch.device) -> str:
    if backend == "auto" and not (device.type == "cuda" and _ext.HAS_CUDA):
        device = torch.device("cpu")
    return resolve_backend(backend, device)
