"""From probabilities on prepared grids to label maps and uncertainty on the file's own grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recycleseg.data.preprocess import PreparedCase, restore
from recycleseg.sampling.memory import slabs


@dataclass(frozen=True)
class Prepared:
    """One model's result for a case, on the prepared grid.

    Attributes:
        case: the prepared case.
        probs: (C, *S) float32 or float16.
        disagreement: mutual information of the model's samples in nats, (1, *S), or (C, *S) for
            overlapping classes; None for one sample, or if it was not asked for.
    """

    case: PreparedCase
    probs: Tensor
    disagreement: Tensor | None = None


@dataclass(frozen=True)
class Native:
    """A case on its file's own grid; the attributes are those of `Prediction`."""

    label: Tensor
    probs: Tensor | None
    entropy: Tensor | None
    disagreement: Tensor | None


def native_slabs(probs: Tensor, case: PreparedCase) -> Iterator[tuple[slice, Tensor]]:
    """Restore probabilities (C, *S), a few rows of the file's first axis at a time.

    Yields:
        The rows, and their probabilities (C, rows, ...) float32. Together they equal what
        `restore` gives.
    """
    for rows in slabs(case.native_shape, len(probs)):
        yield rows, restore(probs, case, rows)


def to_native(
    models: Sequence[Prepared], *, return_probs: bool = False, return_uncertainty: bool = False
) -> Native:
    """Average the results of one or more models for a case, on the grid of its file.

    The work goes slab by slab, to save memory. Disagreement is the entropy of the mean minus the
    mean entropy of all members. By the chain rule this is the mutual information between the
    models plus the mean over the models of the mutual information between their samples. The
    second part is interpolated from each model's prepared grid.

    Args:
        models: the result of each model.
        return_probs: whether to give the mean probabilities.
        return_uncertainty: whether to give entropy and disagreement.
    """
    case = models[0].case
    shape, channels = case.native_shape, len(models[0].probs)
    label = torch.empty(shape, dtype=torch.uint8)
    probs = torch.empty((channels, *shape)) if return_probs else None
    entropy = torch.empty(shape) if return_uncertainty else None
    disagreement = torch.zeros(shape) if return_uncertainty else None
    for rows in slabs(shape, channels):
        members = [restore(model.probs, model.case, rows) for model in models]
        mean = members[0] if len(members) == 1 else torch.stack(members).mean(0)
        label[rows] = case.classes.label_map(case.classes.decide(mean))
        if probs is not None:
            probs[:, rows] = mean.cpu()
        if entropy is None or disagreement is None:
            continue
        of_mean = case.classes.entropy(mean)
        entropy[rows] = of_mean.cpu()
        if len(members) > 1:
            within = sum(case.classes.entropy(member) for member in members) / len(members)
            disagreement[rows] += (of_mean - within).cpu()
        for model in models:
            if model.disagreement is not None:
                own = restore(model.disagreement, model.case, rows).sum(0)
                disagreement[rows] += own.cpu() / len(models)
        disagreement[rows].clamp_(min=0)
    return Native(label, probs, entropy, disagreement)
