"""Label maps of smooth blobs and predictions of them, rebuilt from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.uint8]
Field = NDArray[np.float32]


@dataclass(frozen=True)
class Volume:
    """A kind of segmentation: its grid, mm per axis, and how large and how wrong its blobs are.

    radius: of the blobs, as a share of the half distance between neighbouring ones, of the first
    class and of the last. error_mm: standard deviation of a prediction's boundary, likewise.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    num_classes: int
    radius: tuple[float, float]
    error_mm: tuple[float, float]


VOLUMES = {
    "d2": Volume((512, 480), (0.7, 0.9), 1, (0.75, 0.75), (5.0, 5.0)),
    "c4": Volume((128, 128, 96), (0.9, 0.9, 2.5), 4, (1.0, 0.4), (1.0, 4.0)),
    "amos": Volume((192, 128, 128), (1.2, 1.2, 3.0), 15, (1.0, 0.5), (1.0, 4.5)),
    "brats": Volume((240, 240, 155), (1.0, 1.0, 1.5), 3, (1.0, 0.4), (1.5, 7.0)),
}
VARIANTS = ("good", "shifted", "salt")


@cache
def masks(name: str, variant: str = "good") -> tuple[Labels, Labels]:
    """(pred, ref) of one of VOLUMES; 0 is background.

    variant: "good" (Dice of the classes from 0.65 to 0.97), "shifted" (that by 30 voxels along the
    first axis) or "salt" (2 % of its voxels get a random class or background).
    """
    if variant == "good":
        return _blobs(VOLUMES[name])
    pred, ref = masks(name)
    if variant == "shifted":
        moved = np.zeros_like(pred)
        moved[30:] = pred[:-30]
        return moved, ref
    rng = np.random.default_rng(1)
    where = rng.random(pred.shape) < 0.02
    noisy = pred.copy()
    noisy[where] = rng.integers(VOLUMES[name].num_classes + 1, size=int(where.sum()))
    return noisy, ref


def _blobs(volume: Volume) -> tuple[Labels, Labels]:
    """Each voxel belongs to the blob that it lies deepest in; a prediction's depths are wrong."""
    rng = np.random.default_rng(0)
    extent = np.multiply(volume.shape, volume.spacing)
    axes = np.ogrid[tuple(slice(0, n) for n in volume.shape)]
    centres, half_distance = _centres(extent, volume.num_classes, rng)
    best = [np.zeros(volume.shape, np.float32) for _ in range(2)]
    labels = [np.zeros(volume.shape, np.uint8) for _ in range(2)]
    errors = np.linspace(*volume.error_mm, volume.num_classes)
    radii = half_distance * np.linspace(*volume.radius, volume.num_classes)
    for c, (centre, radius, error) in enumerate(zip(centres, radii, errors, strict=True), start=1):
        squares = ((a * s - m) ** 2 for a, s, m in zip(axes, volume.spacing, centre, strict=True))
        depth = radius - np.sqrt(sum(squares)).astype(np.float32)
        depth += 0.15 * radius * _smooth_noise(volume, radius / 2, rng)
        for i in range(2):
            if i == 1:
                depth += error * _smooth_noise(volume, radius / 4, rng)
            inside = depth > best[i]
            best[i][inside] = depth[inside]
            labels[i][inside] = c
    ref, pred = labels
    return pred, ref


def _centres(
    extent: NDArray[np.float64], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], float]:
    """Points of a jittered grid over the extent, and half the distance between neighbours."""
    cells = np.ones(len(extent), dtype=int)
    while cells.prod() < count:
        cells[np.argmax(extent / cells)] += 1
    grid = np.stack(np.unravel_index(rng.permutation(int(cells.prod()))[:count], cells), axis=-1)
    cell = extent / cells
    jitter = 0.1 * rng.uniform(-1, 1, grid.shape)
    return (grid + 0.5 + jitter) * cell, float(cell.min()) / 2


def _smooth_noise(volume: Volume, length: float, rng: np.random.Generator) -> Field:
    """Normal noise of unit variance and this correlation length in mm."""
    bases = []
    for size, spacing in zip(volume.shape, volume.spacing, strict=True):
        knots = np.arange(-2, size * spacing / length + 2)
        basis = np.exp(-((np.arange(size)[:, None] * spacing / length - knots) ** 2))
        bases.append((basis / np.linalg.norm(basis, axis=1, keepdims=True)).astype(np.float32))
    noise: Field = rng.standard_normal([b.shape[1] for b in bases], dtype=np.float32)
    for basis in bases:  # each turn the first axis becomes the last
        noise = np.tensordot(noise, basis, axes=(0, 1))
    return noise
