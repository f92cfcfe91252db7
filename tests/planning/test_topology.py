"""Levels, kernels and factors of the network."""

from __future__ import annotations

import pytest

from recycleseg.planning.topology import make_topology

LEVELS = range(1, 6)


def test_equal_sides_are_halved_together() -> None:
    topology = make_topology((64, 64, 64), (1.0, 1.0, 1.0), LEVELS)
    assert topology.scales == ((2, 2, 2),) * 4
    assert topology.kernels == ((3, 3, 3),) * 5
    assert topology.sizes()[-1] == (4, 4, 4)


def test_thick_slices_stay_apart_until_the_voxels_are_as_long() -> None:
    topology = make_topology((224, 256, 10), (1.48, 1.48, 10.0), LEVELS)
    assert topology.scales == ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 1))
    assert topology.kernels == ((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert topology.sizes()[-1] == (14, 16, 5)


def test_patch_is_rounded_up_to_what_the_factors_divide() -> None:
    topology = make_topology((35.0, 50.0, 36.0), (1.0, 1.0, 1.0), LEVELS)
    assert topology.factors == (8, 8, 8)
    assert topology.patch_size == (40, 56, 40)


def test_one_slice_has_no_neighbours() -> None:
    topology = make_topology((64, 64, 1), (1.0, 1.0, 1.0), LEVELS)
    assert topology.kernels[0] == (3, 3, 1)
    assert topology.scales == ((2, 2, 1),) * 4


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_small_patches_have_one_level(size: int) -> None:
    topology = make_topology((size, size), (1.0, 1.0), LEVELS)
    assert (topology.num_levels, topology.scales, topology.factors) == (1, (), (1, 1))
    assert topology.patch_size == (size, size)


def test_levels_that_are_asked_for_are_made() -> None:
    topology = make_topology((4, 4, 1), (1.0, 1.0, 5.0), range(3, 4))
    assert topology.scales == ((2, 2, 1), (2, 2, 1))
    assert topology.sizes()[-1] == (1, 1, 1)
    assert make_topology((256, 256), (1.0, 1.0), range(2, 3)).num_levels == 2


@pytest.mark.parametrize("thickness", [0.1, 1.0, 10.0])
def test_a_single_slice_gets_the_network_of_an_image(thickness: float) -> None:
    topology = make_topology((32, 32, 1), (1.0, 1.0, thickness), LEVELS)
    assert topology.kernels == ((3, 3, 1),) * 4
    assert topology.scales == ((2, 2, 1),) * 3
