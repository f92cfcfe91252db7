"""Every metric of many structures at once against plain arithmetic, one structure at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recycleseg.metrics.measure import Measured
from recycleseg.metrics.overlap import overlap_metrics
from recycleseg.metrics.surface import surface_metrics


def measured(num_axes: int, num_tolerances: int) -> Measured:
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
    counts = np.concatenate([both[..., None], sizes], -1)
    return Measured(counts, sums, {"voxel": (directed, pooled), "surfel": (directed * 2, pooled)})


def share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def centroids_apart(counts: list[int], sums: list[list[int]], spacing: tuple[float, ...]) -> float:
    _, pred, ref = counts
    if not pred and not ref:
        return math.nan
    if not pred or not ref:
        return math.inf
    return math.hypot(
        *((p / pred - r / ref) * s for p, r, s in zip(*sums, spacing, strict=True)),
    )


@pytest.mark.parametrize("spacing", [(0.3, 1.7), (0.3, 1.7, 2.9)])
def test_metrics_of_counts(spacing: tuple[float, ...]) -> None:
    numbers = measured(len(spacing), 1)
    metrics = overlap_metrics(numbers.counts, numbers.coordinate_sums, spacing)
    unit, factor = ("volume_ml", 1e-3) if len(spacing) == 3 else ("area_mm2", 1.0)
    for index in np.ndindex(2, 6):
        both, pred, ref = counts = numbers.counts[index].tolist()
        expected = {
            "dice": share(2 * both, pred + ref),
            "iou": share(both, pred + ref - both),
            "precision": share(both, pred or ref),
            "recall": share(both, ref or pred),
            f"pred_{unit}": pred * math.prod(spacing) * factor,
            f"ref_{unit}": ref * math.prod(spacing) * factor,
            "centroid_distance": centroids_apart(
                counts, numbers.coordinate_sums[index].tolist(), spacing
            ),
        }
        assert [*metrics] == [*expected]
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name][index], value, rtol=1e-15, err_msg=name)
    present = np.array([0, 1, 5])
    assert np.isfinite(metrics["centroid_distance"][:, present]).all()
    np.testing.assert_array_equal(metrics["dice"][:, 1:], [[0, 0, 0, np.nan, 1]] * 2)


@pytest.mark.parametrize("definition", ["voxel", "surfel"])
@pytest.mark.parametrize("tolerances", [("nsd",), ("nsd_1mm", "nsd_2mm", "nsd_3mm"), ()])
def test_metrics_of_distances(tolerances: tuple[str, ...], definition: str) -> None:
    directed, pooled = measured(3, len(tolerances)).distances[definition]
    metrics = surface_metrics(
        directed, pooled, percentile=95.0, tolerances=tolerances, definition=definition
    )
    for index in np.ndindex(2, 6):
        pred, ref = directed[index].tolist()
        size = pred[0] + ref[0]
        sums = [side[0] * side[1] if side[0] else 0.0 for side in (pred, ref)]
        means = [side[1] if side[0] else other[1] for side, other in ((pred, ref), (ref, pred))]
        expected = {
            "hd": np.fmax(pred[2], ref[2]),
            "hd95": np.fmax(pred[3], ref[3]),
            "assd": share(sum(sums), size),
            "masd": sum(means) / 2,
            "mean_pred_to_ref": means[0],
            "mean_ref_to_pred": means[1],
        }
        if definition == "voxel":
            expected["hd95_pooled"] = pooled[index][0]
        for k, name in enumerate(tolerances, start=4):
            expected[name] = share(pred[k] + ref[k], size)
        prefix = "surfel_" if definition == "surfel" else ""
        assert [*metrics] == [prefix + name for name in expected]
        for name, value in expected.items():
            actual = metrics[prefix + name][index]
            np.testing.assert_allclose(actual, value, rtol=1e-15, err_msg=name)


def test_arrays_that_are_not_contiguous_are_taken() -> None:
    numbers = measured(3, 1)
    plain, turned = (
        overlap_metrics(counts, numbers.coordinate_sums, (1, 1, 1))
        for counts in (numbers.counts, np.asfortranarray(numbers.counts))
    )
    for name, values in plain.items():
        np.testing.assert_array_equal(turned[name], values)
