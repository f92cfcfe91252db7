"""A checkpoint: one safetensors file with everything that a run needs to continue, or the weights.

The names of tensors begin with their owner (`network/...`, `average/...`, `optimizer/...`,
`timesteps/...`). Counters and scores are JSON in the file's header, with a checksum of each tensor;
the header has a checksum too. One rename replaces the file, so a run that is killed at any moment
leaves either the old checkpoint or the new one.
"""

from __future__ import annotations

import json
import math
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from recycleseg.files import FileError, flush, parse_json_object, shortened, written_whole

FORMAT_VERSION = 2
# Version 1 had no checksums.
_WITHOUT_CHECKSUMS = 1
_OWNERS = ("network", "average", "optimizer", "timesteps")
# The largest magnitude of a number. A weight above is damaged, or training has diverged. The time
# steps are not here, because imgx_compat keeps NaN in their statistics.
_LARGEST = {"network": 1e6, "average": 1e6, "optimizer": sys.float_info.max}
_GOOD = f"finite numbers, and weights up to {_LARGEST['network']:g}"

OptimizerState = dict[Tensor, dict[str, Tensor]]


class NumbersError(FileError):
    """The numbers of a checkpoint to save are not finite, or weights are huge."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run.

    Attributes:
        tensors: "owner/name" -> tensor.
        state: JSON values; "step" is the number of optimiser steps done.
        source: what messages call the checkpoint; its file.
    """

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    source: str = "checkpoint"

    def owned_by(self, owner: str) -> dict[str, Tensor]:
        """Tensors of one owner, with names that leave out the owner."""
        prefix = owner + "/"
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    @property
    def weights(self) -> dict[str, Tensor]:
        """The network's weights to segment with: averaged if the run averages."""
        return self.owned_by("average") or self.owned_by("network")

    def number(self, name: str) -> Any:
        """The number `name` of the state.

        Raises:
            FileError: there is none.
        """
        if name not in self.state:
            raise FileError(f"{self.source}: expected {name} in the header, got none")
        return self.state[name]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint to `path`, atomically.

    Raises:
        NumbersError: weights or the optimiser's state are not finite, or weights are huge. The file
            is not changed then.
    """
    tensors = {k: v.detach().contiguous().cpu() for k, v in checkpoint.tensors.items()}
    if wrong := _wrong_numbers(tensors):
        raise NumbersError(f"{path}: expected {_GOOD} to save, got {shortened(wrong)}")
    state = {
        "format_version": FORMAT_VERSION,
        **checkpoint.state,
        "checksums": {name: _checksum(tensor) for name, tensor in tensors.items()},
    }
    # One value in a fixed order, so that equal checkpoints are equal files.
    header = json.dumps(state, sort_keys=True)
    metadata = {"recycleseg": f"{_crc32(header)} {header}"}
    with written_whole(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
        flush(temporary)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        FileError: the file is missing, damaged or not a checkpoint, or has numbers that
            `save_checkpoint` refuses. The message names the file, and the tensor if it is one.
    """
    metadata, tensors = _read(path)
    state, checksums = _read_header(path, metadata)
    _check_tensors(path, tensors, checksums)
    return Checkpoint(tensors, state, str(path))


def read_numbers(path: Path) -> Checkpoint:
    """A checkpoint without its tensors, which are not read.

    Raises:
        FileError: as from `load_checkpoint`, but for the tensors.
    """
    metadata, _ = _read(path, with_tensors=False)
    return Checkpoint({}, _read_header(path, metadata)[0], str(path))


def _read(path: Path, *, with_tensors: bool = True) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a file."""
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise FileError(f"{path}: expected a checkpoint, got {got}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys() if with_tensors else ()
            return metadata, {name: file.get_tensor(name) for name in names}
    except Exception as error:  # damaged bytes raise errors of many types
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise FileError(f"{path}: expected a whole safetensors file, got: {reason}") from error


def _read_header(
    path: Path, metadata: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str] | None]:
    """The state, and the checksums of the tensors or None if the version has none."""
    if "recycleseg" not in metadata:
        raise FileError(f"{path}: expected a recycleseg checkpoint, got another safetensors file")
    header, checksum = metadata["recycleseg"], None
    if not header.startswith("{"):  # the version without checksums begins like this
        checksum, _, header = header.partition(" ")
    if checksum not in (None, _crc32(header)):
        raise FileError(f"{path}: expected the header that was saved, got another: it is damaged")
    state = parse_json_object(header, f"{path}: header")
    version, checksums = state.pop("format_version", None), state.pop("checksums", None)
    if type(version) is not int or version not in (_WITHOUT_CHECKSUMS, FORMAT_VERSION):
        raise FileError(f"{path}: expected checkpoint format {FORMAT_VERSION}, got {version!r}")
    if version == _WITHOUT_CHECKSUMS:
        checksums = None
    elif checksum is None or not isinstance(checksums, dict):
        raise FileError(f"{path}: expected checksums in the header, got none")
    state.setdefault("step", None)
    for name, value in state.items():
        if name in ("step", "average_updates") and not (type(value) is int and value >= 0):
            raise FileError(f"{path}: expected {name} to be an integer from 0 on, got {value!r}")
        if name == "best_dice" and not (type(value) in (int, float) and math.isfinite(value)):
            raise FileError(f"{path}: expected {name} to be a finite number, got {value!r}")
    return state, checksums


def _check_tensors(
    path: Path, tensors: Mapping[str, Tensor], checksums: Mapping[str, str] | None
) -> None:
    """Raise FileError unless these are the tensors that were saved, with numbers that can be."""
    for name in tensors if checksums is None else {**checksums, **tensors}:
        if name not in tensors:
            raise FileError(f"{path}: expected tensor {name}, got none: the file is damaged")
        if name.split("/")[0] not in _OWNERS:
            raise FileError(f"{path}: expected tensors of {', '.join(_OWNERS)}, got {name}")
        if checksums is None:
            continue
        if name not in checksums:
            raise FileError(f"{path}: expected no tensor {name}, got one: the file is damaged")
        if checksums[name] != _checksum(tensors[name]):
            raise FileError(
                f"{path}: expected tensor {name} as it was saved, got other bytes: the file is "
                "damaged"
            )
    if wrong := _wrong_numbers(tensors):
        raise FileError(f"{path}: expected {_GOOD}, got {shortened(wrong)}")


def _checksum(tensor: Tensor) -> str:
    """CRC-32 of dtype, shape and bytes: it takes less time than reading the file."""
    kind = f"{tensor.dtype} {tuple(tensor.shape)}"
    content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return _crc32(content, zlib.crc32(kind.encode()))


def _crc32(content: Any, start: int = 0) -> str:
    content = content.encode() if isinstance(content, str) else content
    return f"{zlib.crc32(content, start):08x}"


def _wrong_numbers(tensors: Mapping[str, Tensor]) -> list[str]:
    """NaN, Inf and weights that are too large, one for each tensor that has some."""
    found = []
    for name, tensor in tensors.items():
        largest = _LARGEST.get(name.split("/")[0])
        if largest is None or not tensor.is_floating_point() or not tensor.numel():
            continue
        # One pass without a copy; both ends are NaN if a value is.
        ends = (tensor if tensor.dtype == torch.float32 else tensor.double()).aminmax()
        if wrong := [end for end in map(float, ends) if not abs(end) <= largest]:
            found.append(f"{wrong[0]:g} in {name}")
    return found


def check_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str, what: str
) -> None:
    """Check that tensors fit into others: the same names, shapes and dtypes.

    Args:
        tensors: name -> tensor of a checkpoint.
        expected: name -> tensor that takes its values.
        source: what messages call the checkpoint.
        what: what messages call the expected tensors.

    Raises:
        FileError: one is missing, is too many, or has another shape or dtype.
    """
    different = [
        f"{name} is {_kind(tensors.get(name))}, not {_kind(expected.get(name))}"
        for name in {**expected, **tensors}
        if _kind(tensors.get(name)) != _kind(expected.get(name))
    ]
    if different:
        raise FileError(f"{source}: expected {what}, got others: {shortened(different, 2)}")


def _kind(tensor: Tensor | None) -> str:
    if tensor is None:
        return "missing"
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


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


def expected_optimizer_tensors(
    network: nn.Module, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Tensors like AdamW's state of the parameters that have a state in `tensors`."""
    having = {key.rpartition("/")[0] for key in tensors}
    expected: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        if name in having:
            expected[f"{name}/step"] = torch.zeros(())
            expected |= {f"{name}/{moment}": parameter for moment in ("exp_avg", "exp_avg_sq")}
    return expected
