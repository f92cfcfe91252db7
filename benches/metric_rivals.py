"""What others compute of two label maps: Dice, HD95, ASSD and NSD of every class, each (4,).

All take the voxels with a face neighbour outside a structure as its surface, but for
`surface_distance`, which weighs by surface area. Where a class is missing they differ: not here.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from metric_masks import Labels
from numpy.typing import NDArray

Scores = NDArray[np.float64]  # (C, 4)
Mask = NDArray[np.bool_]
Spacing = tuple[float, ...]
Distances = tuple[NDArray[np.float64], NDArray[np.float64]]  # from pred to ref, from ref to pred


def ours(pred: Labels, ref: Labels, num_classes: int, spacing: Spacing, tolerance: float) -> Scores:
    """recycleseg.evaluate, whose further metrics come along."""
    import recycleseg as rs

    labels = {str(c): c for c in range(1, num_classes + 1)}
    scores = rs.evaluate(pred, ref, spacing=spacing, labels=labels, tolerance_mm=tolerance)
    names = ("dice", "hd95", "assd", "nsd")
    return np.array([[metrics[name] for name in names] for metrics in scores.values()])


def ours_op(
    pred: Labels, ref: Labels, num_classes: int, spacing: Spacing, tolerance: float
) -> Scores:
    """The two operations alone that recycleseg.evaluate is made of."""
    from recycleseg.ops import overlap_counts, surface_distances

    maps = torch.from_numpy(pred)[None], torch.from_numpy(ref)[None]
    counts = overlap_counts(*maps, num_classes + 1)[0, 1:].double()
    result = surface_distances(
        *maps, labels=range(1, num_classes + 1), spacing=spacing, tolerances=(tolerance,)
    )
    size, mean, _, percentile, within = result.directed[0].unbind(-1)  # each (C, 2)
    columns = (
        2 * counts[:, 0] / counts[:, 1:].sum(1),
        percentile.amax(1),
        (size * mean).sum(1) / size.sum(1),
        within.sum(1) / size.sum(1),
    )
    return torch.stack(columns, dim=1).numpy()


def monai(
    pred: Labels, ref: Labels, num_classes: int, spacing: Spacing, tolerance: float
) -> Scores:
    """MONAI, with the one-hot maps that it asks for."""
    from monai import metrics
    from monai.networks.utils import one_hot

    maps = [one_hot(torch.from_numpy(m)[None, None], num_classes + 1) for m in (pred, ref)]
    columns = (
        metrics.compute_dice(*maps, include_background=False),
        metrics.compute_hausdorff_distance(*maps, percentile=95, spacing=spacing),
        metrics.compute_average_surface_distance(*maps, symmetric=True, spacing=spacing),
        metrics.compute_surface_dice(*maps, [tolerance] * num_classes, spacing=spacing),
    )
    return torch.stack([c[0].double() for c in columns], dim=1).numpy()


def exacta(
    pred: Labels, ref: Labels, num_classes: int, spacing: Spacing, tolerance: float
) -> Scores:
    """exacta's shared evaluation: one count and one pair of transforms a class."""
    from exacta.functional import evaluate

    scores = evaluate(
        torch.from_numpy(pred)[None],
        torch.from_numpy(ref)[None],
        metrics={"dice": {}, "hd95": {}, "assd": {}, "nsd": {"tolerance": tolerance}},
        spacing=spacing,
        num_classes=num_classes + 1,
        include_background=False,
    )
    return torch.stack([scores[m][0] for m in ("dice", "hd95", "assd", "nsd")], dim=1).numpy()


def surface_distance(
    pred: Labels, ref: Labels, num_classes: int, spacing: Spacing, tolerance: float
) -> Scores:
    """DeepMind's package, of another definition of the surface."""
    import surface_distance as package

    rows = []
    for c in range(1, num_classes + 1):
        in_pred, in_ref = pred == c, ref == c
        distances = package.compute_surface_distances(in_ref, in_pred, spacing)
        areas = [distances[f"surfel_areas_{name}"] for name in ("gt", "pred")]
        means = package.compute_average_surface_distance(distances)
        rows.append(
            (
                package.compute_dice_coefficient(in_ref, in_pred),
                package.compute_robust_hausdorff(distances, 95),
                np.average(means, weights=[a.sum() for a in areas]),
                package.compute_surface_dice_at_tolerance(distances, tolerance),
            )
        )
    return np.array(rows)


def scipy_transform(
    pred: Labels, ref: Labels, num_classes: int, spacing: Spacing, tolerance: float
) -> Scores:
    """The usual recipe: SciPy's distance transform of each border, cropped to the structures."""
    from scipy.ndimage import distance_transform_edt

    def transform(border: Mask) -> Any:
        return distance_transform_edt(~border, sampling=spacing)

    return np.array(
        [
            _scores(*pair, tolerance, *_by_transform(*pair, transform))
            for pair in _structures(pred, ref, num_classes)
        ]
    )


def edt(pred: Labels, ref: Labels, num_classes: int, spacing: Spacing, tolerance: float) -> Scores:
    """The same by the package edt."""
    import edt as package

    def transform(border: Mask) -> Any:
        return package.edt(~border, anisotropy=spacing, parallel=torch.get_num_threads())

    return np.array(
        [
            _scores(*pair, tolerance, *_by_transform(*pair, transform))
            for pair in _structures(pred, ref, num_classes)
        ]
    )


def scipy_tree(
    pred: Labels, ref: Labels, num_classes: int, spacing: Spacing, tolerance: float
) -> Scores:
    """A KD-tree of border voxels; those that both structures share are not looked up."""
    workers = torch.get_num_threads()
    return np.array(
        [
            _scores(*pair, tolerance, *_by_tree(*pair, spacing, workers))
            for pair in _structures(pred, ref, num_classes)
        ]
    )


PROVIDERS: dict[str, Callable[[Labels, Labels, int, Spacing, float], Scores]] = {
    "ours": ours,
    "ours_op": ours_op,
    "monai": monai,
    "exacta": exacta,
    "surface_distance": surface_distance,
    "scipy_transform": scipy_transform,
    "scipy_tree": scipy_tree,
    "edt": edt,
}
THREADED = ("ours", "ours_op", "exacta", "scipy_tree", "edt")


def why_not(provider: str) -> str | None:
    """What is missing to run it."""
    if provider.startswith("ours"):
        import recycleseg

        is_there = hasattr(recycleseg.ops, "surface_distances") and (
            provider == "ours_op" or hasattr(recycleseg, "evaluate")
        )
        return None if is_there else "recycleseg lacks it"
    package = provider.split("_")[0] if provider.startswith("scipy") else provider
    return None if importlib.util.find_spec(package) else f"pip install {package}"


def set_num_threads(count: int) -> None:
    """Of torch and all that follow it, and of exacta, which has an OpenMP library of its own."""
    torch.set_num_threads(count)
    if spec := importlib.util.find_spec("exacta"):
        import exacta  # noqa: F401  # loads its libraries

        folder = Path(str(spec.origin)).parents[1] / "exacta.libs"
        for library in folder.glob("libgomp*"):
            ctypes.CDLL(str(library)).omp_set_num_threads(count)


def _structures(pred: Labels, ref: Labels, num_classes: int) -> Iterator[tuple[Mask, Mask]]:
    """Each class in both maps, cropped to its bounding box."""
    from scipy.ndimage import find_objects

    boxes = zip(*(find_objects(m, num_classes) for m in (pred, ref)), strict=True)
    for c, (p, r) in enumerate(boxes, start=1):
        box = tuple(
            slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(p, r, strict=True)
        )
        yield pred[box] == c, ref[box] == c


def _border(mask: Mask) -> Mask:
    """Voxels inside with a face neighbour outside, where outside the crop is outside."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        moved = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        moved[0][1:] &= moved[1][:-1]
        moved[0][:-1] &= moved[1][1:]
        moved[0][0] = moved[0][-1] = False
    return mask & ~inner


def _by_transform(in_pred: Mask, in_ref: Mask, transform: Callable[[Mask], Any]) -> Distances:
    pred, ref = _border(in_pred), _border(in_ref)
    return transform(ref)[pred], transform(pred)[ref]


def _by_tree(in_pred: Mask, in_ref: Mask, spacing: Spacing, workers: int) -> Distances:
    from scipy.spatial import cKDTree

    borders = _border(in_pred), _border(in_ref)
    shared = borders[0] & borders[1]
    result = []
    for own, other in (borders, borders[::-1]):
        tree = cKDTree(np.argwhere(other) * spacing, balanced_tree=False, compact_nodes=False)
        far = tree.query(np.argwhere(own & ~shared) * spacing, workers=workers)[0]
        result.append(np.concatenate([far, np.zeros(np.count_nonzero(shared))]))
    return result[0], result[1]


def _scores(
    in_pred: Mask,
    in_ref: Mask,
    tolerance: float,
    pred_to_ref: NDArray[np.float64],
    ref_to_pred: NDArray[np.float64],
) -> tuple[float, ...]:
    both = np.concatenate([pred_to_ref, ref_to_pred])
    inside = np.count_nonzero(in_pred) + np.count_nonzero(in_ref)
    return (
        2 * np.count_nonzero(in_pred & in_ref) / inside,
        max(np.percentile(pred_to_ref, 95), np.percentile(ref_to_pred, 95)),
        both.mean(),
        np.count_nonzero(both <= tolerance * (1 + 1e-6)) / len(both),
    )
