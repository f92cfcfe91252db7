"""How much is computed at once."""

from __future__ import annotations

import math
import re
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

# Elements of a slab, of all channels together: 4 MB of float32.
SLAB_ELEMENTS = 2**20
# Windows beyond these bring no more speed: small ones keep the machine busy together.
BATCH_VOXELS = {"cpu": 2**17, "cuda": 2**21}
MAX_BATCH = 32
# A network's layers at full resolution that are in memory together, without gradients.
LIVE_LAYERS = 6


def slabs(shape: Sequence[int], channels: int) -> Iterator[slice]:
    """Ranges along the first axis of a volume (channels, *shape), of bounded size."""
    rows = max(1, SLAB_ELEMENTS // max(1, channels * math.prod(shape[1:])))
    for start in range(0, shape[0], rows):
        yield slice(start, min(start + rows, shape[0]))


def auto_window_batch(
    patch_size: Sequence[int], channels: int, device: torch.device, free: int | None = None
) -> int:
    """Windows per forward pass that keep the device busy and fit its memory: a power of two.

    Args:
        patch_size: voxels of a window along each axis.
        channels: features of the network at full resolution.
        device: where it runs.
        free: bytes of memory; None asks the device.
    """
    voxels = math.prod(patch_size)
    if free is None:
        free = free_memory(device)
    fitting = free // 4 // (voxels * channels * 4 * LIVE_LAYERS)
    useful = BATCH_VOXELS.get(device.type, BATCH_VOXELS["cpu"]) // voxels
    batch = max(1, min(fitting, useful, MAX_BATCH))
    return 1 << (batch.bit_length() - 1)


def free_memory(device: torch.device) -> int:
    """Bytes that the device can still give, as far as the system says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 2**32


def peak_memory() -> int:
    """Bytes of main memory that this process has held at once at most."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent held before this program was started
        kilobytes = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if kilobytes:
            return int(kilobytes[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
