"""All metrics of a segmentation at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recycleseg.classes import IGNORE, MAX_CLASSES, split_ignore
from recycleseg.metrics.measure import Maps, Structures, device_of, measure
from recycleseg.metrics.overlap import outcomes, overlap_metrics
from recycleseg.metrics.scores import Scores
from recycleseg.metrics.surface import surface_metrics, tolerance_names
from recycleseg.ops.distance_transform import MAX_SPACING, MIN_SPACING
from recycleseg.ops.surface_distances import DEFINITIONS
from recycleseg.units import steps, unit_of

# The dtype that holds the values of one that the operations do not take.
_WIDER = {
    torch.int8: torch.int16,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.uint64: torch.int64,
}
_WIDER_IN_NUMPY = {"i1": np.int16, "u2": np.int32, "u4": np.int64, "u8": np.int64}


def evaluate(
    pred: Any,
    ref: Any,
    *,
    spacing: Sequence[float] | None,
    labels: Mapping[str, int | tuple[int, ...]] | Sequence[str],
    tolerance_mm: float | Sequence[float] = 1.0,
    percentile: float = 95.0,
    definitions: Sequence[str] = ("voxel",),
    border_is_outside: bool = True,
    backend: str = "auto",
) -> Scores:
    """Compare a segmentation, or a batch of them, with a reference.

    Args:
        pred, ref: NumPy arrays, torch tensors on a CPU or a GPU, or anything with `__dlpack__`;
            booleans or integers, of one shape. Where `labels` is a mapping: label maps (*S), or a
            batch (B, *S). Where it is a sequence: masks (C, *S) or (B, C, *S), nonzero inside. S
            has as many axes as `spacing` has numbers, 2 or 3; one axis more makes a batch. Of a
            volume of one slice, such as (x, y, 1), surfaces are those of the 2D image, because an
            axis of one voxel carries no surface.
        spacing: mm between voxels along each axis of S, in the order of the array's axes. None
            means unknown: then pred and ref are one case, not a batch, and all lengths (also
            `tolerance_mm`) are in pixels, the steps from voxel to voxel.
        labels: name -> label value of each structure, from 0 to 4095, or a tuple of values whose
            union it is; structures may overlap. Or the names of the C masks. As in nnU-Net, the
            name "ignore" stands for voxels that count nowhere: where ref has this value, which is
            above all others, both maps are background. So surfaces end there.
        tolerance_mm: of surface Dice. One number gives "nsd"; a sequence "nsd_1mm", "nsd_2mm" ...
            (in pixels "nsd_1pixels", "nsd_2pixels" ...).
        percentile: of the Hausdorff distance, whose name it gives: 95 is "hd95".
        definitions: "voxel", "surfel" or both; see recycleseg.ops.surface_distances. Names of
            "surfel" metrics begin with "surfel_".
        border_is_outside: whether a structure cut off by the volume's border has a surface there.
        backend: of the operations: "auto", "cpp", "cuda" or "reference".

    Returns:
        Scores: label -> metric -> float, of a batch an array (B,). Metrics: dice, iou, precision,
        recall; pred_volume_ml, ref_volume_ml (2D: pred_area_mm2, ref_area_mm2; without spacing:
        pred_volume_voxels, ref_volume_voxels, pred_area_pixels, ref_area_pixels); in mm (without
        spacing in pixels), centroid_distance, hd, hd95 (the larger of the two directed
        percentiles), assd (mean over both surfaces together), masd (mean of the directed means),
        mean_pred_to_ref, mean_ref_to_pred, hd95_pooled (percentile of both directions' distances
        together); nsd. Where neither map has a structure all but its size is NaN. Where only one
        has it, dice, iou, precision, recall and nsd are 0, and all distances inf.

    Raises:
        TypeError: pred or ref is no array.
        ValueError: an argument does not meet its description, or a label map holds a label that is
            neither 0 nor in `labels`.
        RuntimeError: the backend was not built.
    """
    names, structures, ignore_label = _structures(labels)
    pred, ref = _array("pred", pred), _array("ref", ref)
    unit = unit_of(spacing)
    sizes = _steps(pred, structures) if spacing is None else _numbers("spacing", spacing)
    tolerances = _numbers("tolerance_mm", tolerance_mm)
    percentile = _numbers("percentile", percentile)[0] if np.ndim(percentile) == 0 else math.nan
    if not 0 <= percentile <= 100:
        raise ValueError("percentile: expected one number from 0 to 100")
    nsd_names = tolerance_names(tolerances, single=np.ndim(tolerance_mm) == 0, unit=unit)
    _check_options(sizes, tolerances, nsd_names, definitions, border_is_outside)
    pred_maps, ref_maps, batched = _maps(pred, ref, len(sizes), None if structures else names)
    num_voxels: int | NDArray[np.int64] = math.prod(pred_maps.shape[-len(sizes) :])
    if ignore_label is not None:
        pred_maps, ref_maps, num_voxels = _without(ignore_label, pred_maps, ref_maps)
    if "surfel" not in definitions:  # whose areas depend on the order of axes
        pred_maps, ref_maps, spacing_of_maps = _in_memory_order(pred_maps, ref_maps, sizes)
    else:
        spacing_of_maps = sizes

    if batched and structures and max(map(max, structures)) > 1 and _is_bool(pred_maps):
        raise ValueError(
            f"labels: expected names alone, one for each mask, for boolean arrays (C, *S) as pred, "
            f"got {labels!r}: a mapping from names to labels is for label maps"
        )
    measured = measure(
        pred_maps,
        ref_maps,
        structures,
        spacing=spacing_of_maps,
        tolerances=tolerances,
        percentile=percentile,
        definitions=definitions,
        border_is_outside=border_is_outside,
        backend=backend,
    )
    table = overlap_metrics(measured.counts, measured.coordinate_sums, spacing_of_maps, unit)
    for definition, (directed, pooled) in measured.distances.items():
        table |= surface_metrics(
            directed, pooled, percentile=percentile, tolerances=[*nsd_names], definition=definition
        )
    return Scores(
        labels=names,
        table=table,
        batched=batched,
        spacing=None if spacing is None else sizes,
        unit=unit,
        tolerances_mm=tolerances,
        percentile=percentile,
        definitions=tuple(definitions),
        border_is_outside=border_is_outside,
        outcomes=outcomes(measured.counts, num_voxels),
    )


def _structures(
    labels: Mapping[str, int | tuple[int, ...]] | Sequence[str],
) -> tuple[tuple[str, ...], Structures | None, int | None]:
    """Names, the label values of each structure (None for masks), and the ignore label."""
    if not isinstance(labels, Mapping | Sequence) or isinstance(labels, str) or not labels:
        raise ValueError(
            "labels: expected a mapping from names to labels, or a sequence of names of masks, "
            f"got {labels!r}"
        )
    if not isinstance(labels, Mapping):
        names = tuple(labels)
        if len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
            raise ValueError(
                "labels: expected different names, one for each mask, or for label maps a mapping "
                f"from names to labels, got {labels!r}"
            )
        if IGNORE in names:
            raise ValueError(
                f"labels: expected no mask {IGNORE!r}, because it stands for voxels that count "
                f"nowhere: set all masks to 0 there; got {labels!r}"
            )
        return names, None, None
    labels, ignore_label = split_ignore(labels)
    structures = []
    for name, entry in labels.items():
        values = entry if isinstance(entry, Sequence) else (entry,)
        if isinstance(values, str) or not values:
            raise ValueError(
                f"labels[{name!r}]: expected a label or a tuple of them, got {entry!r}"
            )
        for value in values:
            if not isinstance(value, int | np.integer) or not 0 <= value < MAX_CLASSES:
                raise ValueError(
                    f"labels[{name!r}]: expected integers from 0 to {MAX_CLASSES - 1}, one or a "
                    f"tuple of them, got {value!r}"
                )
        structures.append(tuple(sorted({int(value) for value in values})))
    highest = max(map(max, structures), default=0)
    if ignore_label is not None and not (
        isinstance(ignore_label, int | np.integer) and highest < ignore_label < MAX_CLASSES
    ):
        raise ValueError(
            f"labels[{IGNORE!r}]: expected the highest value, an integer above {highest} and below "
            f"{MAX_CLASSES}, got {ignore_label!r}"
        )
    if not structures:
        raise ValueError(f"labels: expected a structure beside {IGNORE!r}, got none")
    return tuple(labels), structures, ignore_label


def _steps(pred: Maps, structures: Structures | None) -> tuple[float, ...]:
    """One pixel for each axis of S of one case."""
    num_axes = pred.ndim - (structures is None)
    if num_axes not in (2, 3):
        kind = "(C, *S)" if structures is None else "(*S)"
        raise ValueError(
            f"pred: expected one case {kind} with 2 or 3 axes in S, because spacing is None, got "
            f"shape {tuple(pred.shape)}"
        )
    return steps(None, num_axes)


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    """One number or several, as floats."""
    try:
        return tuple(np.asarray(values, dtype=np.float64).reshape(-1).tolist())
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected numbers, got {values!r}") from None


def _check_options(
    spacing: tuple[float, ...],
    tolerances: tuple[float, ...],
    nsd_names: dict[str, float],
    definitions: Sequence[str],
    border_is_outside: bool,
) -> None:
    if len(spacing) not in (2, 3):
        raise ValueError(f"spacing: expected 2 or 3 numbers, one per axis, got {spacing}")
    if not all(MIN_SPACING <= s <= MAX_SPACING for s in spacing):
        raise ValueError(f"spacing: expected mm from {MIN_SPACING} to {MAX_SPACING}, got {spacing}")
    if not all(0 <= t < math.inf for t in tolerances) or len(nsd_names) != len(tolerances):
        raise ValueError(f"tolerance_mm: expected different, finite mm from 0 on, got {tolerances}")
    known = isinstance(definitions, Sequence) and not isinstance(definitions, str)
    if not known or not set(definitions) <= set(DEFINITIONS):
        raise ValueError(f"definitions: expected a tuple of {DEFINITIONS}, got {definitions!r}")
    if len(set(definitions)) < len(definitions):
        raise ValueError(f"definitions: expected different ones, got {definitions!r}")
    if "surfel" in definitions and not border_is_outside:
        raise ValueError("border_is_outside: expected True for definition 'surfel', got False")


def _maps(
    pred: Maps, ref: Maps, num_axes: int, mask_names: tuple[str, ...] | None
) -> tuple[Maps, Maps, bool]:
    """Both with a batch axis, masks as bool; and whether they came with that axis."""
    one = num_axes + (mask_names is not None)
    if pred.ndim not in (one, one + 1):
        kind = "(*S) or (B, *S)" if mask_names is None else "(C, *S) or (B, C, *S)"
        raise ValueError(
            f"pred: expected shape {kind} with {num_axes} axes in S, as many as spacing has "
            f"numbers, got {tuple(pred.shape)}"
        )
    if ref.shape != pred.shape:
        raise ValueError(
            f"ref: expected the shape of pred, {tuple(pred.shape)}, got {tuple(ref.shape)}"
        )
    if (device := device_of(ref)) != device_of(pred):
        raise ValueError(f"ref: expected the device of pred, {device_of(pred)}, got {device}")
    if 0 in pred.shape:
        raise ValueError(f"pred: expected at least one voxel, got shape {tuple(pred.shape)}")
    batched = pred.ndim == one + 1
    if not batched:
        pred, ref = pred[None], ref[None]
    if mask_names is None:
        return pred, ref, batched
    if pred.shape[1] != len(mask_names):
        raise ValueError(
            f"labels: expected {pred.shape[1]} names, one for each mask of pred, "
            f"got {len(mask_names)}"
        )
    is_inside = [maps if _is_bool(maps) else maps != 0 for maps in (pred, ref)]
    return is_inside[0], is_inside[1], batched


def _without(ignore_label: int, pred: Maps, ref: Maps) -> tuple[Maps, Maps, NDArray[np.int64]]:
    """Maps (B, *S) that are 0 where ref has the ignore label, and the number (B, 1) of others."""
    if isinstance(ref, Tensor) and ref.dtype != torch.bool:
        # torch would wrap a value that the dtype cannot hold
        ignore_label = min(ignore_label, torch.iinfo(ref.dtype).max)
    known = ref != ignore_label
    number = torch.as_tensor(known).flatten(1).sum(1, keepdim=True).cpu().numpy()
    return pred * known, ref * known, number


def _array(name: str, x: Any) -> Maps:
    """x of a dtype that the operations take; copied only where DLPack cannot view it."""
    if not isinstance(x, np.ndarray):
        if not hasattr(x, "__dlpack__"):
            raise TypeError(
                f"{name}: expected a NumPy array, a torch tensor or an object with __dlpack__, "
                f"got {type(x).__name__}"
            )
        tensor = x.detach() if isinstance(x, Tensor) else torch.from_dlpack(x)
        if tensor.is_floating_point() or tensor.is_complex():
            raise ValueError(f"{name}: expected booleans or integers, got {tensor.dtype}")
        if tensor.device.type != "cpu":
            return tensor.to(_WIDER.get(tensor.dtype, tensor.dtype))
        x = tensor.numpy()
    if x.dtype.kind not in "biu":
        raise ValueError(f"{name}: expected booleans or integers, got {x.dtype}")
    if x.dtype.str[1:] in _WIDER_IN_NUMPY:
        x = x.astype(_WIDER_IN_NUMPY[x.dtype.str[1:]])
    viewable = x.flags.writeable and x.dtype.isnative and min(x.strides, default=0) >= 0
    return x if viewable else np.array(x, dtype=x.dtype.newbyteorder("="), order="K")


def _is_bool(maps: Maps) -> bool:
    return bool(maps.dtype == (np.bool_ if isinstance(maps, np.ndarray) else torch.bool))


def _in_memory_order(
    pred: Maps, ref: Maps, spacing: tuple[float, ...]
) -> tuple[Maps, Maps, tuple[float, ...]]:
    """The same maps with the axes of S in pred's order in memory, and the spacing so too.

    Files of medical images are read with the first axis fastest; no metric depends on the order of
    the axes, and so no copy in another order is needed.
    """
    first = pred.ndim - len(spacing)
    strides = pred.strides if isinstance(pred, np.ndarray) else pred.stride()
    order = sorted(range(len(spacing)), key=lambda axis: -strides[first + axis])
    if order == sorted(order):
        return pred, ref, spacing
    axes = [*range(first), *(first + axis for axis in order)]

    def ordered(maps: Maps) -> Maps:
        turned: Maps = maps.transpose(axes) if isinstance(maps, np.ndarray) else maps.permute(axes)
        return turned

    return ordered(pred), ordered(ref), tuple(spacing[axis] for axis in order)
