"""Memory that a call takes beyond its arguments, weighed in a process of its own.

python benches/metric_memory.py ours amos good 1     # bytes per voxel, on Linux
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path


def bytes_per_voxel(provider: str, volume: str, variant: str, num_threads: int) -> float:
    """Growth of the resident set at its peak; Python's and the system's part is about 1 MB."""
    arguments = [provider, volume, variant, str(num_threads)]
    command = [sys.executable, __file__, *arguments]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _weigh(provider: str, volume: str, variant: str, num_threads: str) -> float:
    from metric_masks import VOLUMES, masks
    from metric_rivals import PROVIDERS, set_num_threads

    set_num_threads(int(num_threads))
    kind = VOLUMES[volume]
    pred, ref = masks(volume, variant)
    run = PROVIDERS[provider]
    few = tuple(slice(0, n, 4) for n in pred.shape)  # so that all code is loaded
    run(pred[few].copy(), ref[few].copy(), kind.num_classes, kind.spacing, 1.0)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is resident now
    before = _status("VmHWM")
    run(pred, ref, kind.num_classes, kind.spacing, 1.0)
    return (_status("VmHWM") - before) / pred.size


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status lacks {field}")


if __name__ == "__main__":
    print(_weigh(*sys.argv[1:]))
