"""The run folder: what a run leaves behind."""

from __future__ import annotations

import shutil
from pathlib import Path


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
                    f"--resume: expected a checkpoint at {self.last}, got no such file; "
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
