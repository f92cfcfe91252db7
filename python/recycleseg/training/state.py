"""What a checkpoint holds: all that the rest of a run depends on, or the weights alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recycleseg.diffusion.timesteps import Timesteps
from recycleseg.run.checkpoint import (
    Checkpoint,
    check_tensors,
    expected_optimizer_tensors,
    load_optimizer_tensors,
    optimizer_tensors,
)
from recycleseg.training.optim import AveragedWeights


class RunState(NamedTuple):
    """The parts of a run that change from step to step.

    Attributes:
        network: in training.
        average: of its weights, if the run averages.
        optimizer: of the network.
        timesteps: which t are drawn.
    """

    network: nn.Module
    average: AveragedWeights | None
    optimizer: torch.optim.Optimizer
    timesteps: Timesteps

    def checkpoint(self, numbers: dict[str, Any], *, weights_only: bool) -> Checkpoint:
        """A checkpoint of the present state.

        Args:
            numbers: of the run, for the header.
            weights_only: for segmenting; a run cannot go on from it.
        """
        owners = {"network": self.network.state_dict(), "average": self._averaged()}
        if not weights_only:
            owners["optimizer"] = optimizer_tensors(self.optimizer.state, self.network)
            owners["timesteps"] = self.timesteps.state_dict()
        tensors = {f"{o}/{name}": t for o, owned in owners.items() for name, t in owned.items()}
        updates = self.average.num_updates if self.average else 0
        return Checkpoint(tensors, {**numbers, "average_updates": updates})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over the whole state.

        Raises:
            FileError: it is the state of another run. Nothing is taken over then.
        """
        optimizer = checkpoint.owned_by("optimizer")
        self._check(checkpoint, "optimizer", expected_optimizer_tensors(self.network, optimizer))
        self._check(checkpoint, "timesteps", self.timesteps.state_dict())
        self.restore_weights(checkpoint)
        load_optimizer_tensors(self.optimizer.state, self.network, optimizer)
        self.timesteps.load_state_dict(checkpoint.owned_by("timesteps"))

    def restore_weights(self, checkpoint: Checkpoint) -> None:
        """Take over the weights and their average; see `restore`."""
        self._check(checkpoint, "network", self.network.state_dict())
        self._check(checkpoint, "average", self._averaged())
        updates = checkpoint.number("average_updates")
        self.network.load_state_dict(checkpoint.owned_by("network"))
        if self.average is not None:
            average = checkpoint.owned_by("average")
            for name, tensor in self.average.weights.items():
                tensor.copy_(average[name])
            self.average.num_updates = updates

    def _averaged(self) -> dict[str, Tensor]:
        return dict(self.average.weights) if self.average else {}

    def _check(self, checkpoint: Checkpoint, owner: str, expected: dict[str, Tensor]) -> None:
        what = f"the {owner} of the run"
        check_tensors(checkpoint.owned_by(owner), expected, checkpoint.source, what)
