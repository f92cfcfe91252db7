"""All metrics of a segmentation at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recycleseg.classes import IGNORE, MAX_LABEL, split_ignore
from recycleseg.metrics.maps import (
    count_axes,
    in_memory_order,
    integer_maps,
    is_bool,
    paired,
    without,
)
from recycleseg.metrics.measure import Structures, measure
from recycleseg.metrics.overlap import in_one_map, outcomes, overlap_metrics
from recycleseg.metrics.scores import Scores
from recycleseg.metrics.surface import surface_metrics, tolerance_names
from recycleseg.ops._checks import flag, is_integer, numbers
from recycleseg.ops.distance_transform import MAX_SPACING, MIN_SPACING
from recycleseg.ops.surface_distances import DEFINITIONS
from recycleseg.units import steps, unit_of


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
    batched: bool = False,
    backend: str = "auto",
) -> Scores:
    """Compare a segmentation, or a batch of them, with a reference.

    Args:
        pred, ref: NumPy arrays without a mask, torch tensors on a CPU or a GPU, or anything with
            `__dlpack__`; booleans or integers, of one shape. Where `labels` is a mapping: label
            maps (*S). Where it is a sequence: masks (C, *S), nonzero inside. S has 2 or 3 axes. Of
            a volume of one slice, such as (x, y, 1), surfaces are those of the 2D image, because
            an axis of one voxel carries no surface.
        spacing: mm between voxels along each axis of S, in the order of the array's axes. None
            means unknown: then all lengths (also `tolerance_mm`) are in pixels, the steps from
            voxel to voxel.
        labels: name -> label value of each structure, from 0 on, or a tuple of values whose union
            it is; structures may overlap. Or the names of the C masks. As in nnU-Net, the name
            "ignore" stands for voxels that count nowhere: where ref has this value, which is above
            all others, both maps are background. So surfaces end there.
        tolerance_mm: of surface Dice. One number gives "nsd"; a sequence "nsd_1mm", "nsd_2mm" ...
            (in pixels "nsd_1pixels", "nsd_2pixels" ...). A distance that equals it but for the
            rounding of float32 is within it.
        percentile: of the Hausdorff distance, whose name it gives: 95 is "hd95".
        definitions: "voxel", "surfel" or both; see recycleseg.ops.surface_distances. Names of
            "surfel" metrics begin with "surfel_".
        border_is_outside: whether a structure cut off by the volume's border has a surface there.
        batched: whether pred and ref are B cases along an axis before all others: (B, *S), or
            (B, C, *S) for masks. It must be said, because 2D images cannot be told from a volume.
        backend: of the operations: "auto", "cpp", "cuda" or "reference".

    Returns:
        Scores: label -> metric -> float, of a batch an array (B,). Metrics: dice, iou, precision,
        recall; pred_volume_ml, ref_volume_ml (2D: pred_area_mm2, ref_area_mm2; without spacing:
        pred_volume_voxels, ref_volume_voxels, pred_area_pixels, ref_area_pixels); in mm (without
        spacing in pixels), centroid_distance, hd, hd95 (the larger of the two directed
        percentiles), assd (mean over both surfaces together), masd (mean of the directed means),
        mean_pred_to_ref, mean_ref_to_pred, hd95_pooled (percentile of both directions' distances
        together); nsd. Where neither map has a structure all but its size is NaN. Where only one
        has it, dice, iou, precision, recall and nsd are 0, and all distances inf; so are nsd and
        the distances of surfaces where both have it and only one has a surface. Where both fill
        the volume and `border_is_outside` is False, there is no surface to compare: NaN.

    Raises:
        TypeError: pred or ref is no array.
        ValueError: an argument does not meet its description, or a label map holds a label that is
            neither 0 nor in `labels`.
        RuntimeError: the backend was not built.
    """
    names, structures, ignore_label = _structures(labels)
    pred, ref = integer_maps("pred", pred), integer_maps("ref", ref)
    batched = flag("batched", batched)
    border_is_outside = flag("border_is_outside", border_is_outside)
    unit = unit_of(spacing)
    given = None if spacing is None else tuple(numbers("spacing", spacing))
    tolerances = tuple(numbers("tolerance_mm", tolerance_mm))
    percentile = _percentile(percentile)
    nsd_names = tolerance_names(tolerances, single=np.ndim(tolerance_mm) == 0, unit=unit)
    if structures and max(map(max, structures)) > 1 and is_bool(pred) and is_bool(ref):
        raise ValueError(
            f"labels: expected names alone, one for each mask, for boolean arrays (C, *S), "
            f"got {labels!r}: a mapping from names to labels is for label maps"
        )
    sizes = steps(given, count_axes(pred, given, batched, structures is None))
    _check_options(sizes, tolerances, nsd_names, definitions, border_is_outside)
    pred_maps, ref_maps = paired(pred, ref, batched, None if structures else names)
    num_voxels: int | NDArray[np.int64] = math.prod(pred_maps.shape[-len(sizes) :])
    if ignore_label is not None:
        pred_maps, ref_maps, num_voxels = without(ignore_label, pred_maps, ref_maps)
    if "surfel" not in definitions:  # whose areas depend on the order of axes
        pred_maps, ref_maps, spacing_of_maps = in_memory_order(pred_maps, ref_maps, sizes)
    else:
        spacing_of_maps = sizes
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
            directed,
            pooled,
            percentile=percentile,
            tolerances=[*nsd_names],
            definition=definition,
            in_one_map=in_one_map(measured.counts),
        )
    return Scores(
        labels=names,
        table=table,
        batched=batched,
        spacing=given,
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
    if not isinstance(labels, (Mapping, Sequence)) or isinstance(labels, str) or not labels:
        raise ValueError(
            "labels: expected a mapping from names to labels, or a sequence of names of masks, "
            f"got {labels!r}"
        )
    if not isinstance(labels, Mapping):
        names = tuple(labels)
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
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
        if not isinstance(name, str):
            raise ValueError(f"labels: expected text as the name of a structure, got {name!r}")
        values = entry if isinstance(entry, Sequence) else (entry,)
        if isinstance(values, str) or not values:
            raise ValueError(
                f"labels[{name!r}]: expected a label or a tuple of them, got {entry!r}"
            )
        for value in values:
            if not _is_label(value):
                raise ValueError(
                    f"labels[{name!r}]: expected integers from 0 to {MAX_LABEL}, one or a "
                    f"tuple of them, got {value!r}"
                )
        structures.append(tuple(sorted({int(value) for value in values})))
    highest = max(map(max, structures), default=0)
    if ignore_label is not None and not (_is_label(ignore_label) and highest < ignore_label):
        raise ValueError(
            f"labels[{IGNORE!r}]: expected the highest value, an integer above {highest} and up to "
            f"{MAX_LABEL}, got {ignore_label!r}"
        )
    if not structures:
        raise ValueError(f"labels: expected a structure beside {IGNORE!r}, got none")
    return tuple(labels), structures, ignore_label


def _is_label(value: Any) -> bool:
    return is_integer(value) and 0 <= value <= MAX_LABEL


def _percentile(percentile: Any) -> float:
    found = numbers("percentile", percentile)
    if np.ndim(percentile) != 0 or not 0 <= found[0] <= 100:
        raise ValueError(f"percentile: expected one number from 0 to 100, got {percentile!r}")
    return found[0]


def _check_options(
    spacing: tuple[float, ...],
    tolerances: tuple[float, ...],
    nsd_names: dict[str, float],
    definitions: Sequence[str],
    border_is_outside: bool,
) -> None:
    if not all(MIN_SPACING <= s <= MAX_SPACING for s in spacing):
        raise ValueError(f"spacing: expected mm from {MIN_SPACING} to {MAX_SPACING}, got {spacing}")
    if not all(0 <= t < math.inf for t in tolerances) or len(nsd_names) != len(tolerances):
        raise ValueError(f"tolerance_mm: expected different, finite mm from 0 on, got {tolerances}")
    known = isinstance(definitions, Sequence) and not isinstance(definitions, str)
    if not known or not all(definition in DEFINITIONS for definition in definitions):
        raise ValueError(f"definitions: expected a tuple of {DEFINITIONS}, got {definitions!r}")
    if len(set(definitions)) < len(definitions):
        raise ValueError(f"definitions: expected different ones, got {definitions!r}")
    if "surfel" in definitions and not border_is_outside:
        raise ValueError("border_is_outside: expected True for definition 'surfel', got False")
