"""Sampling whole cases and counting their voxels: what validation and the final table do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recycleseg.classes import Classes
from recycleseg.data.layout import Dataset
from recycleseg.data.preprocess import PreparedCase, native_label
from recycleseg.evaluation.summary import nnunet_metrics, summarise
from recycleseg.metrics import overlap
from recycleseg.metrics.aggregate import finite_mean, mean_of_means
from recycleseg.ops.overlap_counts import overlap_counts
from recycleseg.prediction.native import Prepared, native_slabs, to_native
from recycleseg.prediction.postprocess import cleaned
from recycleseg.run.options import PostprocessConfig
from recycleseg.sampling.samples import sample_case
from recycleseg.sampling.volume import VolumeSampler

# Counts (F, 3) of probabilities on the prepared grid against the reference on the file's own.
_Count = Callable[[Tensor, PreparedCase, Tensor], Tensor]


@dataclass
class Evaluation:
    """Voxel counts of a set of cases on their own grids.

    counts: case_id -> (K, F, 3) int64, K sampling steps, F foreground classes, [TP, predicted,
    reference]. voxels: case_id -> voxels of the case.
    """

    class_names: tuple[str, ...]
    counts: dict[str, Tensor] = field(default_factory=dict)
    voxels: dict[str, int] = field(default_factory=dict)

    def dice(self) -> NDArray[np.float64]:
        """(N, K, F); NaN where a class is in neither map."""
        return overlap.dice(torch.stack(list(self.counts.values())).numpy())

    def by_step(self) -> list[float]:
        """Mean foreground Dice at every sampling step; see `mean_of_means`."""
        return [mean_of_means(of_step) for of_step in self.dice().swapaxes(0, 1)]

    def by_class(self) -> dict[str, float]:
        """Mean Dice of every foreground class at the last step, over cases where it applies."""
        means = finite_mean(self.dice()[:, -1]).tolist()
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
    samples: int = 1,
    postprocess: PostprocessConfig = PostprocessConfig(),  # noqa: B008
    on_case: Callable[[PreparedCase, list[Tensor]], None] | None = None,
) -> Evaluation:
    """Sample every case and count voxels against its label, on the label file's own grid.

    The noise of a case depends on `seed` and the case's id alone; see `sample_case`. `on_case`
    gets the case and, for every step, the label map (*S) uint8 on the prepared grid, of
    overlapping classes the masks (C, *S). postprocess: of the label maps that are counted.
    """
    evaluation = Evaluation(tuple(dataset.classes.foreground))
    for case in cases:
        reference = native_label(case).to(device)
        count: _Count = case_counts
        if postprocess.has_rules:
            count = partial(_cleaned_counts, postprocess=postprocess)
        steps = _Steps(case, reference, count, keep_maps=on_case is not None)
        image = case.image.to(device)
        sample_case(sampler, image, case.case_id, seed=seed, samples=samples, on_step=steps)
        evaluation.counts[case.case_id] = torch.stack(steps.counts).cpu()
        evaluation.voxels[case.case_id] = math.prod(case.native_shape)
        if on_case is not None:
            on_case(case, steps.maps)
    return evaluation


class _Steps:
    """Counts, and label maps where they are wanted, of the sampling steps of a case."""

    def __init__(
        self,
        case: PreparedCase,
        reference: Tensor,
        count: _Count,
        keep_maps: bool,
    ) -> None:
        self.case = case
        self.reference = reference
        self.count = count
        self.keep_maps = keep_maps
        self.counts: list[Tensor] = []
        self.maps: list[Tensor] = []

    def __call__(self, step: int, probs: Tensor) -> None:
        self.counts.append(self.count(probs, self.case, self.reference))
        if self.keep_maps:
            self.maps.append(self.case.classes.decide(probs).cpu())


def case_counts(probs: Tensor, case: PreparedCase, reference: Tensor) -> Tensor:
    """`foreground_counts` of probabilities (C, *S) on the prepared grid, on the file's own."""
    classes = case.classes
    axis = 0 if classes.exclusive else 1  # the first of *S
    counts = [
        foreground_counts(classes.decide(slab), _rows_of(reference, rows, axis), classes)
        for rows, slab in native_slabs(probs, case)
    ]
    return torch.stack(counts).sum(0)


def _rows_of(x: Tensor, rows: slice, axis: int) -> Tensor:
    return x.narrow(axis, rows.start, rows.stop - rows.start)


def _cleaned_counts(
    probs: Tensor, case: PreparedCase, reference: Tensor, postprocess: PostprocessConfig
) -> Tensor:
    """`case_counts` of the label map that a prediction would have."""
    label = to_native([Prepared(case, probs)]).label
    label = cleaned(label, postprocess, case.classes)
    target = case.classes.target(label).to(reference.device)
    return foreground_counts(target, reference, case.classes)


def foreground_counts(target: Tensor, reference: Tensor, classes: Classes) -> Tensor:
    """(F, 3) counts of the foreground classes in two targets, labels (*S) or masks (C, *S)."""
    if classes.exclusive:
        return overlap_counts(target[None], reference[None], len(classes))[0, 1:]
    return overlap_counts(target, reference, 2)[:, 1]


def summary_of(evaluation: Evaluation, dataset: Dataset) -> dict[str, Any]:
    """What `summary.json` holds of the evaluation: see recycleseg.evaluation.summary.summarise."""
    outcomes = [
        overlap.outcomes(counts[-1].numpy(), evaluation.voxels[case_id])
        for case_id, counts in evaluation.counts.items()
    ]
    label_paths = [dataset.cases[case_id].label_path for case_id in evaluation.counts]
    return summarise(
        nnunet_metrics(np.stack(outcomes)),
        dataset.classes.foreground,
        prediction_files=[None] * len(outcomes),
        reference_files=[path.name if path else None for path in label_paths],
        by_step=evaluation.by_step(),
    )
