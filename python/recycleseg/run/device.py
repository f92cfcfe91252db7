"""The device that a run computes on, and the precision that it computes in."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn


def choose_device(name: str) -> torch.device:
    """The device that `runtime.device` names.

    Raises:
        ValueError: there is no such device here.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = {f"cuda:{n}" for n in range(num_gpus)} | ({"cuda"} if num_gpus else set())
    if name == "auto":
        return torch.device("cuda" if gpus else "cpu")
    if name not in {"cpu", *gpus}:
        raise ValueError(
            "runtime.device: expected auto, cpu, cuda or cuda:N with N below the number of GPUs "
            f"visible here ({num_gpus}), got {name!r}{_about_device(name, num_gpus)}"
        )
    return torch.device(name)


def own_gpu(name: str) -> str:
    """A GPU for each of several processes that torchrun or a step of Slurm started on a machine.

    Args:
        name: of a device; only "auto" and "cuda" are changed, and only if this process sees several
            GPUs.
    """
    in_step = "SLURM_STEP_NUM_TASKS" in os.environ
    number = os.environ.get("LOCAL_RANK") or (os.environ.get("SLURM_LOCALID") if in_step else None)
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name not in ("auto", "cuda") or num_gpus < 2 or number is None or not number.isdecimal():
        return name
    return f"cuda:{int(number) % num_gpus}"


def _about_device(name: str, num_gpus: int) -> str:
    """Why there is no such device, and what to do."""
    if name.lower() in ("gpu", "nvidia") or name.isdecimal():
        return f"; did you mean cuda{f':{name}' * name.isdecimal()}?"
    if num_gpus or not name.startswith("cuda"):
        return ""
    if torch.version.cuda is None:
        return "; this PyTorch is a build for the CPU: install its CUDA build, or take cpu"
    if (hidden := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return f"; CUDA_VISIBLE_DEVICES={hidden} hides the GPUs"
    return "; PyTorch finds no NVIDIA driver: see whether nvidia-smi lists a GPU, or take cpu"


def use_device(name: str) -> torch.device:
    """`choose_device`; a GPU also becomes the current device, where kernels are launched."""
    device = choose_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """The meaning of `runtime.precision` on the device: "bf16" or "float32"."""
    if name != "auto":
        return name
    return "bf16" if _computes_in_bf16(device) else "float32"


def bytes_per_value(precision: str) -> int:
    """Bytes of a value inside the network, for "bf16" or "float32"."""
    return 2 if precision == "bf16" else 4


def _computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16"))


class AutocastNetwork:
    """A network under autocast, for strategies and samplers.

    Args:
        network: called with image, mask and t.
        device: where it computes.
        precision: "bf16", or "float32" for no autocast.
    """

    def __init__(self, network: nn.Module, device: torch.device, precision: str) -> None:
        self.network = network
        self.device = device
        self.bf16 = precision == "bf16"

    def _autocast(self) -> AbstractContextManager[object]:
        if not self.bf16:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def __call__(
        self, image: Tensor, mask: Tensor | None = None, t: Tensor | None = None
    ) -> Tensor:
        with self._autocast():
            out: Tensor = self.network(image, mask, t)
        return out
