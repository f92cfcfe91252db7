"""Voxel sizes and tolerances in float32 and in float64 give the same within a tolerance."""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import pytest
import torch

from recycleseg import _ext
from recycleseg.ops._surfaces import Query
from recycleseg.ops.surface_distances import (
    SurfaceDistances,
    _measure_by_transforms,
    surface_distances,
)

# From a tenth of a micrometre to a metre, with few and with many digits, in mm.
SIZES = [
    *(10.0**power for power in range(-4, 4)),
    *(base * 10.0**power for power in range(-4, 3) for base in (1.1, 2.3, 6.0, 7.7, 9.765625)),
]
STEPS = (1, 2, 3, 5, 7, 10, 30, 100)
BACKENDS = ["cpp", "transforms", "reference"]


def distances(
    one: torch.Tensor,
    other: torch.Tensor,
    spacing: tuple[float, ...],
    tolerances: tuple[float, ...],
    backend: str,
    definition: str = "voxel",
    percentiles: tuple[float, ...] = (95.0,),
) -> SurfaceDistances:
    if backend == "cpp" and not _ext.HAS_CPP:
        pytest.skip("the extension was not built")
    if backend == "transforms":  # the "cuda" backend, here on the CPU
        query = Query([(1,)], spacing, tolerances, percentiles, definition == "surfel", True)
        return SurfaceDistances(*_measure_by_transforms(one[None], other[None], query))
    return surface_distances(
        one[None],
        other[None],
        labels=[1],
        spacing=spacing,
        tolerances=tolerances,
        percentiles=percentiles,
        definition=definition,
        backend=backend,
    )


def voxels(length: int, *places: int) -> torch.Tensor:
    x = torch.zeros(length, 2, dtype=torch.uint8)
    x[list(places)] = 1
    return x


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("steps", STEPS)
def test_a_distance_that_equals_the_tolerance_is_within_it(steps: int, backend: str) -> None:
    one, other = voxels(steps + 1, 0), voxels(steps + 1, steps)
    for size in SIZES:
        for spacing in (size, float(np.float32(size))):
            exact = steps * size
            equal = (exact, float(np.float32(exact)), steps * float(np.float32(size)))
            beside = (exact * (1 - 5e-6), exact * (1 + 5e-6))
            found = distances(one, other, (spacing, 1.0), (*equal, *beside), backend)
            within = found.directed[0, 0, :, -5:]
            assert within.tolist() == [[2, 2, 2, 0, 2]] * 2, (size, spacing)


@pytest.mark.parametrize("steps", [(1, 1, 0), (3, 4, 0), (2, 3, 6), (5, 1, 2)])
@pytest.mark.parametrize("size", [1e-4, 0.3, 0.977, 1e3])
def test_sizes_of_a_turned_affine(size: float, steps: tuple[int, int, int]) -> None:
    """The norms of the columns of an affine in float32, as a NIfTI file holds it."""
    exact = np.array([size, 1.1 * size, 3 * size])
    one = torch.zeros(7, 7, 7, dtype=torch.uint8)
    other = one.clone()
    one[0, 0, 0], other[steps] = 1, 1
    tolerance = math.sqrt(sum((n * s) ** 2 for n, s in zip(steps, exact, strict=True)))
    for angles in np.random.default_rng(0).uniform(-3, 3, (20, 3)):
        affine = nib.eulerangles.euler2mat(*angles) @ np.diag(exact)
        rounded = tuple(np.linalg.norm(affine.astype(np.float32).astype(float), axis=0).tolist())
        found = distances(one, other, rounded, (tolerance, tolerance * (1 - 5e-6)), "auto")
        assert found.directed[0, 0, :, -2:].tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [1e-4, 0.6, 0.7, 1.1, 1e3])
def test_an_area_that_equals_the_share_of_a_percentile_reaches_it(
    size: float, backend: str
) -> None:
    one, other = torch.zeros(2, 12, 9, dtype=torch.uint8)
    one[2:6, 2:7] = 1
    other[2:9, 2:7] = 1
    exact = (size, 1.3 * size)
    rounded = tuple(np.float32(exact).tolist())
    at = distances(one, other, exact, (0.0,), backend, "surfel", ()).directed[0, 0, 0]
    share = 100 * float(at[-1] / at[0])
    for spacing in (exact, rounded):
        found = distances(
            one, other, spacing, (), backend, "surfel", (0.0, share, share + 1e-3, 100.0)
        )
        first, reached, beyond, last = found.directed[0, 0, 0, 3:].tolist()
        assert first == reached == 0 < beyond <= last == found.directed[0, 0, 0, 2]
