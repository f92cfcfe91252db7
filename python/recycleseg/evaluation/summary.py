"""`summary.json`: nnU-Net's schema, and further sections for what the schema does not have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recycleseg.classes import Labels
from recycleseg.evaluation.statistics import Groups, bootstrap_interval, value_range
from recycleseg.metrics.aggregate import mean_of_means
from recycleseg.metrics.aggregate import summarise as summarise_values

if TYPE_CHECKING:
    from recycleseg.evaluation.folder import FolderScores


def label_key(values: int | tuple[int, ...]) -> str:
    """nnU-Net's key of a label ("1") or a region ("(1, 2)")."""
    return str(values[0] if isinstance(values, tuple) and len(values) == 1 else values)


def nnunet_metrics(outcomes: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """nnU-Net's metrics, each (B, C), from outcomes (B, C, 4): TP, FP, FN and TN in voxels."""
    tp, fp, fn, tn = np.moveaxis(outcomes, -1, 0)
    union = np.where(tp + fp + fn == 0, np.nan, tp + fp + fn)
    return {
        "Dice": 2 * tp / (union + tp),
        "IoU": tp / union,
        "TP": tp,
        "FP": fp,
        "FN": fn,
        "TN": tn,
        "n_pred": tp + fp,
        "n_ref": tp + fn,
    }


def summarise(
    table: Mapping[str, NDArray[Any]],
    labels: Labels,
    *,
    prediction_files: Sequence[str | None],
    reference_files: Sequence[str | None],
    by_step: Sequence[NDArray[np.float64]],
    groups: Groups,
) -> dict[str, Any]:
    """The content of `summary.json` as plain values; NaN and inf become None.

    Means are over finite values, which `num` counts; `num_nan` and `num_inf` count the others.
    Intervals are None with fewer than six patients, and where all values are equal.

    Args:
        table: metric -> values (B, C) of B cases.
        labels: the C structures.
        prediction_files, reference_files: one per case.
        by_step: Dice (B, C) after each sampling step.
        groups: (B,), the patient of each case.
    """
    keys = [label_key(values) for values in labels.values()]
    summaries = {
        key: {metric: summarise_values(values[:, c]) for metric, values in table.items()}
        for c, key in enumerate(keys)
    }

    def section(field: str) -> dict[str, Any]:
        return {
            key: {metric: plain(getattr(s, field)) for metric, s in of_label.items()}
            for key, of_label in summaries.items()
        }

    return {
        "foreground_mean": {m: plain(mean_of_means(values)) for m, values in table.items()},
        "mean": section("mean"),
        "metric_per_case": [
            {
                "metrics": {
                    key: {metric: plain(values[b, c]) for metric, values in table.items()}
                    for c, key in enumerate(keys)
                },
                "prediction_file": prediction_file,
                "reference_file": reference_file,
            }
            for b, (prediction_file, reference_file) in enumerate(
                zip(prediction_files, reference_files, strict=True)
            )
        ],
        "num": section("num_finite"),
        "std": section("std"),
        "median": section("median"),
        "range": _by_label(table, keys, value_range),
        "mean_interval_95": _intervals(table, keys, groups),
        "num_nan": section("num_nan"),
        "num_inf": section("num_inf"),
        "num_cases": len(groups),
        "num_patients": len(np.unique(groups)),
        "by_step": [plain(mean_of_means(dice)) for dice in by_step],
        "by_step_num": [int(np.isfinite(dice).any(1).sum()) for dice in by_step],
        "class_names": dict(zip(keys, labels, strict=True)),
    }


def summarise_folder(scores: FolderScores) -> dict[str, Any]:
    """:func:`summarise` for an evaluated folder, with all its metrics and settings.

    Raises:
        ValueError: the scores come from an evaluation folder, which does not hold voxel counts.
    """
    final = scores.by_step[-1]
    if final.outcomes is None:
        raise ValueError("scores: expected evaluated maps, got scores that were read from a file")
    ours = {m: values for m, values in final.table.items() if m not in ("dice", "iou")}
    return {
        **summarise(
            nnunet_metrics(final.outcomes) | ours,
            scores.labels,
            prediction_files=[str(scores.prediction_files[c]) for c in scores.case_ids],
            reference_files=[str(scores.reference_files[c]) for c in scores.case_ids],
            by_step=[step.table["dice"] for step in scores.by_step],
            groups=scores.groups(),
        ),
        "unit": final.unit,
        "settings": scores.settings(),
        "reference_sha256": dict(scores.reference_hashes),
        "failed": dict(scores.failed),
        "notes": list(scores.notes),
        **({"patients": dict(scores.patients)} if scores.patients else {}),
    }


def plain(value: Any) -> int | float | None:
    """A number for JSON: None for NaN and inf."""
    number: int | float = value.item() if isinstance(value, np.generic) else value
    return number if math.isfinite(number) else None


def _intervals(
    table: Mapping[str, NDArray[Any]], keys: Sequence[str], groups: Groups
) -> dict[str, Any]:
    columns = np.concatenate([values.astype(np.float64) for values in table.values()], axis=1)
    low_high = bootstrap_interval(columns, groups).reshape(2, len(table), len(keys))
    return {
        key: {metric: [plain(end) for end in low_high[:, m, c]] for m, metric in enumerate(table)}
        for c, key in enumerate(keys)
    }


def _by_label(
    table: Mapping[str, NDArray[Any]],
    keys: Sequence[str],
    of_values: Callable[[NDArray[Any]], tuple[float, float]],
) -> dict[str, Any]:
    return {
        key: {m: list(map(plain, of_values(values[:, c]))) for m, values in table.items()}
        for c, key in enumerate(keys)
    }
