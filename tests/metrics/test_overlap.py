"""Metrics from counts."""

from __future__ import annotations

import numpy as np
import torch

from recycleseg.metrics.overlap import (
    centroid_distance,
    dice,
    iou,
    precision,
    recall,
    volumes,
)


def test_values_and_empty_cases() -> None:
    counts = torch.tensor(
        [
            [30, 40, 60],  # overlap
            [0, 5, 7],  # disjoint
            [0, 0, 7],  # missed
            [0, 5, 0],  # invented
            [0, 0, 0],  # in neither: not applicable
            [9, 9, 9],  # perfect
        ]
    )
    dice_of_counts, iou_of_counts = (torch.from_numpy(f(counts.numpy())) for f in (dice, iou))
    assert dice_of_counts.dtype == iou_of_counts.dtype == torch.float64
    nan = float("nan")
    expected_dice = torch.tensor([0.6, 0.0, 0.0, 0.0, nan, 1.0], dtype=torch.float64)
    expected_iou = torch.tensor([3 / 7, 0.0, 0.0, 0.0, nan, 1.0], dtype=torch.float64)
    torch.testing.assert_close(dice_of_counts, expected_dice, equal_nan=True, rtol=1e-15, atol=0)
    torch.testing.assert_close(iou_of_counts, expected_iou, equal_nan=True, rtol=1e-15, atol=0)
    assert dice(counts.numpy().reshape(2, 3, 3)).shape == (2, 3)


def test_no_rounding_of_large_volumes() -> None:
    huge = 2**40 + 1
    assert float(dice(np.array([huge - 1, huge, huge]))) == 2 * (huge - 1) / (2 * huge)


def test_precision_and_recall() -> None:
    counts = np.array([[30, 40, 60], [0, 0, 7], [0, 5, 0], [0, 0, 0]])
    np.testing.assert_array_equal(precision(counts), [0.75, 0, 0, np.nan])
    np.testing.assert_array_equal(recall(counts), [0.5, 0, 0, np.nan])


def test_volumes_are_numbers_whatever_is_empty() -> None:
    counts = np.array([[30, 40, 60], [0, 0, 0]])
    np.testing.assert_allclose(volumes(counts, (2.0, 0.5, 3.0)), [[0.12, 0.18], [0, 0]])
    np.testing.assert_allclose(volumes(counts, (2.0, 0.5)), [[40, 60], [0, 0]])


def test_centroid_distance() -> None:
    counts = np.array([[1, 2, 4], [0, 0, 3], [0, 2, 0], [0, 0, 0]])
    sums = np.array([[[2, 8], [16, 4]], [[0, 0], [3, 3]], [[4, 4], [0, 0]], [[0, 0], [0, 0]]])
    # Centroids (1, 4) and (4, 1), of which the second axis is stretched by 4/3.
    distance = centroid_distance(counts, sums, (1.0, 4 / 3))
    np.testing.assert_allclose(distance, [5.0, np.inf, np.inf, np.nan], rtol=1e-15)
