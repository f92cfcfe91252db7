"""The table of metrics by the extension and in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from tests.ops.surface_cases import needs_cpp

from recycleseg import _ext
from recycleseg.metrics.measure import Measured
from recycleseg.metrics.table import metric_table, metric_table_reference


def measured(num_axes: int, num_tolerances: int, definitions: tuple[str, ...]) -> Measured:
    """Numbers as of 2 cases of 6 structures: one is apart, missed, invented, in neither, equal."""
    rng = np.random.default_rng(num_axes)
    sizes = rng.integers(1, 900, (2, 6, 2))
    sizes[:, 2, 0] = sizes[:, 3, 1] = sizes[:, 4] = 0
    both = np.minimum(sizes[..., 0], sizes[..., 1])
    both[:, 1] = 0
    sizes[:, 5] = both[:, 5, None]
    sums = rng.integers(0, 50, (2, 6, 2, num_axes)) * sizes[..., None]
    directed = rng.uniform(0.1, 9, (2, 6, 2, 4 + num_tolerances))
    directed[sizes == 0] = np.nan
    other_only = (sizes == 0)[..., ::-1] & (sizes > 0)
    directed[other_only, 1:] = np.inf
    directed[..., 4:] = np.where(np.isfinite(directed[..., 1:2]), directed[..., 4:], 0)
    directed[..., 0] = sizes
    pooled = rng.uniform(0.1, 9, (2, 6, 1))
    distances = {
        definition: (directed * (i + 1), pooled) for i, definition in enumerate(definitions)
    }
    return Measured(np.concatenate([both[..., None], sizes], -1), sums, distances)


@needs_cpp
@pytest.mark.parametrize("definitions", [(), ("voxel",), ("surfel",), ("surfel", "voxel")])
@pytest.mark.parametrize("tolerances", [("nsd",), ("nsd_1mm", "nsd_2mm", "nsd_3mm"), ()])
@pytest.mark.parametrize("spacing", [(0.3, 1.7), (0.3, 1.7, 2.9)])
def test_both_are_the_same(
    spacing: tuple[float, ...], tolerances: tuple[str, ...], definitions: tuple[str, ...]
) -> None:
    """To 1e-15: sums and products in the same order, but for a volume's factor of 1000."""
    numbers = measured(len(spacing), len(tolerances), definitions)
    arguments = {"spacing": spacing, "percentile": 95.0, "tolerances": tolerances}
    ours = metric_table(numbers, **arguments)  # type: ignore[arg-type]
    plain = metric_table_reference(numbers, **arguments)  # type: ignore[arg-type]
    assert [*ours] == [*plain]
    for name, values in plain.items():
        assert ours[name].shape == (2, 6)
        np.testing.assert_allclose(ours[name], values, rtol=1e-15, err_msg=name)
    present = np.array([0, 1, 5])
    assert np.isfinite(ours["centroid_distance"][:, present]).all()
    np.testing.assert_array_equal(ours["dice"][:, 1:], [[0, 0, 0, np.nan, 1]] * 2)


@needs_cpp
def test_arrays_that_are_not_contiguous_are_taken() -> None:
    numbers = measured(3, 1, ("voxel",))
    turned = numbers._replace(counts=np.asfortranarray(numbers.counts))
    plain, ours = (
        metric_table(n, spacing=(1, 1, 1), percentile=95.0, tolerances=["nsd"])
        for n in (numbers, turned)
    )
    for name, values in plain.items():
        np.testing.assert_array_equal(ours[name], values)


@needs_cpp
def test_tables_of_another_size_are_refused() -> None:
    counts, sums = np.ones((2, 3), np.int64), np.ones((2, 2, 3), np.int64)
    table, short = np.empty((7, 2)), np.empty((6, 2))
    directed = np.ones((2, 2, 5))

    def capsules(*arrays: np.ndarray) -> list[object]:
        return [array.__dlpack__() for array in arrays]

    with pytest.raises(ValueError, match=r"^table: expected float64 of shape \(7, \.\.\.\)"):
        _ext.C.overlap_metrics_cpu(*capsules(counts, sums), (1, 1, 1), *capsules(short))
    with pytest.raises(ValueError, match=r"^sums: expected int64"):
        _ext.C.overlap_metrics_cpu(*capsules(counts, sums), (1, 1), *capsules(table))
    with pytest.raises(ValueError, match=r"^counts: expected int64"):
        _ext.C.overlap_metrics_cpu(*capsules(counts * 1.0, sums), (1, 1, 1), *capsules(table))
    with pytest.raises(ValueError, match=r"^table: expected float64"):
        _ext.C.surface_metrics_cpu(*capsules(directed), None, *capsules(short))
    with pytest.raises(ValueError, match=r"^directed: expected shape"):
        _ext.C.surface_metrics_cpu(*capsules(directed[..., :3].copy()), None, *capsules(table))
