"""Versions, machine and source commit of a process."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from recycleseg.ops.build_info import build_info


def describe_environment(device: torch.device, precision: str) -> dict[str, Any]:
    """Versions, machine and source commit of this process, as JSON values."""
    return {
        **build_info(),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": precision,
        "cpu_threads": torch.get_num_threads(),
        "command": sys.argv,
    }


def _git_commit() -> str | None:
    """Commit of the source tree that this package runs from; None for an installed copy."""
    source = Path(__file__).resolve().parent
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40"]
    tracked = ["git", "-C", str(source), "ls-files", "--error-unmatch", __file__]
    try:
        subprocess.run(tracked, capture_output=True, check=True)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else platform.processor()
