"""The run folder: what a run leaves behind, and what it was."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from recycleseg.data.volumes import written_whole
from recycleseg.ops.build_info import build_info


class RunFolder:
    """Paths of a run: config.yaml, environment.json, checkpoints, logs, pictures, summary."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.environment = root / "environment.json"
        self.dataset = root / "dataset.json"
        self.last = root / "checkpoints" / "last.safetensors"
        self.best = root / "checkpoints" / "best.safetensors"
        self.metrics = root / "metrics.jsonl"
        self.tensorboard = root / "tensorboard"
        self.pictures = root / "pictures"
        self.summary = root / "summary.json"

    def open(self, *, resume: bool, overwrite: bool) -> None:
        """Create the folder, or accept an existing one to resume.

        Raises ValueError when the folder exists and neither option is given, or when there is
        no checkpoint to resume from. `overwrite` deletes only a folder that holds a run.
        """
        occupied = self.root.exists() and any(self.root.iterdir())
        if resume:
            if not self.last.is_file():
                raise ValueError(
                    f"--resume: expected a checkpoint at {self.last}, found none; "
                    "start the run anew, with --overwrite if its folder exists"
                )
        elif occupied and overwrite:
            if not self.config.is_file():
                raise ValueError(
                    f"--overwrite: expected a run folder (with config.yaml) at {self.root}, got "
                    "another folder; it is left as it is"
                )
            shutil.rmtree(self.root)
        elif occupied:
            raise ValueError(
                f"--out: {self.root} exists and is not empty; use --resume to go on with that "
                "run, --overwrite to delete it, or another --out"
            )
        for folder in (self.last.parent, self.pictures):
            folder.mkdir(parents=True, exist_ok=True)


def describe_environment(device: torch.device, precision: str) -> dict[str, Any]:
    """Versions, machine and source commit of this process."""
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


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON in one rename; NaN is refused, since other readers do not know it."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write a file in one rename, so that a kill leaves the old one or the new one."""
    with written_whole(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


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
