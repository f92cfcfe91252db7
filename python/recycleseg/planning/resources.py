"""What a run may use: device, memory and time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch

from recycleseg.processes import ALONE, Processes
from recycleseg.progress import parse_duration
from recycleseg.run.device import bytes_per_value, choose_precision, use_device
from recycleseg.sampling.memory import free_memory, resident_memory

# Operations per second that training reaches at least: on a CPU core, by bytes per value (measured
# with AVX2 in float32 and AVX-512 in bfloat16), and on a GPU with tensor cores. They decide the
# sizes of patch and network, not the number of steps: that comes from the measured time of a step.
_CPU_CORE_FLOPS = {4: 55e9, 2: 110e9}
_GPU_FLOPS = 30e12
# A network and a patch that leave this share free meet the unknown rest of a machine.
_USED_MEMORY = 0.75
_DEFAULT_TIME = {"cpu": "1h", "cuda": "12h"}


@dataclass(frozen=True)
class Resources:
    """What each process of a run may use.

    Attributes:
        device: kind of device.
        memory: bytes that the process may take, on the device.
        seconds: time of the whole run, from the first step to the last result.
        flops: operations per second that a network reaches at least.
        bytes_per_value: 2 if the network computes in bfloat16, 4 in float32.
        process_bytes: what the process holds of this memory before the run.
        processes: how many share each batch.
    """

    device: Literal["cpu", "cuda"]
    memory: int
    seconds: float
    flops: float
    bytes_per_value: int
    process_bytes: int = 0
    processes: int = 1


def find_resources(
    device: str = "auto",
    precision: Literal["auto", "bf16", "float32"] = "auto",
    *,
    threads: int | None = None,
    time: str | None = None,
    memory: str | None = None,
    processes: Processes = ALONE,
) -> Resources:
    """What this machine offers.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: of the network.
        threads: CPU threads; None takes PyTorch's number.
        time: such as "30m"; None takes 1 hour on a CPU, 12 hours on a GPU.
        memory: such as "8G"; None takes three quarters of what is free, of which each process of
            a machine without GPUs has its share.
        processes: those of the run.

    Raises:
        ValueError: a value is not understood, or the device does not exist.
    """
    found = use_device(device)
    kind: Literal["cpu", "cuda"] = "cuda" if found.type == "cuda" else "cpu"
    value_bytes = bytes_per_value(choose_precision(precision, found))
    cores = threads or torch.get_num_threads()
    sharing = processes.local_size if kind == "cpu" else 1
    free = int(_USED_MEMORY * free_memory(found)) if memory is None else parse_memory(memory)
    return Resources(
        device=kind,
        memory=free // sharing,
        seconds=time_of_run(time, kind),
        flops=_GPU_FLOPS if kind == "cuda" else _CPU_CORE_FLOPS[value_bytes] * cores,
        bytes_per_value=value_bytes,
        process_bytes=resident_memory() if kind == "cpu" else 0,
        processes=processes.size,
    )


def time_of_run(asked: str | None, device: str) -> float:
    """Seconds of a run: as asked for, or else what is usual on this type of device."""
    return parse_duration(asked or _DEFAULT_TIME[device])


def parse_memory(text: str) -> int:
    """Bytes from "900M", "8G" or "8 GB", in powers of 1024.

    Raises:
        ValueError: another text.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MG])(?:I?B)?", text.strip().upper())
    if match is None or float(match[1]) == 0:
        raise ValueError(f"memory: expected a size such as 900M or 8G, got {text!r}")
    return int(float(match[1]) * 2 ** {"M": 20, "G": 30}[match[2]])
