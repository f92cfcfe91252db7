"""What is measured of two maps, from which every metric follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recycleseg.ops._backend import resolve_backend
from recycleseg.ops.overlap_counts import overlap_counts
from recycleseg.ops.surface_distances import count_and_measure, surface_distances

_CPU = torch.device("cpu")
# The labels of each structure, without repetition.
Structures = list[tuple[int, ...]]
# In host memory an array, so that one case does not wait for torch; on a GPU a tensor.
Maps = NDArray[Any] | Tensor


class Measured(NamedTuple):
    """Of C structures in a batch of B cases with D axes.

    Attributes:
        counts: int64 (B, C, 3), voxels in both maps, in pred, in ref.
        coordinate_sums: int64 (B, C, 2, D), sums of these voxels' indices, in pred and in ref.
        distances: definition -> `directed` and `pooled` of recycleseg.ops.surface_distances,
            float64.
    """

    counts: NDArray[Any]
    coordinate_sums: NDArray[Any]
    distances: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


def device_of(maps: Maps) -> torch.device:
    """Where the maps are."""
    return _CPU if isinstance(maps, np.ndarray) else maps.device


def measure(
    pred: Maps,
    ref: Maps,
    structures: Structures | None,
    *,
    spacing: Sequence[float],
    tolerances: Sequence[float],
    percentile: float,
    definitions: Sequence[str],
    border_is_outside: bool,
    backend: str,
) -> Measured:
    """Measure label maps (B, *S), or bool masks (B, C, *S) where `structures` is None.

    The other arguments are those of recycleseg.evaluate, which has checked them.

    Raises:
        ValueError: a label is neither 0 nor in a structure.
        RuntimeError: the backend was not built.
    """
    options: dict[str, Any] = {
        "labels": structures,
        "spacing": spacing,
        "tolerances": tolerances,
        "percentiles": (percentile,),
        "border_is_outside": border_is_outside,
    }
    others, measured = list(definitions), {}
    compiled = resolve_backend(backend, device_of(pred)) == "cpp"
    if compiled and others and isinstance(pred, np.ndarray) and isinstance(ref, np.ndarray):
        first = others.pop(0)
        counted, directed, pooled = count_and_measure(pred, ref, definition=first, **options)
        if structures is not None and counted.unlisted.any():
            _structure_counts(*_tensors(pred, ref), structures, backend)  # raises, naming a label
        counts, sums = counted.counts, counted.coordinate_sums
        measured[first] = (directed, pooled)
    else:
        counts, sums = (
            _mask_counts(*_tensors(pred, ref), backend)
            if structures is None
            else _structure_counts(*_tensors(pred, ref), structures, backend)
        )
    for definition in others:
        distances = surface_distances(
            *_tensors(pred, ref), definition=definition, backend=backend, **options
        )
        measured[definition] = (distances.directed.cpu().numpy(), distances.pooled.cpu().numpy())
    return Measured(counts, sums, measured)


def _tensors(pred: Maps, ref: Maps) -> tuple[Tensor, Tensor]:
    return torch.as_tensor(pred), torch.as_tensor(ref)


def _mask_counts(pred: Tensor, ref: Tensor, backend: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Counts (B, C, 3) and sums of indices (B, C, 2, D) of masks (B, C, *S)."""
    counts, sums = overlap_counts(
        pred.flatten(0, 1), ref.flatten(0, 1), 2, coordinate_sums=True, backend=backend
    )
    head = pred.shape[:2]
    return (
        counts[:, 1].unflatten(0, head).cpu().numpy(),
        sums[:, 1].unflatten(0, head).cpu().numpy(),
    )


def _structure_counts(
    pred: Tensor, ref: Tensor, structures: Structures, backend: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Counts (B, C, 3) and sums of indices (B, C, 2, D) of unions of labels in maps (B, *S)."""
    values = sorted({value for structure in structures for value in structure})
    # Any label of a byte is counted, so that one that is not listed can be named.
    num_classes = max(values[-1] + 1, 256)
    counts, sums = (
        t.cpu().numpy()
        for t in overlap_counts(pred, ref, num_classes, coordinate_sums=True, backend=backend)
    )
    listed = {0, *values}
    if int(counts[:, list(listed), 1:].sum()) != 2 * pred.numel():
        _refuse_labels(counts, values)
    if all(len(structure) == 1 for structure in structures):
        alone = [structure[0] for structure in structures]
        return counts[:, alone], sums[:, alone]
    confusion = _confusion(pred, ref, values)
    position = {value: i for i, value in enumerate(values)}
    united = np.stack([counts[:, s].sum(1) for s in structures], axis=1)
    for c, structure in enumerate(structures):
        at = [position[value] for value in structure]
        united[:, c, 0] += confusion[:, at][:, :, at].sum((1, 2))
    return united, np.stack([sums[:, s].sum(1) for s in structures], axis=1)


def _refuse_labels(counts: NDArray[Any], values: list[int]) -> None:
    """Raise ValueError naming a label that is not listed; there is one in counts (B, C, 3)."""
    others = np.ones(counts.shape[1], dtype=bool)
    others[[0, *values]] = False
    for column, name in ((1, "pred"), (2, "ref")):
        voxels = np.where(others, counts[..., column].sum(0), 0)
        if voxels.any():
            value = int(voxels.argmax())
            raise ValueError(
                f"{name}: expected 0 and the labels {', '.join(map(str, values))}, "
                f"got {value} ({voxels[value]} voxels)"
            )


def _confusion(pred: Tensor, ref: Tensor, values: list[int]) -> NDArray[Any]:
    """(B, V, V): voxels with label values[i] in pred and another one, values[j], in ref."""
    num = len(values) + 1  # the last for what is in no structure
    position = torch.full((values[-1] + 1,), num - 1, device=pred.device)
    position[values] = torch.arange(num - 1, device=pred.device)
    rows = []
    for p, r in zip(pred, ref, strict=True):
        at = (p != r).flatten().nonzero().squeeze(1)
        joint = position[p.flatten()[at].long()] * num + position[r.flatten()[at].long()]
        rows.append(torch.bincount(joint, minlength=num * num).view(num, num)[:-1, :-1])
    return torch.stack(rows).cpu().numpy()
