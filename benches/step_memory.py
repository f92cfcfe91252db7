"""Memory that whole steps take, weighed in a process of their own.

python benches/step_memory.py A fused train recycling     # MB
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from workloads import make_workload


def peak_memory_mb(case: str, provider: str, work: str, strategy: str = "recycling") -> float:
    """Peak memory, in MB, of a process that does the work three times.

    Args:
        case: Name of one of CASES.
        provider: As `workloads.make_workload` takes it.
        work: "train" or "sample".
        strategy: One of `workloads.STRATEGIES`.

    Returns:
        On a GPU what its tensors take at most, else the resident memory.
    """
    command = [sys.executable, __file__, case, provider, work, strategy]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Do the work three times and print the peak memory of the process in MB."""
    case, provider, work, strategy = sys.argv[1:]
    run: Callable[[], object] = getattr(make_workload(case, provider, strategy), work)
    for _ in range(3):
        run()
    if torch.cuda.is_available():
        print(torch.cuda.max_memory_allocated() / 1e6)
    else:
        # Not getrusage, whose maximum starts at the size of the process that started this one.
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").open())
        print(int(status["VmHWM"].split()[0]) / 1e3)  # given in kB


if __name__ == "__main__":
    main()
