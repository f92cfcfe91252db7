"""What a study trains, samples and evaluates; all follows from study.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from recycleseg.files import FileError, as_json, shortened, write_text
from recycleseg.names import printable
from recycleseg.run.yaml_file import read_yaml

DESIGN = "study.yaml"

# Strategy as the paper calls it -> options of recycle-train.
STRATEGIES: dict[str, dict[str, Any]] = {
    "recycling_max": {"strategy": "recycling", "recycling.prev_step": "max"},
    "recycling_next": {"strategy": "recycling", "recycling.prev_step": "next"},
    "self_conditioning_same": {
        "strategy": "self_conditioning",
        "self_conditioning.prev_step": "same",
    },
    "self_conditioning_next": {
        "strategy": "self_conditioning",
        "self_conditioning.prev_step": "next",
    },
    "standard": {"strategy": "standard"},
    "supervised": {"strategy": "supervised"},
}
# Its training step takes the longest, so the time of a run is planned for it.
REFERENCE = "recycling_max"
# Ensembles of two: recycling with supervised, and the two of equal size that it must beat.
ENSEMBLES = (
    (REFERENCE, "supervised"),
    ("supervised", "supervised"),
    (REFERENCE, REFERENCE),
)


@dataclass(frozen=True)
class Sampling:
    """How a network that was trained by diffusion is sampled."""

    sampler: str
    num_steps: int

    @property
    def name(self) -> str:
        """Its name in the folders of a study."""
        return f"{self.sampler}-{self.num_steps}"


# A supervised network has one step.
DIRECT = Sampling("direct", 1)


@dataclass(frozen=True)
class PredictionSet:
    """Predictions of all test cases, by one network or by the mean of several.

    Attributes:
        members: (strategy, seed) of each network.
        sampling: how those that were trained by diffusion are sampled.
    """

    members: tuple[tuple[str, int], ...]
    sampling: Sampling

    @property
    def strategies(self) -> str:
        """The strategies of the members, joined by +."""
        return "+".join(strategy for strategy, _ in self.members)

    @property
    def seed(self) -> int:
        """The seed of the first member."""
        return self.members[0][1]

    @property
    def name(self) -> str:
        """Its folder: STRATEGIES/seed_S/SAMPLING."""
        return f"{self.strategies}/seed_{self.seed}/{self.sampling.name}"


@dataclass(frozen=True)
class Design:
    """A study.

    Attributes:
        data: the data set.
        time: for the training of one network, as `recycle-train --time` takes it.
        seeds: of each strategy; the networks of one seed begin alike and see the same patches.
        strategies: keys of `STRATEGIES`.
        samplers: reverse processes.
        num_steps: numbers of sampling steps.
        settings: options of `recycle-train` for every network, by their dotted names.
    """

    data: str
    time: str
    seeds: tuple[int, ...] = (0, 1, 2)
    strategies: tuple[str, ...] = tuple(STRATEGIES)
    samplers: tuple[str, ...] = ("ddim", "ddpm")
    num_steps: tuple[int, ...] = (1, 2, 5, 11)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def networks(self) -> Iterator[tuple[str, int]]:
        """Strategy and seed of every network; that whose time is planned comes first."""
        for seed in self.seeds:
            for strategy in self.strategies:
                yield strategy, seed

    def samplings(self, *strategies: str) -> list[Sampling]:
        """How networks of these strategies are sampled together."""
        if all(strategy == "supervised" for strategy in strategies):
            return [DIRECT]
        return [Sampling(s, n) for s in self.samplers for n in self.num_steps]

    def predictions_of(self, strategy: str, seed: int) -> list[PredictionSet]:
        """What is predicted by one network."""
        return [PredictionSet(((strategy, seed),), s) for s in self.samplings(strategy)]

    def ensembles(self) -> Iterator[PredictionSet]:
        """What is predicted by two networks.

        Two of one strategy are of neighbouring seeds; the last seed's neighbour is the first.
        """
        for one, other in ENSEMBLES:
            if one not in self.strategies or other not in self.strategies:
                continue
            known: set[frozenset[tuple[str, int]]] = set()
            for index, seed in enumerate(self.seeds):
                second = self.seeds[(index + 1) % len(self.seeds)] if one == other else seed
                members = ((one, seed), (other, second))
                if len({*members}) == 2 and frozenset(members) not in known:
                    known.add(frozenset(members))
                    for sampling in self.samplings(one, other):
                        yield PredictionSet(members, sampling)

    def write(self, path: Path) -> None:
        """Write study.yaml."""
        write_text(path, yaml.safe_dump(as_json(asdict(self)), sort_keys=False))


def read_design(path: Path) -> Design:
    """Read study.yaml.

    Raises:
        FileError: the file is missing or something else.
    """
    content = read_yaml(path, "a study's design")
    try:
        values: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return Design(**values)
    except (AttributeError, TypeError) as error:
        raise FileError(
            f"{path}: expected a study's design, got: {printable(str(error))}"
        ) from error


def check_same_design(path: Path, design: Design) -> None:
    """Check that a study goes on as it began.

    Raises:
        ValueError: the options differ from those in the file.
    """
    before, now = (as_json(asdict(each)) for each in (read_design(path), design))
    changed = [key for key in now if before[key] != now[key]]
    if changed:
        said = [f"{key} is {before[key]} there, {now[key]} now" for key in changed]
        raise ValueError(
            f"--out: {path.parent} holds another study: {shortened(said, 3)}; choose another "
            "--out, or give the same options"
        )
