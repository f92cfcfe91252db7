"""From probabilities on prepared grids to label maps and uncertainty on the image file's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recycleseg.data.preprocess import PreparedCase, restore
from recycleseg.sampling.memory import slabs

Regions = Sequence[Sequence[int]] | None


@dataclass(frozen=True)
class Prepared:
    """What one model says of a case, on the grid that it was prepared to.

    probs: (C, *S) float32. disagreement: mutual information of the model's samples in nats,
    (1, *S), of overlapping classes (C, *S); None: there is one sample, or it was not asked for.
    """

    case: PreparedCase
    probs: Tensor
    disagreement: Tensor | None = None


@dataclass(frozen=True)
class Native:
    """A case on its file's own grid: label (*S) uint8; the others as in `Prediction`, or None."""

    label: Tensor
    probs: Tensor | None
    entropy: Tensor | None
    disagreement: Tensor | None


def native_slabs(probs: Tensor, case: PreparedCase) -> Iterator[tuple[slice, Tensor]]:
    """Restore probabilities (C, *S) a few rows of the file's first axis at a time.

    Yields the rows and (C, rows, ...) float32; together they are what `restore` gives.
    """
    for rows in slabs(case.native_shape, len(probs)):
        yield rows, restore(probs, case, rows)


def to_native(
    models: Sequence[Prepared], *, return_probs: bool = False, return_uncertainty: bool = False
) -> Native:
    """Mean of what one or more models say of a case, on its file's grid, a slab at a time.

    Disagreement is the entropy of the mean less the mean entropy of all members, by the chain rule
    the mutual information between models plus the mean of that between each model's samples. The
    latter is interpolated where the model's grid is another one.
    """
    case = models[0].case
    shape, classes = case.native_shape, len(models[0].probs)
    label = torch.empty(shape, dtype=torch.uint8)
    probs = torch.empty((classes, *shape)) if return_probs else None
    entropy = torch.empty(shape) if return_uncertainty else None
    disagreement = torch.zeros(shape) if return_uncertainty else None
    for rows in slabs(shape, classes):
        members = [restore(model.probs, model.case, rows) for model in models]
        mean = members[0] if len(members) == 1 else torch.stack(members).mean(0)
        label[rows] = label_of(mean, case.regions)
        if probs is not None:
            probs[:, rows] = mean.cpu()
        if entropy is None or disagreement is None:
            continue
        exclusive = case.regions is None
        of_mean = entropy_of(mean, exclusive)
        entropy[rows] = of_mean.cpu()
        if len(members) > 1:
            within = sum(entropy_of(member, exclusive) for member in members) / len(members)
            disagreement[rows] += (of_mean - within).cpu()
        for model in models:
            if model.disagreement is not None:
                own = restore(model.disagreement, model.case, rows).sum(0)
                disagreement[rows] += own.cpu() / len(models)
        disagreement[rows].clamp_(min=0)
    return Native(label, probs, entropy, disagreement)


def entropy_of(probs: Tensor, exclusive: bool) -> Tensor:
    """Entropy (*S) in nats of probabilities (C, *S), of overlapping classes summed over them."""
    probs = probs.clamp(0, 1)
    entropy: Tensor = torch.special.entr(probs)
    if not exclusive:
        entropy = entropy + torch.special.entr(1 - probs)
    return entropy.sum(0)


def label_of(probs: Tensor, regions: Regions) -> Tensor:
    """Label map (*S) uint8 on the CPU of probabilities (C, *S).

    The most probable class; of overlapping ones, those of at least one half, by `paint_regions`.
    """
    if regions is None:
        return probs.argmax(0).to("cpu", torch.uint8)
    return paint_regions((probs >= 0.5).cpu(), regions)


def paint_regions(masks: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """Label map (*S) uint8 of overlapping masks (C, *S) bool, whose label values are `regions`.

    A voxel takes the label value that lies in just the regions that hold it, if there is one: then
    `region_masks` of the result gives the masks back. Elsewhere regions of more label values are
    painted first and the more specific ones over them, as nnU-Net does by its
    `regions_class_order`; each with its first label value that no region painted later holds, or
    with its first one if there is none.
    """
    order = sorted(range(len(regions)), key=lambda index: -len(regions[index]))
    label = torch.zeros(masks.shape[1:], dtype=torch.uint8)
    for position, index in enumerate(order):
        painted_later = {value for other in order[position + 1 :] for value in regions[other]}
        own = [value for value in regions[index] if value not in painted_later]
        label[masks[index]] = (own or regions[index])[0]
    for value in sorted({value for region in regions for value in region}, reverse=True):
        held = torch.tensor([value in region for region in regions])
        exact = (masks == held.reshape(-1, *[1] * (masks.ndim - 1))).all(0)
        label[exact] = value
    return label
