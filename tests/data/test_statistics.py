"""Sizes and intensities of classes, collected case by case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recycleseg.classes import Classes
from recycleseg.data.check import SoundCase
from recycleseg.data.facts import value_counts
from recycleseg.data.statistics import StatisticsOfClasses
from recycleseg.data.volumes import Volume

EXCLUSIVE = Classes(("background", "a", "b", "absent"))
REGIONS = Classes(("whole", "core"), ((1, 2), (2,)))


def case_of(shape: tuple[int, ...], spacing: tuple[float, ...] | None) -> SoundCase:
    """Two channels; class a has 3 voxels of the values 1, 2, 3, class b one voxel of value 9."""
    image, label = np.zeros(shape, np.int16), np.zeros(shape, np.uint8)
    image.reshape(-1)[:4], label.reshape(-1)[:4] = (1, 2, 3, 9), (1, 1, 1, 2)
    volumes = [Volume(array, spacing, None, Path("x")) for array in (image, image * 10)]
    mask = Volume(label, spacing, None, Path("x"))
    return SoundCase(volumes, mask, value_counts(label))


def test_exclusive_classes_in_3d() -> None:
    statistics = StatisticsOfClasses(EXCLUSIVE, 2)
    statistics.add(case_of((4, 5, 6), (10.0, 10.0, 5.0)))
    statistics.add(case_of((5, 4, 3), (10.0, 10.0, 10.0)))
    a, b, absent = statistics.result()
    assert [row.name for row in (a, b, absent)] == ["a", "b", "absent"]
    assert (a.num_cases, a.num_voxels, a.unit) == (2, 6, "ml")
    np.testing.assert_allclose(a.sizes, [1.5, 3.0], rtol=1e-12)
    np.testing.assert_allclose(b.sizes, [0.5, 1.0], rtol=1e-12)
    expected = np.percentile([1, 2, 3, 1, 2, 3], (25, 50, 75))
    np.testing.assert_allclose(a.intensities, [expected, 10 * expected], rtol=1e-6)
    assert (absent.num_cases, absent.num_voxels, len(absent.sizes)) == (0, 0, 0)
    assert np.isnan(absent.intensities).all()


def test_regions_share_voxels() -> None:
    statistics = StatisticsOfClasses(REGIONS, 2)
    statistics.add(case_of((3, 4), (0.5, 0.5)))
    whole, core = statistics.result()
    assert (whole.num_voxels, core.num_voxels, whole.unit) == (4, 1, "mm2")
    np.testing.assert_allclose(whole.sizes, [1.0], rtol=1e-12)


@pytest.mark.parametrize(("shape", "unit"), [((3, 4), "pixels"), ((2, 3, 4), "voxels")])
def test_without_voxel_size(shape: tuple[int, ...], unit: str) -> None:
    statistics = StatisticsOfClasses(EXCLUSIVE, 2)
    statistics.add(case_of(shape, None))
    a = statistics.result()[0]
    assert (a.unit, a.sizes.tolist()) == (unit, [3.0])
