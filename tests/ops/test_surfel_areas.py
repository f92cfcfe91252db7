from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from recycleseg import _ext
from recycleseg.ops._surfaces import Query, empty_result
from recycleseg.ops.surfel_areas import surfel_areas

SPACINGS = [
    (1.0, 1.0, 1.0),
    (0.9, 0.9, 2.5),
    (1.0, 1.37, 2.71),
    (4.0, 0.3, 1.1),
    (1e-3, 5.0, 200.0),
    (0.7, 0.9),
    (3.0, 0.25),
]


def code_of(*voxels: tuple[int, ...]) -> int:
    return sum(1 << int("".join(map(str, voxel)), 2) for voxel in voxels)


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
def test_equals_the_tables_of_surface_distance(spacing: tuple[float, ...]) -> None:
    lookup_tables = pytest.importorskip("surface_distance.lookup_tables")
    if len(spacing) == 3:
        expected = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    else:
        expected = lookup_tables.create_table_neighbour_code_to_contour_length(spacing)
    areas = surfel_areas(spacing)
    assert areas.dtype == torch.float64
    np.testing.assert_allclose(areas, expected, rtol=1e-13, atol=0)


@pytest.mark.skipif(not _ext.HAS_CPP, reason="the compiled extension is not built")
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.0, 1.0)], ids=str)
def test_the_extension_refuses_a_table_of_another_size(spacing: tuple[float, ...]) -> None:
    class WithoutLast(Query):
        @property
        def areas(self) -> list[float]:
            return super().areas[:-1]

    maps = torch.zeros(1, *[3] * len(spacing), dtype=torch.uint8)
    query = WithoutLast([(1,)], spacing, [], [], True, True)
    directed, pooled = empty_result(maps, 1, 0, 0)
    capsules = [_ext.capsule(x) for x in (maps, maps, directed, pooled)]
    size = 16 if len(spacing) == 2 else 256
    with pytest.raises(ValueError, match=f"areas: expected none or {size}, got {size - 1}"):
        _ext.C.surface_distances_cpu(*capsules[:2], query, *capsules[2:], 1)


def test_areas_by_hand() -> None:
    x, y, z = spacing = 2.0, 3.0, 5.0
    areas = surfel_areas(spacing).tolist()
    triangle = math.hypot(y * z, x * z, x * y) / 8
    assert areas[0] == areas[255] == 0
    assert areas[code_of((1, 0, 1))] == pytest.approx(triangle, rel=1e-14)
    diagonal = code_of((0, 0, 0), (1, 1, 0))
    assert areas[diagonal] == pytest.approx(2 * triangle, rel=1e-14)
    assert areas[code_of((0, 0, 0), (0, 0, 1))] == pytest.approx(z * math.hypot(x, y) / 2)
    for axis, area in enumerate((y * z, x * z, x * y)):
        half = [v for v in itertools.product((0, 1), repeat=3) if v[axis]]
        assert areas[code_of(*half)] == pytest.approx(area, rel=1e-14)


def test_lengths_by_hand() -> None:
    x, y = 3.0, 4.0
    lengths = surfel_areas((x, y)).tolist()
    assert lengths[code_of((0, 0))] == pytest.approx(2.5, rel=1e-14)
    assert lengths[code_of((0, 1), (1, 0))] == pytest.approx(5, rel=1e-14)
    assert lengths[code_of((0, 1), (1, 1))] == pytest.approx(x, rel=1e-14)
    assert lengths[code_of((1, 0), (1, 1))] == pytest.approx(y, rel=1e-14)


@pytest.mark.parametrize("ndim", [2, 3])
def test_areas_move_with_the_axes(ndim: int) -> None:
    spacing = (1.0, 1.7, 0.6)[:ndim]
    codes = torch.arange(2**2**ndim)
    blocks = (codes[:, None] >> torch.arange(2**ndim) & 1).reshape(-1, *[2] * ndim)
    weights = 1 << torch.arange(2**ndim)
    areas = surfel_areas(spacing)
    torch.testing.assert_close(areas.flip(0), areas)  # the complements
    for axis in range(ndim):
        mirrored = (blocks.flip(axis + 1).flatten(1) * weights).sum(1)
        torch.testing.assert_close(areas[mirrored], areas)
    for order in itertools.permutations(range(ndim)):
        moved = (blocks.permute(0, *(a + 1 for a in order)).flatten(1) * weights).sum(1)
        torch.testing.assert_close(surfel_areas([spacing[a] for a in order])[moved], areas)


@pytest.mark.parametrize("spacing", [(1.0,), (1.0,) * 4, (1.0, 0.0), (1.0, -1.0, 1.0)])
def test_bad_spacing_is_named(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="spacing: expected 2 or 3 positive finite numbers, got"):
        surfel_areas(spacing)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_spacing_that_is_not_finite_is_named(value: float) -> None:
    with pytest.raises(ValueError, match="spacing: expected 2 or 3 positive finite"):
        surfel_areas((1.0, value))
