"""Combine the segmentations in several folders into one per case."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from recycleseg.classes import Classes
from recycleseg.data.check import grid_problems
from recycleseg.data.volumes import Volume, read_volume
from recycleseg.files import FileError
from recycleseg.ops.ensemble_vote import EnsembleVote, ensemble_vote
from recycleseg.prediction.members import Member
from recycleseg.prediction.predictor import Prediction

Method = Literal["mean", "majority", "max"]


@dataclass(frozen=True)
class EnsembleOptions:
    """How members are combined and what is saved; see `recycleseg.ensemble_vote`.

    Attributes:
        method: score of a class: mean probability, share of the votes, or largest probability.
        weights: one per member; None gives all members the same weight.
        thresholds: for overlapping regions: one for all, or one per region; None means 0.5.
        save_probabilities: save the scores, in nnU-Net's format for probabilities.
        save_uncertainty: save the entropy of the mean, and the members' disagreement (mutual
            information).
    """

    method: Method = "mean"
    weights: tuple[float, ...] | None = None
    thresholds: tuple[float, ...] | None = None
    save_probabilities: bool = False
    save_uncertainty: bool = False


@dataclass(frozen=True)
class Ensemble:
    """Combines the predictions of its members, case by case, with one member in memory at a time.

    If some members have probabilities, the label maps of the others count as probabilities 0 and
    1. If no member has probabilities, the label maps vote.

    Attributes:
        members: the folders of predictions.
        classes: the classes of all members.
        options: how to combine the members.

    Raises:
        ValueError: an option does not fit the members; the message names it.
    """

    members: tuple[Member, ...]
    classes: Classes
    options: EnsembleOptions = field(default_factory=EnsembleOptions)

    def __post_init__(self) -> None:
        _check_options(self.options, self.members, self.classes)

    @property
    def method(self) -> Method:
        """The method that `options` name, or "majority" if no member has probabilities."""
        return self.options.method if any(m.has_probs for m in self.members) else "majority"

    def __call__(self, case_id: str) -> Prediction:
        """Combine one case on the grid of the first member's label map.

        Returns:
            The prediction, without sampling steps.

        Raises:
            FileError: a file of a member is missing or damaged, has other classes, or has another
                grid than the first member's.
        """
        options, exclusive = self.options, self.classes.exclusive
        thresholds = options.thresholds or (0.5,)
        grid = self._grid(case_id)
        as_labels = exclusive and not any(member.has_probs for member in self.members)
        vote = ensemble_vote(
            self._read_one_by_one(case_id, grid, as_labels),
            source_type="label" if as_labels else "probs",
            num_classes=len(self.classes),
            method=self.method,
            exclusive=exclusive,
            weights=options.weights,
            thresholds=thresholds[0] if len(thresholds) == 1 else thresholds,
            return_probs=options.save_probabilities,
            return_entropy=options.save_uncertainty,
            return_mutual_information=options.save_uncertainty,
        )
        if isinstance(vote, Tensor):
            vote = EnsembleVote(vote, None, None, None, None, None)
        label = _turned(vote.label, grid)[0]
        probs, entropy, disagreement = (
            None if x is None else _turned(x, grid)[0]
            for x in (vote.probs, vote.entropy, vote.mutual_information)
        )
        label = self.classes.label_map(label)
        if not exclusive:
            entropy, disagreement = (
                None if x is None else x.sum(0) for x in (entropy, disagreement)
            )
        return Prediction(
            label,
            probs,
            entropy,
            disagreement,
            steps=(),
            volume=grid,
            names=self.classes.foreground,
        )

    def _grid(self, case_id: str) -> Volume:
        """The first member's label map, with the pixel size of the first member that gives one."""
        grid = read_volume(self.members[0].maps[case_id])
        for member in self.members[1:]:
            if grid.spacing is not None:
                break
            grid = replace(grid, spacing=read_volume(member.maps[case_id]).spacing)
        return grid

    def _read_one_by_one(self, case_id: str, grid: Volume, as_labels: bool) -> Iterator[Tensor]:
        for member in self.members:
            # No name keeps a member's prediction while the next one is read.
            yield _turned(self._read(member, case_id, grid, as_labels)[None], grid)

    def _read(self, member: Member, case_id: str, grid: Volume, as_labels: bool) -> Tensor:
        """Labels (*S) uint8 or probabilities (C, *S) float32 of one member."""
        volume = member.read_label(case_id, self.classes.values)
        _check_grid(volume, grid)
        if member.has_probs:
            return torch.from_numpy(member.read_probs(case_id, volume, self.classes))
        label = torch.from_numpy(volume.array)
        return label if as_labels else self.classes.masks(label).float()


def _check_options(options: EnsembleOptions, members: Sequence[Member], classes: Classes) -> None:
    maps = ", ".join(str(member.root) for member in members if not member.has_probs)
    weights, thresholds = options.weights, options.thresholds
    if options.method == "max" and maps:
        raise ValueError(
            "--method: expected mean or majority where members are label maps, got max with "
            f"label maps in {maps}"
        )
    if weights is not None and options.method == "max":
        raise ValueError("--weights: expected none with --method max, which does not use them")
    if weights is not None and len(weights) != len(members):
        raise ValueError(f"--weights: expected {len(members)}, one per member, got {len(weights)}")
    if weights is not None and not (all(0 <= w < math.inf for w in weights) and any(weights)):
        raise ValueError(f"--weights: expected at least 0 and not all 0, got {weights}")
    if thresholds is not None and classes.exclusive:
        raise ValueError(
            "--thresholds: expected none for exclusive classes, because the largest score decides"
        )
    if thresholds is not None and len(thresholds) not in (1, len(classes)):
        raise ValueError(
            f"--thresholds: expected one for all, or one for each of {', '.join(classes.names)}, "
            f"got {len(thresholds)}"
        )
    if thresholds is not None and not all(0 < t <= 1 for t in thresholds):
        raise ValueError(f"--thresholds: expected above 0 and at most 1, got {thresholds}")


def _check_grid(volume: Volume, grid: Volume) -> None:
    problems = grid_problems(volume, grid, there=str(grid.path))
    if problems:
        raise FileError(problems[0])


def _turned(x: Tensor, grid: Volume) -> Tensor:
    """Reverse the axes of a 3D volume, because voting is fastest in the files' memory order."""
    if grid.array.ndim == 2:
        return x
    return x.permute(*range(x.ndim - 3), *reversed(range(x.ndim - 3, x.ndim)))
