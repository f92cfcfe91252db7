"""Sample whole cases and count their voxels, for validation and for the final table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recycleseg.classes import Classes
from recycleseg.data.layout import Dataset
from recycleseg.data.preprocess import PreparedCase, native_label
from recycleseg.evaluation.statistics import patient_groups
from recycleseg.evaluation.summary import nnunet_metrics, summarise
from recycleseg.metrics import overlap
from recycleseg.metrics.aggregate import finite_mean, mean_of_means
from recycleseg.ops.overlap_counts import overlap_counts
from recycleseg.prediction.native import Prepared, native_slabs, to_native
from recycleseg.prediction.postprocess import cleaned
from recycleseg.progress import Progress, part_of
from recycleseg.run.options import PostprocessConfig
from recycleseg.sampling.samples import sample_case
from recycleseg.sampling.volume import VolumeSampler
from recycleseg.sampling.watch import NonFiniteError


@dataclass
class Evaluation:
    """Voxel counts of a set of cases on their own grids.

    Attributes:
        class_names: the F foreground classes.
        counts: case_id -> (K, F, 3) int64, for K sampling steps: [TP, predicted, reference].
        voxels: case_id -> number of voxels that count.
    """

    class_names: tuple[str, ...]
    counts: dict[str, Tensor] = field(default_factory=dict)
    voxels: dict[str, int] = field(default_factory=dict)

    def dice(self) -> NDArray[np.float64]:
        """Dice (N, K, F) of N cases; NaN if a class is in neither map."""
        return overlap.dice(torch.stack(list(self.counts.values())).numpy())

    def num_with_dice(self) -> list[int]:
        """After every sampling step, how many cases have Dice of some class."""
        return [int(np.isfinite(of_step).any(1).sum()) for of_step in self.dice().swapaxes(0, 1)]

    def by_step(self) -> list[float]:
        """Mean foreground Dice after every sampling step; see `mean_of_means`."""
        return [mean_of_means(of_step) for of_step in self.dice().swapaxes(0, 1)]

    def by_class(self) -> dict[str, float]:
        """Mean Dice of every foreground class after the last step, over the cases with a value."""
        means = finite_mean(self.dice()[:, -1]).tolist()
        return dict(zip(self.class_names, means, strict=True))

    def num_by_class(self) -> dict[str, int]:
        """How many cases have a value of every foreground class after the last step."""
        numbers = np.isfinite(self.dice()[:, -1]).sum(0).tolist()
        return dict(zip(self.class_names, numbers, strict=True))

    def mean_dice(self) -> float:
        """Mean foreground Dice after the last step."""
        return self.by_step()[-1]


def evaluate_cases(
    sampler: VolumeSampler,
    cases: Sequence[PreparedCase],
    dataset: Dataset,
    *,
    seed: int,
    device: torch.device,
    samples: int = 1,
    postprocess: PostprocessConfig = PostprocessConfig(),  # noqa: B008
    on_case: Callable[[PreparedCase, list[Tensor]], None] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Sample every case and count voxels against its label, on the label file's own grid.

    Voxels with the ignore label are not counted.

    Args:
        sampler: samples whole images.
        cases: preprocessed, with labels.
        dataset: the data set of the cases.
        seed: decides the noise of a case, together with its case_id; see `sample_case`.
        device: where the sampler computes.
        samples: trajectories per case, whose probabilities are averaged.
        postprocess: rules for the label maps before they are counted.
        on_case: called with each case and its target on the prepared grid after every step: labels
            (*S) uint8, or masks (C, *S) of overlapping classes.
        progress: called after every batch of windows with the amount done and the whole amount; all
            cases count alike. An exception that it raises ends the evaluation.

    Raises:
        NonFiniteError: the network gives NaN or Inf for a case; the message names the case.
    """
    evaluation = Evaluation(tuple(dataset.classes.foreground))

    def evaluate(index: int, case: PreparedCase) -> None:
        reference = native_label(case).to(device)
        reference, known = case.classes.split(reference)
        counts: list[Tensor] = []
        targets: list[Tensor] = []

        def on_step(step: int, probs: Tensor) -> None:
            counts.append(_counts_of(probs, case, reference, known, postprocess))
            if on_case is not None:
                targets.append(case.classes.decide(probs).cpu())

        sample_case(
            sampler,
            case.image.to(device),
            case.case_id,
            seed=seed,
            samples=samples,
            on_step=on_step,
            progress=part_of(progress, index, len(cases)),
        )
        evaluation.counts[case.case_id] = torch.stack(counts).cpu()
        everywhere = math.prod(case.native_shape)
        evaluation.voxels[case.case_id] = everywhere if known is None else int(known.sum())
        if on_case is not None:
            on_case(case, targets)

    for index, case in enumerate(cases):
        try:
            evaluate(index, case)
        except NonFiniteError as error:
            raise NonFiniteError(f"{case.case_id}: {error}") from error
    return evaluation


def merged(parts: Sequence[Evaluation], case_ids: Sequence[str]) -> Evaluation:
    """One evaluation of what several processes have counted, its cases in this order."""
    counts = {case_id: part.counts[case_id] for part in parts for case_id in part.counts}
    voxels = {case_id: part.voxels[case_id] for part in parts for case_id in part.voxels}
    return Evaluation(
        parts[0].class_names,
        {case_id: counts[case_id] for case_id in case_ids},
        {case_id: voxels[case_id] for case_id in case_ids},
    )


def _counts_of(
    probs: Tensor,
    case: PreparedCase,
    reference: Tensor,
    known: Tensor | None,
    postprocess: PostprocessConfig,
) -> Tensor:
    """`foreground_counts` on the file's grid, from probabilities (C, *S) on the prepared grid."""
    classes = case.classes
    if postprocess.has_rules:
        label = cleaned(to_native([Prepared(case, probs)]).label, postprocess, classes)
        target = classes.target(label).to(reference.device)
        return foreground_counts(target, reference, classes, known)
    first_axis = 0 if classes.exclusive else 1
    counts = [
        foreground_counts(
            classes.decide(slab),
            reference.narrow(first_axis, rows.start, rows.stop - rows.start),
            classes,
            None if known is None else known[rows],
        )
        for rows, slab in native_slabs(probs, case)
    ]
    return torch.stack(counts).sum(0)


def foreground_counts(
    target: Tensor, reference: Tensor, classes: Classes, known: Tensor | None = None
) -> Tensor:
    """Counts (F, 3) of the foreground classes in two targets, labels (*S) or masks (C, *S).

    Of `reference` only the voxels count that are `known` (*S); it is background elsewhere.
    """
    if known is not None:
        target = target * known
    if classes.exclusive:
        return overlap_counts(target[None], reference[None], len(classes))[0, 1:]
    return overlap_counts(target, reference, 2)[:, 1]


def summary_of(evaluation: Evaluation, dataset: Dataset) -> dict[str, Any]:
    """The evaluation as in `summary.json`; see `recycleseg.evaluation.summary.summarise`."""
    outcomes = [
        overlap.outcomes(counts[-1].numpy(), evaluation.voxels[case_id])
        for case_id, counts in evaluation.counts.items()
    ]
    label_paths = [dataset.cases[case_id].label_path for case_id in evaluation.counts]
    summary = summarise(
        nnunet_metrics(np.stack(outcomes)),
        dataset.classes.foreground,
        prediction_files=[None] * len(outcomes),
        reference_files=[path.name if path else None for path in label_paths],
        by_step=list(evaluation.dice().swapaxes(0, 1)),
        groups=patient_groups(tuple(evaluation.counts), dataset.patients),
    )
    if dataset.classes.ignore_label is not None:
        summary["settings"] = {"ignore_label": dataset.classes.ignore_label}
    return summary
