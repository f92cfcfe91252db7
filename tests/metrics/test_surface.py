"""Metrics from surface distances."""

from __future__ import annotations

import numpy as np
import pytest

from recycleseg.metrics import surface

NAN, INF = np.nan, np.inf
# Columns: size, mean, maximum, one percentile, size within each of two tolerances.
APART = [[10, 2.0, 6.0, 4.0, 3, 9], [30, 1.0, 5.0, 4.5, 7, 20]]
MISSED = [[0, NAN, NAN, NAN, 0, 0], [30, INF, INF, INF, 0, 0]]
INVENTED = MISSED[::-1]
IN_NEITHER = [[0, NAN, NAN, NAN, 0, 0]] * 2
DIRECTED = np.array([APART, MISSED, INVENTED, IN_NEITHER], dtype=np.float64)


def test_values_and_empty_cases() -> None:
    def same(actual: np.ndarray, of_apart: float, of_one_empty: float) -> None:
        np.testing.assert_allclose(actual, [of_apart, of_one_empty, of_one_empty, NAN], rtol=1e-15)

    same(surface.hausdorff(DIRECTED), 6.0, INF)
    same(surface.percentile_hausdorff(DIRECTED), 4.5, INF)
    same(surface.assd(DIRECTED), 50 / 40, INF)
    same(surface.masd(DIRECTED), 1.5, INF)
    same(surface.nsd(DIRECTED, 2, 0), 10 / 40, 0.0)
    same(surface.nsd(DIRECTED, 2, 1), 29 / 40, 0.0)
    means = surface.directed_means(DIRECTED)
    np.testing.assert_array_equal(means, [[2, 1], [INF, INF], [INF, INF], [NAN, NAN]])


@pytest.mark.parametrize("definition", ["voxel", "surfel"])
def test_names_never_serve_two_definitions(definition: str) -> None:
    metrics = surface.surface_metrics(
        DIRECTED,
        np.arange(4.0)[:, None],
        percentile=99.5,
        tolerances=surface.tolerance_names((1.0, 2.5), single=False),
        definition=definition,
    )
    names = ["hd", "hd99.5", "assd", "masd", "mean_pred_to_ref", "mean_ref_to_pred"]
    names += ["nsd_1mm", "nsd_2.5mm"]
    if definition == "voxel":
        assert sorted(metrics) == sorted([*names, "hd99.5_pooled"])
        np.testing.assert_array_equal(metrics["hd99.5_pooled"], np.arange(4.0))
    else:
        assert sorted(metrics) == sorted(f"surfel_{name}" for name in names)
    assert all(values.shape == (4,) for values in metrics.values())


def test_one_tolerance_is_plain_nsd() -> None:
    assert surface.tolerance_names((2.0,), single=True) == {"nsd": 2.0}
    assert surface.tolerance_names((2.0,), single=False) == {"nsd_2mm": 2.0}
    assert surface.tolerance_names((2.0,), single=False, unit="pixels") == {"nsd_2pixels": 2.0}
