"""Masks whose surface distances are measured, and what other libraries make of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from recycleseg import _ext

needs_cpp = pytest.mark.skipif(not _ext.HAS_CPP, reason="the compiled extension is not built")
BACKENDS = ["reference", pytest.param("cpp", marks=needs_cpp)]
PERCENTILES = (0.0, 5.0, 50.0, 95.0, 99.5, 100.0)
TOLERANCES = (0.0, 0.7, 1.0, 2.5)


def blobs(
    shape: tuple[int, ...], seed: int, sigma: float = 1.5, threshold: float = 0.0
) -> np.ndarray:
    """Bool array (*S): smoothed noise above a threshold, in units of its standard deviation."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return noise > threshold * noise.std()


def label_maps(shape: tuple[int, ...], num_labels: int, dtype: torch.dtype, seed: int) -> Tensor:
    """(B, *S) labels of blobs that touch one another, noise at their borders."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(num_labels, *shape))
    smooth = ndimage.gaussian_filter(noise, (0, 0, *[1.5] * (len(shape) - 1)))
    return torch.from_numpy(smooth.argmax(0)).to(dtype)


def box(shape: tuple[int, ...], *bounds: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*bound) for bound in bounds)] = True
    return mask


def line(shape: tuple[int, ...], step: int) -> np.ndarray:
    """A line of single voxels along the diagonal, every `step`-th voxel of it."""
    mask = np.zeros(shape, dtype=bool)
    diagonal = range(0, min(shape), step)
    mask[tuple(diagonal for _ in shape)] = True
    return mask


CASES: dict[str, tuple[np.ndarray, np.ndarray, tuple[float, ...]]] = {
    "blobs": (blobs((14, 17, 15), 0), blobs((14, 17, 15), 1), (1.0, 1.0, 1.0)),
    "blobs, anisotropic": (blobs((12, 16, 13), 2), blobs((12, 16, 13), 3), (0.9, 0.7, 2.5)),
    "blobs, extreme spacing": (blobs((12, 11, 13), 2), blobs((12, 11, 13), 3), (0.01, 1.0, 37.0)),
    "blobs, 2D": (blobs((41, 37), 4, 3), blobs((41, 37), 5, 3), (0.7, 0.9)),
    "perturbed": (blobs((20, 18, 16), 6, 3), blobs((20, 18, 16), 6, 3, 0.3), (1.2, 1.2, 3.0)),
    "perturbed, 2D": (blobs((90, 70), 7, 9), blobs((90, 70), 7, 9, 0.2), (0.7, 0.9)),
    "equal": (blobs((11, 12, 13), 8), blobs((11, 12, 13), 8), (1.0, 2.0, 3.0)),
    "disjoint": (
        box((20, 9, 9), (1, 4), (1, 8), (1, 8)),
        box((20, 9, 9), (12, 19), (2, 7), (0, 9)),
        (1.0, 0.5, 0.8),
    ),
    "nested": (
        box((15, 15, 15), (1, 14), (1, 14), (1, 14)),
        box((15, 15, 15), (6, 8), (6, 8), (6, 8)),
        (1.0, 0.5, 0.8),
    ),
    "thin": (line((16, 16, 16), 1), line((16, 16, 16), 3), (1.0, 1.3, 0.6)),
    "sheets": (
        box((13, 14, 15), (4, 5), (0, 14), (0, 15)),
        box((13, 14, 15), (0, 13), (9, 10), (0, 15)),
        (1.0, 1.3, 0.6),
    ),
    "single voxels": (
        box((9, 10, 11), (1, 2), (2, 3), (3, 4)),
        box((9, 10, 11), (8, 9), (9, 10), (10, 11)),
        (0.3, 1.0, 2.0),
    ),
    "single voxels, 2D": (
        box((30, 21), (0, 1), (20, 21)),
        box((30, 21), (29, 30), (0, 1)),
        (0.3, 1.0),
    ),
    "border": (
        box((9, 10, 11), (0, 9), (0, 4), (0, 11)),
        box((9, 10, 11), (3, 9), (2, 10), (5, 11)),
        (1.0, 2.0, 0.5),
    ),
    "both empty": (np.zeros((5, 6, 7), bool), np.zeros((5, 6, 7), bool), (1.0, 1.0, 1.0)),
    "pred empty": (np.zeros((5, 6, 7), bool), blobs((5, 6, 7), 9), (1.0, 1.0, 1.0)),
    "ref empty": (blobs((15, 16), 9), np.zeros((15, 16), bool), (1.0, 1.0)),
    "both full": (np.ones((6, 5, 7), bool), np.ones((6, 5, 7), bool), (1.0, 2.0, 3.0)),
    "pred full": (np.ones((6, 5, 7), bool), blobs((6, 5, 7), 10), (1.0, 2.0, 3.0)),
    "full, 2D": (np.ones((16, 15), bool), box((16, 15), (8, 9), (7, 8)), (1.0, 2.0)),
    "size 1": (np.ones((1, 1, 1), bool), np.ones((1, 1, 1), bool), (1.0, 2.0, 3.0)),
    "one line": (line((1, 40), 1), box((1, 40), (0, 1), (30, 33)), (1.0, 0.4)),
    "flat axes": (blobs((1, 30, 1), 11), blobs((1, 30, 1), 12), (1.0, 0.4, 2.0)),
    "far island": (
        box((125, 9, 9), (2, 8), (2, 7), (2, 7)) | box((125, 9, 9), (110, 112), (4, 6), (4, 6)),
        box((125, 9, 9), (3, 9), (2, 7), (2, 7)),
        (1.0, 0.8, 1.5),
    ),
    "far apart, 2D": (
        box((140, 130), (1, 9), (2, 7)),
        box((140, 130), (120, 139), (100, 128)),
        (1.1, 0.8),
    ),
    "shifted": (
        np.roll(box((50, 16, 16), (2, 12), (2, 13), (3, 14)), 30, axis=0),
        box((50, 16, 16), (2, 12), (2, 13), (3, 14)),
        (0.9, 0.9, 2.5),
    ),
    "salt": (
        blobs((18, 17, 16), 13, 4) ^ (np.random.default_rng(14).random((18, 17, 16)) < 0.02),
        blobs((18, 17, 16), 13, 4),
        (0.9, 0.9, 2.5),
    ),
    "noise": (
        np.random.default_rng(15).random((11, 12, 13)) < 0.5,
        np.random.default_rng(16).random((11, 12, 13)) < 0.1,
        (1.0, 1.5, 0.5),
    ),
}


def as_image(
    pred: np.ndarray, ref: np.ndarray, spacing: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """A volume of one slice without the axis across it."""
    for axis in (2, 1, 0):
        if pred.ndim == 3 and pred.shape[axis] == 1:
            kept = (*spacing[:axis], *spacing[axis + 1 :])
            return pred.squeeze(axis), ref.squeeze(axis), kept
    return pred, ref, spacing


def oracle(
    pred: np.ndarray,
    ref: np.ndarray,
    spacing: tuple[float, ...],
    tolerances: tuple[float, ...] = TOLERANCES,
    percentiles: tuple[float, ...] = PERCENTILES,
    border_is_outside: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """(2, 3 + P + K) and (P,) of two bool arrays by SciPy's erosion and distance transform."""
    pred, ref, spacing = as_image(pred, ref, spacing)
    surfaces = [
        mask & ~ndimage.binary_erosion(mask, border_value=not border_is_outside)
        for mask in (pred, ref)
    ]
    rows, all_distances = [], []
    for own, other in (surfaces, surfaces[::-1]):
        if other.any():
            distances = ndimage.distance_transform_edt(~other, sampling=spacing)[own]
        else:
            distances = np.full(own.sum(), math.inf)
        within = [(distances <= t * (1 + 1e-6)).sum() for t in tolerances]
        all_distances.append(distances)
        if len(distances) == 0:
            statistics = [math.nan] * (2 + len(percentiles))
        elif not other.any():
            statistics = [math.inf] * (2 + len(percentiles))
        else:
            statistics = [
                distances.mean(),
                distances.max(),
                *np.percentile(distances, percentiles),
            ]
        rows.append([len(distances), *statistics, *within])
    both = np.concatenate(all_distances)
    if len(both) == 0:
        pooled = np.full(len(percentiles), math.nan)
    elif np.isinf(both).any():
        pooled = np.full(len(percentiles), math.inf)
    else:
        pooled = np.percentile(both, percentiles)
    return np.array(rows, dtype=np.float64), pooled


def surfel_oracle(pred: np.ndarray, ref: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """As `oracle`, with the tables of DeepMind's package and the steps of its functions."""
    tables = pytest.importorskip("surface_distance.lookup_tables")
    pred, ref, spacing = as_image(pred, ref, spacing)
    if len(spacing) == 3:
        kernel = tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
        areas = tables.create_table_neighbour_code_to_surface_area(spacing)
    else:
        kernel = tables.ENCODE_NEIGHBOURHOOD_2D_KERNEL
        areas = tables.create_table_neighbour_code_to_contour_length(spacing)
    codes = [
        ndimage.correlate(np.pad(mask, 1).astype(np.uint8), kernel, mode="constant")
        for mask in (pred, ref)
    ]
    surfaces = [(code != 0) & (code != len(areas) - 1) for code in codes]
    rows = []
    for way in (0, 1):
        to_other = ndimage.distance_transform_edt(~surfaces[1 - way], sampling=spacing)
        distances = to_other[surfaces[way]]
        weights = areas[codes[way][surfaces[way]]]
        order = np.argsort(distances, kind="stable")
        reached = np.cumsum(weights[order]) / weights.sum()
        # A share that is reached exactly, as half of a symmetric surface, is reached.
        at = np.searchsorted(reached, np.array(PERCENTILES) / 100 * (1 - 1e-12))
        percentiles = distances[order][np.minimum(at, len(distances) - 1)]
        within = [weights[distances <= t * (1 + 1e-6)].sum() for t in TOLERANCES]
        mean = (distances * weights).sum() / weights.sum()
        rows.append([weights.sum(), mean, distances.max(), *percentiles, *within])
    return np.array(rows)


def close(actual: Tensor, expected: np.ndarray) -> None:
    # Both are float64; sums may be taken in another order.
    np.testing.assert_allclose(actual.cpu().numpy(), expected, rtol=1e-10, atol=1e-12)
