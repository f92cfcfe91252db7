"""What is measured of two maps, from which every metric follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recycleseg.classes import MAX_CLASSES
from recycleseg.files import shortened
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
            _refuse_labels(*_tensors(pred, ref), _listed(structures))
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


def _listed(structures: Structures) -> list[int]:
    """All values that a map may hold, rising."""
    return sorted({0, *(value for structure in structures for value in structure)})


def _structure_counts(
    pred: Tensor, ref: Tensor, structures: Structures, backend: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Counts (B, C, 3) and sums of indices (B, C, 2, D) of unions of labels in maps (B, *S)."""
    values = _listed(structures)
    counts, sums = _label_counts(pred, ref, values, backend)
    if int(counts[..., 1:].sum()) != 2 * pred.numel():
        _refuse_labels(pred, ref, values)
    position = {value: i for i, value in enumerate(values)}
    places = [[position[value] for value in structure] for structure in structures]
    if all(len(at) == 1 for at in places):
        alone = [at[0] for at in places]
        return counts[:, alone], sums[:, alone]
    united = np.stack([counts[:, at].sum(1) for at in places], axis=1)
    for b, (in_pred, in_ref, voxels) in enumerate(_confusions(pred, ref, values)):
        for c, at in enumerate(places):
            united[b, c, 0] += voxels[np.isin(in_pred, at) & np.isin(in_ref, at)].sum()
    return united, np.stack([sums[:, at].sum(1) for at in places], axis=1)


def _label_counts(
    pred: Tensor, ref: Tensor, values: list[int], backend: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Counts (B, V, 3) and sums of indices (B, V, 2, D) of the V rising values in maps (B, *S)."""
    parts = []
    for start in range(0, len(values), MAX_CLASSES - 1):
        part = values[start : start + MAX_CLASSES - 1]
        places = [_places(maps, part) for maps in (pred, ref)]
        counted = overlap_counts(
            places[0], places[1], len(part) + 1, coordinate_sums=True, backend=backend
        )
        parts.append([x[:, :-1].cpu().numpy() for x in counted])
    counts, sums = zip(*parts, strict=True)
    return np.concatenate(counts, axis=1), np.concatenate(sums, axis=1)


def _places(maps: Tensor, values: list[int]) -> Tensor:
    """Of each voxel the place of its value among V rising values, or V; whatever the values are."""
    table = torch.tensor(values, device=maps.device)
    wide = maps.long().contiguous()  # torch warns of other memory orders
    places = torch.searchsorted(table, wide, out_int32=True)
    return places.masked_fill_(table[places.clamp(max=len(values) - 1)] != wide, len(values))


def _confusions(
    pred: Tensor, ref: Tensor, values: list[int]
) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Of each sample, for each pair of different values that meet, the place of that in pred, of
    that in ref, and in how many voxels.
    """
    for maps in zip(pred, ref, strict=True):
        differs = maps[0] != maps[1]
        in_pred, in_ref = (_places(x[differs], values).long() for x in maps)
        pairs, voxels = torch.unique(in_pred * len(values) + in_ref, return_counts=True)
        at = pairs.cpu().numpy()
        yield at // len(values), at % len(values), voxels.cpu().numpy()


def _refuse_labels(pred: Tensor, ref: Tensor, values: list[int]) -> NoReturn:
    """Raise ValueError naming a label that is not listed; there is one in a map."""
    name, (found, voxels) = "pred", _unlisted(pred, values)
    if len(found) == 0:
        name, (found, voxels) = "ref", _unlisted(ref, values)
    most = int(voxels.argmax())
    raise ValueError(
        f"{name}: expected 0 and the labels {shortened([v for v in values if v != 0], 20)}, "
        f"got {int(found[most])} ({int(voxels[most])} voxels)"
    )


def _unlisted(maps: Tensor, values: list[int]) -> tuple[Tensor, Tensor]:
    """The values in a map that are not listed, and the number of voxels of each."""
    others = maps.long()[_places(maps, values) == len(values)]
    found: tuple[Tensor, Tensor] = torch.unique(others, return_counts=True)
    return found
