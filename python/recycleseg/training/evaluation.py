"""Sampling whole cases and counting their voxels: what validation and the final table do."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from recycleseg.data.layout import Dataset
from recycleseg.data.preprocess import PreparedCase, native_label, restore
from recycleseg.inference.volume import VolumeSampler
from recycleseg.metrics.overlap import dice_from_counts, iou_from_counts
from recycleseg.ops.overlap_counts import overlap_counts


@dataclass
class Evaluation:
    """Voxel counts of a set of cases on their own grids.

    counts: case_id -> (K, F, 3) int64, K sampling steps, F foreground classes, [TP, predicted,
    reference]. voxels: case_id -> voxels of the case.
    """

    class_names: tuple[str, ...]
    counts: dict[str, Tensor] = field(default_factory=dict)
    voxels: dict[str, int] = field(default_factory=dict)

    def dice(self) -> Tensor:
        """(N, K, F) float64; NaN where a class is in neither map."""
        return dice_from_counts(torch.stack(list(self.counts.values())))

    def by_step(self) -> list[float]:
        """Mean foreground Dice at every sampling step: the mean of the classes' means.

        A class's mean is over the cases where it applies; NaN where no class does.
        """
        return self.dice().nanmean(0).nanmean(-1).tolist()

    def by_class(self) -> dict[str, float]:
        """Mean Dice of every foreground class at the last step, over cases where it applies."""
        means = self.dice()[:, -1].nanmean(0).tolist()
        return dict(zip(self.class_names, means, strict=True))

    def mean_dice(self) -> float:
        """Mean foreground Dice at the last step."""
        return self.by_step()[-1]


def evaluate_cases(
    sampler: VolumeSampler,
    cases: Iterable[PreparedCase],
    dataset: Dataset,
    *,
    seed: int,
    device: torch.device,
    on_case: Callable[[PreparedCase, Tensor], None] | None = None,
) -> Evaluation:
    """Sample every case and count voxels against its label, on the label file's own grid.

    The noise of a case depends on `seed` and the case's id alone. `on_case` gets the case and
    the probabilities (K, C, *S) on the prepared grid.
    """
    evaluation = Evaluation(dataset.foreground_names)
    for case in cases:
        generator = torch.Generator(device).manual_seed(
            zlib.crc32(case.case_id.encode()) ^ (seed & 0xFFFFFFFF)
        )
        probs = sampler(case.image.to(device), generator)
        reference = native_label(case).to(device)
        counts = [foreground_counts(restore(p, case), reference, dataset.exclusive) for p in probs]
        evaluation.counts[case.case_id] = torch.stack(counts).cpu()
        evaluation.voxels[case.case_id] = math.prod(case.native_shape)
        if on_case is not None:
            on_case(case, probs)
    return evaluation


def foreground_counts(probs: Tensor, reference: Tensor, exclusive: bool) -> Tensor:
    """(F, 3) counts of the foreground classes.

    probs: (C, *S). reference: (*S) labels, or (C, *S) masks where classes overlap; there a
    voxel belongs to every class whose probability exceeds one half.
    """
    if exclusive:
        label = probs.argmax(0).to(reference.dtype)
        return overlap_counts(label[None], reference[None], probs.shape[0])[0, 1:]
    masks = (probs > 0.5).to(reference.dtype)
    return overlap_counts(masks, reference, 2)[:, 1]


def summarise(evaluation: Evaluation, dataset: Dataset) -> dict[str, Any]:
    """The evaluation in nnU-Net's `summary.json` schema, plus `by_step`.

    Means are over the cases where a metric applies; `num_not_applicable` counts the others.
    Numbers that do not apply are null, so that the file is plain JSON.
    """
    keys = _nnunet_label_keys(dataset)
    metrics = {
        case_id: {
            key: _nnunet_metrics(of_class, evaluation.voxels[case_id])
            for key, of_class in zip(keys, counts[-1], strict=True)
        }
        for case_id, counts in evaluation.counts.items()
    }
    mean = {key: _mean_of([case[key] for case in metrics.values()]) for key in keys}
    not_applicable = {
        key: sum(case[key]["Dice"] is None for case in metrics.values()) for key in keys
    }
    per_case = [
        {
            "metrics": of_case,
            "prediction_file": None,
            "reference_file": getattr(dataset.cases[case_id].label_path, "name", None),
        }
        for case_id, of_case in metrics.items()
    ]
    return {
        "foreground_mean": _mean_of(list(mean.values())),
        "mean": mean,
        "num_not_applicable": not_applicable,
        "by_step": [None if math.isnan(d) else d for d in evaluation.by_step()],
        "class_names": dict(zip(keys, evaluation.class_names, strict=True)),
        "metric_per_case": per_case,
    }


def _nnunet_label_keys(dataset: Dataset) -> list[str]:
    if dataset.regions is None:
        return [str(v) for v in range(1, dataset.num_classes)]
    return [str(tuple(r)) if len(r) > 1 else str(r[0]) for r in dataset.regions]


def _nnunet_metrics(counts: Tensor, voxels: int) -> dict[str, float | None]:
    tp, n_pred, n_ref = (int(n) for n in counts)
    values = {
        "Dice": float(dice_from_counts(counts)),
        "IoU": float(iou_from_counts(counts)),
        "TP": tp,
        "FP": n_pred - tp,
        "FN": n_ref - tp,
        "TN": voxels - n_pred - n_ref + tp,
        "n_pred": n_pred,
        "n_ref": n_ref,
    }
    return {k: None if math.isnan(v) else v for k, v in values.items()}


def _mean_of(rows: list[dict[str, float | None]]) -> dict[str, float | None]:
    mean: dict[str, float | None] = {}
    for key in rows[0]:
        values = [v for row in rows if (v := row[key]) is not None]
        mean[key] = sum(values) / len(values) if values else None
    return mean
