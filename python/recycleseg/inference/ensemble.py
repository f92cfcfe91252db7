"""One segmentation of every case from those in several folders."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recycleseg.data.check import grid_problems
from recycleseg.data.preprocess import region_masks
from recycleseg.data.probabilities import write_probabilities
from recycleseg.data.volumes import DatasetError, Volume, file_ending, read_volume, write_like
from recycleseg.inference.members import Classes, Member, read_object
from recycleseg.inference.native import paint_regions
from recycleseg.ops.build_info import build_info
from recycleseg.ops.ensemble_vote import EnsembleVote, ensemble_vote

Method = Literal["mean", "majority", "max"]
_RECORD = "predict.json"


@dataclass(frozen=True)
class EnsembleOptions:
    """How members are combined and what is saved; see `recycleseg.ensemble_vote`.

    Attributes:
        method: score of a class: mean probability, share of the votes, or largest probability.
        weights: one a member; null: the same for all.
        thresholds: of overlapping regions: one, or one a region.
        save_probabilities: the scores, as nnU-Net saves probabilities.
        save_uncertainty: entropy of the mean, and the members' disagreement (mutual information).
    """

    method: Method = "mean"
    weights: tuple[float, ...] | None = None
    thresholds: tuple[float, ...] | None = None
    save_probabilities: bool = False
    save_uncertainty: bool = False


class Vote(NamedTuple):
    """A combined case on the grid of its label maps; what was not asked for is None.

    label: (*S) uint8. probs: (C, *S) float32. entropy, disagreement: (*S) float32, nats; of
    overlapping regions the sums over them. volume: the first member's label map.
    """

    label: Tensor
    probs: Tensor | None
    entropy: Tensor | None
    disagreement: Tensor | None
    volume: Volume


@dataclass(frozen=True)
class Ensemble:
    """Combines the predictions of its members, case by case, with one member in memory at a time.

    Label maps beside probabilities count as probabilities 0 and 1. Label maps alone vote.

    Raises ValueError naming the option that does not go with the members.
    """

    members: tuple[Member, ...]
    classes: Classes
    options: EnsembleOptions = field(default_factory=EnsembleOptions)

    def __post_init__(self) -> None:
        _check_options(self.options, self.members, self.classes)

    @property
    def method(self) -> Method:
        """What `options` ask for; label maps alone can only vote."""
        return self.options.method if any(m.has_probs for m in self.members) else "majority"

    def __call__(self, case_id: str) -> Vote:
        """Combine one case.

        Raises:
            DatasetError: a file of a member is missing, damaged, on another grid than the first
                member's or does not have these classes.
        """
        options, exclusive = self.options, self.classes.exclusive
        grid = read_volume(self.members[0].maps[case_id])
        as_labels = exclusive and not any(member.has_probs for member in self.members)
        vote = ensemble_vote(
            self._read_one_by_one(case_id, grid, as_labels),
            source_type="label" if as_labels else "probs",
            num_classes=len(self.classes.names),
            method=self.method,
            exclusive=exclusive,
            weights=options.weights,
            thresholds=_thresholds(options, self.classes),
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
        if self.classes.regions is not None:
            label = paint_regions(label.bool(), self.classes.regions)
            entropy, disagreement = (
                None if x is None else x.sum(0) for x in (entropy, disagreement)
            )
        return Vote(label, probs, entropy, disagreement, grid)

    def _read_one_by_one(self, case_id: str, grid: Volume, as_labels: bool) -> Iterator[Tensor]:
        """Labels (1, *S) uint8 or probabilities (1, C, *S) float32, `_turned`; none is kept."""
        for member in self.members:
            if member.has_probs:
                _check_grid(read_volume(member.maps[case_id]), grid)
                names = self.classes.names
                yield _turned(
                    torch.from_numpy(member.read_probs(case_id, grid.array.shape, names))[None],
                    grid,
                )
            else:
                volume = member.read_label(case_id, self.classes.num_values)
                _check_grid(volume, grid)
                label = torch.from_numpy(volume.array)
                yield _turned((label if as_labels else self._one_hot(label))[None], grid)

    def _one_hot(self, label: Tensor) -> Tensor:
        regions = self.classes.regions or [[value] for value in range(self.classes.num_values)]
        return region_masks(label, regions).float()


def _check_options(options: EnsembleOptions, members: Sequence[Member], classes: Classes) -> None:
    maps = ", ".join(str(member.root) for member in members if not member.has_probs)
    weights, thresholds = options.weights, options.thresholds
    if options.method == "max" and maps:
        raise ValueError(
            "--method: expected mean or majority where members are label maps, got max with "
            f"label maps in {maps}"
        )
    if weights is not None and options.method == "max":
        raise ValueError("--weights: expected none with --method max, which does not weigh")
    if weights is not None and len(weights) != len(members):
        raise ValueError(f"--weights: expected {len(members)}, one a member, got {len(weights)}")
    if weights is not None and not (all(0 <= w < math.inf for w in weights) and any(weights)):
        raise ValueError(f"--weights: expected at least 0 and not all 0, got {weights}")
    if thresholds is not None and classes.exclusive:
        raise ValueError(
            "--thresholds: expected none where a voxel has one class, that of the largest score"
        )
    if thresholds is not None and len(thresholds) not in (1, len(classes.names)):
        raise ValueError(
            f"--thresholds: expected one, or one each for {', '.join(classes.names)}, got "
            f"{len(thresholds)}"
        )
    if thresholds is not None and not all(0 < t <= 1 for t in thresholds):
        raise ValueError(f"--thresholds: expected above 0 up to 1, got {thresholds}")


def _thresholds(options: EnsembleOptions, classes: Classes) -> list[float]:
    given = options.thresholds or (0.5,)
    return list(given * len(classes.names) if len(given) == 1 else given)


def _check_grid(volume: Volume, grid: Volume) -> None:
    problems = grid_problems(volume, grid, there=str(grid.path))
    if problems:
        raise DatasetError(problems[0])


def _turned(x: Tensor, grid: Volume) -> Tensor:
    """The last three axes of a volume reversed: voting runs along memory, in the files' order."""
    if grid.array.ndim == 2:
        return x
    return x.permute(*range(x.ndim - 3), *reversed(range(x.ndim - 3, x.ndim)))


@dataclass(frozen=True)
class Outcome:
    """How a case went; failure: None, or why there is no segmentation, in one line."""

    case_id: str
    failure: str | None = None


class EnsembleFolder:
    """The folder of the results, with its record predict.json; the format of recycle-predict."""

    def __init__(self, root: Path, ensemble: Ensemble) -> None:
        self.root = root
        self.ensemble = ensemble
        members = ensemble.members
        described = next((m.description for m in members if m.description is not None), {})
        first = next(iter(members[0].maps.values()))
        content = {
            "members": [
                {"folder": str(m.root.absolute()), "probabilities": m.has_probs} for m in members
            ],
            "options": {**asdict(ensemble.options), "method": ensemble.method},
            "dataset": {
                "labels": dict(ensemble.classes.labels),
                "channel_names": described.get("channel_names"),
                "file_ending": file_ending(first),
            },
            "environment": build_info(),
            "images": {},
            "seconds": {},
            "failed": {},
        }
        self.record: dict[str, Any] = json.loads(json.dumps(content))

    def open(self, case_ids: Sequence[str], *, overwrite: bool) -> list[str]:
        """The cases that are left to combine.

        overwrite: all of them; what is there of them is deleted, if this command made it.

        Raises:
            ValueError: the folder is a member, or holds something else than the result of these
                members and options.
        """
        if any(member.root.resolve() == self.root.resolve() for member in self.ensemble.members):
            raise ValueError(f"--out: expected another folder than the members', got {self.root}")
        self._take_over(self.root / _RECORD, case_ids, overwrite)
        self.root.mkdir(parents=True, exist_ok=True)
        for case_id in case_ids if overwrite else ():
            for file in self._files(case_id).values():
                file.unlink(missing_ok=True)
        for member in reversed(self.ensemble.members):
            images = {c: member.images[c] for c in case_ids if c in member.images}
            self.record["images"].update(images)
        self.save_record()
        return [c for c in case_ids if not self._files(c)["label"].exists()]

    def write(self, case_id: str, vote: Vote, seconds: float) -> None:
        """Write the files of a case, its label map last, and the record."""
        files = self._files(case_id)
        if vote.probs is not None:
            write_probabilities(files["probs"], vote.probs)
        for kind, nats in (("entropy", vote.entropy), ("disagreement", vote.disagreement)):
            if nats is not None:
                files[kind].parent.mkdir(exist_ok=True)
                write_like(files[kind], self._stored_nats(nats), vote.volume)
        write_like(files["label"], vote.label.numpy(), vote.volume)
        self.record["seconds"][case_id] = round(seconds, 3)
        self.record["failed"].pop(case_id, None)
        self.save_record()

    def fail(self, case_id: str, message: str) -> None:
        """Record why there is no segmentation of a case."""
        self.record["failed"][case_id] = message
        self.save_record()

    def save_record(self) -> None:
        """Write predict.json."""
        temporary = self.root / f".{_RECORD}.tmp"
        temporary.write_text(json.dumps(self.record, indent=2, allow_nan=False) + "\n")
        temporary.replace(self.root / _RECORD)

    def _files(self, case_id: str) -> dict[str, Path]:
        name = case_id + file_ending(self.ensemble.members[0].maps[case_id])
        return {
            "label": self.root / name,
            "probs": self.root / f"{case_id}.npz",
            "entropy": self.root / "entropy" / name,
            "disagreement": self.root / "disagreement" / name,
        }

    def _take_over(self, path: Path, case_ids: Sequence[str], overwrite: bool) -> None:
        """Keep what the record of an earlier call tells, or let it be replaced."""
        there = [f for c in case_ids for f in self._files(c).values() if f.exists()]
        old = read_object(path) if path.is_file() else {}
        if (old or there) and "members" not in old:
            other = path.name if old else there[0].relative_to(self.root)
            raise ValueError(
                f"--out: expected a new folder or one of recycle-ensemble, got {self.root} with "
                f"another {other}, which is left as it is"
            )
        changed = [
            key for key in ("members", "options", "dataset") if old.get(key) != self.record[key]
        ]
        if overwrite or not old:
            return
        if changed:
            raise ValueError(
                f"--out: {self.root} holds predictions with other {', '.join(changed)} (see "
                f"{path}); use --overwrite to combine all anew, or another --out"
            )
        for key in ("images", "seconds", "failed"):
            self.record[key].update(old.get(key, {}))

    def _stored_nats(self, nats: Tensor) -> np.ndarray[Any, Any]:
        """float32; for PNG uint16, where 65535 is the largest possible value."""
        array = nats.numpy()
        if array.ndim == 3:
            return array
        number = len(self.ensemble.classes.names)
        largest = math.log(number) if self.ensemble.classes.exclusive else number * math.log(2)
        return np.asarray((np.clip(array / largest, 0, 1) * 65535).round().astype(np.uint16))


def combine_cases(
    ensemble: Ensemble, case_ids: Sequence[str], folder: EnsembleFolder
) -> Iterator[Outcome]:
    """Combine and write case by case; one whose files are bad is told as such."""
    for case_id in case_ids:
        start = time.perf_counter()
        failure = None
        try:
            folder.write(case_id, ensemble(case_id), time.perf_counter() - start)
        except (ValueError, OSError, MemoryError) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            failure = text if isinstance(error, DatasetError) else f"{case_id}: {text}"
            folder.fail(case_id, failure)
        yield Outcome(case_id, failure)
