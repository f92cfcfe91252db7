"""Grids that are one up to a part of a voxel, at every size of the voxels."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from recycleseg.data.check import grid_problems
from recycleseg.data.grids import same_grid, same_sizes
from recycleseg.data.regrid import on_grid
from recycleseg.data.volumes import Volume

SHAPE = (20, 12, 9)
SIZES = [1e-4, 4e-4, 0.0123, 0.3, 0.977, 5.0, 1e3]  # mm
TURNS = {"along": np.eye(3), "turned": nib.eulerangles.euler2mat(0.3, 0.2, 0.1)}


def affine_of(size: float, turn: np.ndarray) -> np.ndarray:
    matrix = turn @ np.diag([size, 1.3 * size, 3 * size])
    return nib.affines.from_matvec(matrix, (-40 * size, 25 * size, 7 * size))


def moved(affine: np.ndarray, voxels: tuple[float, float, float]) -> np.ndarray:
    return affine @ nib.affines.from_matvec(np.eye(3), voxels)


def flipped(affine: np.ndarray) -> np.ndarray:
    matrix = np.diag([-1.0, 1.0, 1.0])
    return affine @ nib.affines.from_matvec(matrix, (SHAPE[0] - 1, 0, 0))


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("size", SIZES)
def test_the_same_at_every_voxel_size(size: float, turn: str) -> None:
    affine = affine_of(size, TURNS[turn])
    as_float32 = affine.astype(np.float32).astype(np.float64)
    for axis in range(3):
        voxels = np.eye(3)[axis]
        for part in (0.005, -0.04):
            assert same_grid(affine, moved(as_float32, part * voxels), SHAPE)
        for part in (0.06, 0.5, -1.0):
            assert not same_grid(affine, moved(as_float32, part * voxels), SHAPE)
    assert not same_grid(affine, flipped(affine), SHAPE)
    # The far corner is 19 voxels away: 0.019 and 0.19 voxels.
    assert same_grid(affine, affine @ np.diag([1.001, 1, 1, 1]), SHAPE)
    assert not same_grid(affine, affine @ np.diag([1.01, 1, 1, 1]), SHAPE)


@pytest.mark.parametrize("size", SIZES)
def test_a_flipped_mask_is_turned_at_every_voxel_size(size: float) -> None:
    label = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    affine = affine_of(size, TURNS["turned"])
    image = Volume(np.zeros(SHAPE), None, affine, Path("image.nii"))
    mask = Volume(label[::-1], None, flipped(affine).astype(np.float32), Path("mask.nii"))
    assert "so voxels lie up to" in grid_problems(mask, image)[0]
    turned = on_grid(mask, image)
    np.testing.assert_array_equal(turned.array, label)
    assert grid_problems(turned, image) == []


def test_messages_show_small_voxels() -> None:
    affine = affine_of(4e-4, TURNS["along"])
    image = Volume(np.zeros(SHAPE), None, affine, Path("image.nii"))
    mask = Volume(np.zeros(SHAPE), None, moved(affine, (1, 0, 0)), Path("mask.nii"))
    (problem,) = grid_problems(mask, image)
    assert problem.startswith("mask.nii: expected affine [[0.0004, 0.0, 0.0, -0.016], ")
    assert problem.endswith("so voxels lie up to 0.0004 mm apart")


def test_an_origin_that_float32_cannot_hold() -> None:
    """Rounded by a third of a voxel: the same grid, but not one that is a voxel further."""
    affine = nib.affines.from_matvec(np.diag([1e-4] * 3), (500.00001, 0, 0))
    rounded = affine.astype(np.float32).astype(np.float64)
    assert 0.05 < abs(rounded[0, 3] - affine[0, 3]) / 1e-4 < 0.4
    assert same_grid(affine, rounded, SHAPE)
    assert not same_grid(affine, moved(affine, (1, 0, 0)), SHAPE)
    assert not same_grid(affine, moved(affine, (0, 0.06, 0)), SHAPE)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_without_a_place(size: float) -> None:
    assert same_sizes((size, size), (1.0005 * size, float(np.float32(size))))
    assert not same_sizes((size, size), (size, 1.002 * size))
