"""A checkpoint: one safetensors file with everything that a run needs to continue.

The names of tensors begin with their owner (`network/...`, `average/...`, `optimizer/...`,
`timesteps/...`). Counters and scores are JSON in the file's header. One rename replaces the file,
so a run that is killed at any moment leaves either the old checkpoint or the new one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from recycleseg.files import FileError, written_whole

FORMAT_VERSION = 1

OptimizerState = dict[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run.

    Attributes:
        tensors: "owner/name" -> tensor.
        state: JSON values; "step" is the number of optimiser steps done.
    """

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]

    def owned_by(self, owner: str) -> dict[str, Tensor]:
        """Tensors of one owner, with names that leave out the owner."""
        prefix = owner + "/"
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    @property
    def weights(self) -> dict[str, Tensor]:
        """The network's weights to segment with: averaged if the run averages."""
        return self.owned_by("average") or self.owned_by("network")


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint to `path`, atomically."""
    tensors = {k: v.detach().contiguous().cpu() for k, v in checkpoint.tensors.items()}
    header = json.dumps({"format_version": FORMAT_VERSION, **checkpoint.state})
    with written_whole(path) as temporary:
        save_file(tensors, temporary, metadata={"recycleseg": header})
        with open(temporary, "rb+") as written:  # so that a power cut leaves no empty file
            os.fsync(written.fileno())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        FileError: the file is missing, damaged or not a checkpoint.
    """
    if not path.is_file():
        raise FileError(f"{path}: expected a checkpoint, got no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("recycleseg")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, RuntimeError) as error:  # RuntimeError: PyTorch cannot map the file
        raise FileError(f"{path}: expected a whole safetensors file, got: {error}") from error
    if header is None:
        raise FileError(f"{path}: expected a recycleseg checkpoint, got another safetensors file")
    state = json.loads(header)
    if state.pop("format_version") != FORMAT_VERSION:
        raise FileError(f"{path}: expected checkpoint format {FORMAT_VERSION}")
    return Checkpoint(tensors, state)


def optimizer_tensors(state: OptimizerState, network: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state as tensors "<parameter>/<quantity>"."""
    return {
        f"{name}/{quantity}": value
        for name, parameter in network.named_parameters()
        for quantity, value in state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    state: OptimizerState, network: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Restore the state that `optimizer_tensors` gave, in the memory layout of the parameters."""
    parameters = dict(network.named_parameters())
    for key, value in tensors.items():
        name, quantity = key.rsplit("/", 1)
        parameter = parameters[name]
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(parameter, {})[quantity] = value.to(parameter.device)
