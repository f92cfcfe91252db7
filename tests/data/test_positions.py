"""Where structures are: every voxel of small ones, a random part of large ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recycleseg.classes import Classes
from recycleseg.data.positions import _MOST, find_positions

PLAIN = Classes(("background", "a", "b", "c"))


def test_all_voxels_of_small_classes() -> None:
    label = torch.zeros(5, 6, 7, dtype=torch.uint8)
    label[1, 2, 3], label[4, :, 0] = 1, 3  # no voxel of 2
    positions = find_positions(label, PLAIN, 3)
    assert positions.foreground == (1, 6)
    assert positions.known == 0
    assert positions.flat.tolist() == [1 * 42 + 2 * 7 + 3, *(4 * 42 + row * 7 for row in range(6))]
    rng = np.random.default_rng(0)
    drawn = [positions.draw_foreground(rng) for _ in range(400)]
    # Both classes as often: five standard deviations of 400 draws.
    assert abs(drawn.count(1 * 42 + 2 * 7 + 3) - 200) < 50
    assert set(drawn) == set(positions.flat.tolist())
    assert positions.draw_known(rng) is None


def test_overlapping_regions() -> None:
    masks = torch.zeros(3, 4, 4, dtype=torch.uint8)
    masks[0], masks[2, 1, 1] = 1, 1
    positions = find_positions(masks, Classes(("w", "t", "e"), ((1, 2), (2,), (3,))), 2)
    assert positions.foreground == (16, 1)
    assert positions.flat.tolist() == [*range(16), 5]


def test_ignored_voxels() -> None:
    classes = Classes(("background", "a"), ignore_label=2)
    files = torch.full((3, 4), 2, dtype=torch.uint8)
    files[0, 1], files[2, 2] = 0, 1
    positions = find_positions(classes.target(files), classes, 2)
    assert (positions.foreground, positions.known) == ((1,), 2)
    assert positions.flat.tolist() == [10, 1, 10]
    rng = np.random.default_rng(0)
    assert {positions.draw_known(rng) for _ in range(50)} == {1, 10}


def test_large_classes_are_thinned_out_evenly() -> None:
    label = torch.ones(40, 40, 40, dtype=torch.uint8)
    positions = find_positions(label, PLAIN, 3)
    assert positions.foreground == (_MOST,)
    flat = positions.flat.numpy()
    assert len(np.unique(flat)) == _MOST and flat.dtype == np.int32
    # The mean of uniform draws without replacement; five standard deviations.
    assert abs(flat.mean() - 31_999.5) < 5 * 64_000 / 12**0.5 / _MOST**0.5
    again = find_positions(label, PLAIN, 3)
    assert torch.equal(again.flat, positions.flat)


@pytest.mark.parametrize("value", [0, 1])
def test_a_case_without_a_structure(value: int) -> None:
    classes = Classes(("background", "a"), ignore_label=1)
    label = classes.target(torch.full((4, 4), value, dtype=torch.uint8))
    positions = find_positions(label, classes, 2)
    rng = np.random.default_rng(0)
    assert positions.draw_foreground(rng) is None
    assert (positions.draw_known(rng) is None) == (value == 1)
