"""The target grid of a data set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.planning.fingerprints import CROPS, HEART, IMAGES

from recycleseg.planning.grid import choose_grid, thick_axis


def test_median_spacing_of_the_training_cases() -> None:
    spacings = np.repeat([[1.0, 1.0, 1.0], [1.2, 1.0, 2.0], [1.4, 1.0, 1.5]], 2, axis=0)[:5]
    shapes, extents = CROPS.shapes[:5], CROPS.extents[:5]
    grid = choose_grid(replace(CROPS, spacings=spacings, shapes=shapes, extents=extents))
    assert grid.spacing.tolist() == [1.2, 1.0, 1.5]
    assert not grid.resized
    assert "5 training cases" in grid.reason


def test_thick_slices_take_a_finer_distance_than_the_median() -> None:
    spacings = HEART.spacings.copy()
    spacings[:4, 2] = 6.0
    grid = choose_grid(replace(HEART, spacings=spacings))
    assert grid.spacing.tolist() == [1.48, 1.48, 6.0]
    assert grid.shape.tolist() == [216, 256, 15]  # 9 slices of 10 mm
    assert "10" in grid.reason
    assert "6" in grid.reason


def test_no_finer_distance_than_within_the_slices() -> None:
    spacings = HEART.spacings.copy()
    spacings[:4, 2] = 1.0  # finer than 1.48 mm: no use
    assert choose_grid(replace(HEART, spacings=spacings)).spacing[2] == 10.0


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [((1.48, 1.48, 10.0), 2), ((1.0, 1.0, 3.0), None), ((4.0, 1.0, 1.2), 0), ((0.1, 9.0), None)],
)
def test_slices_are_thick_beyond_three_to_one(spacing: tuple[float, ...], axis: int | None) -> None:
    assert thick_axis(np.array(spacing)) == axis


def test_images_whose_pixel_size_follows_the_view_get_one_shape() -> None:
    rng = np.random.default_rng(0)
    spacings = np.repeat(rng.uniform(0.1, 0.4, (20, 1)), 2, axis=1)
    shares = rng.uniform(0.45, 0.55, (20, 2))
    extents = shares * IMAGES.shapes * spacings
    grid = choose_grid(replace(IMAGES, spacings=spacings, extents=extents))
    assert grid.resized
    assert grid.shape.tolist() == [512, 640]
    assert "as a share of the image" in grid.reason


def test_images_of_structures_with_one_size_in_mm_are_resampled() -> None:
    rng = np.random.default_rng(0)
    spacings = np.repeat(rng.uniform(0.1, 0.4, (20, 1)), 2, axis=1)
    extents = rng.uniform(28, 32, (20, 2))
    grid = choose_grid(replace(IMAGES, spacings=spacings, extents=extents))
    assert not grid.resized
    assert grid.spacing.tolist() == pytest.approx(np.median(spacings, axis=0).tolist())
