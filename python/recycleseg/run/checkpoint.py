"""A checkpoint: one safetensors file that holds everything a run needs to go on.

Tensors are named by owner (`network/...`, `average/...`, `optimizer/...`, `timesteps/...`);
counters and scores are JSON in the file's header. One file, replaced in one rename, so that
a run killed at any moment leaves either the old checkpoint or the new one.
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
    """tensors: "owner/name" -> tensor. state: JSON values; "step" counts optimiser steps done."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]

    def owned_by(self, owner: str) -> dict[str, Tensor]:
        """Tensors of one owner, without the owner's prefix."""
        prefix = owner + "/"
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint to `path`, atomically."""
    tensors = {k: v.detach().contiguous().cpu() for k, v in checkpoint.tensors.items()}
    header = json.dumps({"format_version": FORMAT_VERSION, **checkpoint.state})
    with written_whole(path) as temporary:
        save_file(tensors, temporary, metadata={"recycleseg": header})
        with open(temporary, "rb+") as written:  # a power cut must not leave a new, empty file
            os.fsync(written.fileno())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        FileError: it is not there, not whole or not a checkpoint.
    """
    if not path.is_file():
        raise FileError(f"{path}: expected a checkpoint, found no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("recycleseg")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
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
    """Put back what `optimizer_tensors` gave."""
    parameters = dict(network.named_parameters())
    for key, value in tensors.items():
        name, quantity = key.rsplit("/", 1)
        parameter = parameters[name]
        value = value.to(parameter.device)
        if value.shape == parameter.shape:
            value = value.to(memory_format=_layout(parameter))
        state.setdefault(parameter, {})[quantity] = value


def _layout(parameter: Tensor) -> torch.memory_format:
    for layout in (torch.channels_last, torch.channels_last_3d):
        if parameter.ndim == (4 if layout is torch.channels_last else 5):
            if parameter.is_contiguous(memory_format=layout):
                return layout
    return torch.contiguous_format
