"""How much to compute at the same time, so that the memory is enough."""

from __future__ import annotations

import math
import re
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from recycleseg.limits import free_main_memory

# Elements of a slab, all channels together: 1 MB of float32, so that it stays in a cache of a core
# while its layout changes. Of 2 ** 16 to 2 ** 20 this was the fastest.
SLAB_ELEMENTS = 2**18
# A state of more bytes in float32 is kept in float16: 16 classes of 512x512x300 in 2.3 GiB.
LARGEST_STATE = 2**31
# With these the device is busy; more voxels or windows per batch are not faster.
BATCH_VOXELS = {"cpu": 2**17, "cuda": 2**21}
MAX_BATCH = 32
# How many layers at full resolution a network holds at the same time, without gradients.
LIVE_LAYERS = 6


def slabs(shape: Sequence[int], channels: int) -> Iterator[slice]:
    """Cut a volume (channels, *shape) into ranges along its first axis.

    Yields:
        Ranges of at most SLAB_ELEMENTS elements, but at least one row.
    """
    rows = max(1, SLAB_ELEMENTS // max(1, channels * math.prod(shape[1:])))
    for start in range(0, shape[0], rows):
        yield slice(start, min(start + rows, shape[0]))


def state_dtype(elements: int, device: torch.device) -> torch.dtype:
    """How the state of sampling is kept for a whole volume.

    It depends on the size alone and not on free memory, so that a seed decides every output.

    Args:
        elements: of the state, C times the voxels.
        device: where it is. On a GPU it stays in float32, because there noise that is drawn in
            parts is other noise.

    Returns:
        float32; float16 if the state is large and in main memory.
    """
    is_large = elements * torch.float32.itemsize > LARGEST_STATE
    return torch.float16 if is_large and device.type == "cpu" else torch.float32


def auto_window_batch(
    patch_size: Sequence[int], channels: int, device: torch.device, free: int | None = None
) -> int:
    """How many windows per forward pass keep the device busy and fit into its memory.

    Args:
        patch_size: voxels of a window along each axis.
        channels: features of the network at full resolution.
        device: where the network runs.
        free: bytes of free memory; None asks the device.

    Returns:
        A power of two.
    """
    voxels = math.prod(patch_size)
    if free is None:
        free = free_memory(device)
    fitting = free // 4 // (voxels * channels * 4 * LIVE_LAYERS)
    useful = BATCH_VOXELS.get(device.type, BATCH_VOXELS["cpu"]) // voxels
    batch = max(1, min(fitting, useful, MAX_BATCH))
    return 1 << (batch.bit_length() - 1)


def free_memory(device: torch.device) -> int:
    """Free bytes of the device's memory; 4 GiB if the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_main_memory()


def resident_memory() -> int:
    """Main memory that this process holds now, in bytes; its peak if the system tells no more."""
    status = Path("/proc/self/status")
    if status.exists():
        kilobytes = re.search(r"VmRSS:\s+(\d+) kB", status.read_text())
        if kilobytes:
            return int(kilobytes[1]) * 1024
    return peak_memory()


def peak_memory(device: torch.device | None = None) -> int:
    """The largest amount of memory that this process has held, in bytes.

    Args:
        device: a GPU, of whose memory only tensors count; else main memory.
    """
    if device is not None and device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():  # better than getrusage, which includes the memory of the parent
        kilobytes = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if kilobytes:
            return int(kilobytes[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
