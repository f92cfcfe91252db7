"""Sampling whole cases and counting their voxels: what validation and the final table do."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recycleseg.data.layout import Dataset
from recycleseg.data.preprocess import PreparedCase, native_label, restore
from recycleseg.evaluation.summary import nnunet_metrics, summarise
from recycleseg.inference.volume import VolumeSampler
from recycleseg.metrics import overlap
from recycleseg.metrics.overlap import dice_from_counts
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


def summary_of(evaluation: Evaluation, dataset: Dataset) -> dict[str, Any]:
    """What `summary.json` holds of the evaluation: see recycleseg.evaluation.summary.summarise."""
    outcomes = [
        overlap.outcomes(counts[-1].numpy(), evaluation.voxels[case_id])
        for case_id, counts in evaluation.counts.items()
    ]
    values: Sequence[int | tuple[int, ...]] = dataset.regions or range(1, dataset.num_classes)
    label_paths = [dataset.cases[case_id].label_path for case_id in evaluation.counts]
    return summarise(
        nnunet_metrics(np.stack(outcomes)),
        dict(zip(evaluation.class_names, values, strict=True)),
        prediction_files=[None] * len(outcomes),
        reference_files=[path.name if path else None for path in label_paths],
        by_step=evaluation.by_step(),
    )
