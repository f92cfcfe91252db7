"""The run folder: the files of a run."""

from __future__ import annotations

import shutil
from pathlib import Path

from recycleseg.names import file_name


def run_root(out: str | None, dataset_name: str, strategy: str) -> Path:
    """Where a run is: the option `out`, or a name made of data set and strategy."""
    return Path(out or f"runs/{file_name(dataset_name.lower())}-{strategy}")


class RunFolder:
    """Paths of a run: configuration, plan, environment, checkpoints, logs, pictures, summary."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.plan = root / "plan.yaml"
        self.environment = root / "environment.json"
        self.dataset = root / "dataset.json"
        self.last = root / "checkpoints" / "last.safetensors"
        self.best = root / "checkpoints" / "best.safetensors"
        self.metrics = root / "metrics.jsonl"
        self.learning_curve = root / "learning_curve.png"
        self.tensorboard = root / "tensorboard"
        self.pictures = root / "pictures"
        self.summary = root / "summary.json"

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Check that a run may begin in the folder or go on; change nothing.

        Args:
            resume: whether the run in the folder goes on.
            overwrite: whether a run in the folder may be deleted.

        Raises:
            ValueError: the folder is not empty and neither option is given; or there is no
                checkpoint to resume from; or the folder to overwrite holds something else.
        """
        occupied = self.root.exists() and any(self.root.iterdir())
        if resume:
            if not self.last.is_file():
                raise ValueError(
                    f"--resume: expected a checkpoint at {self.last}, got no such file; "
                    "start the run again, with --overwrite if its folder exists"
                )
        elif occupied and overwrite:
            if not self.config.is_file():
                raise ValueError(
                    f"--overwrite: expected a run folder (with config.yaml) at {self.root}, got "
                    "another folder; nothing in it is changed"
                )
        elif occupied:
            raise ValueError(
                f"--out: {self.root} exists and is not empty; use --resume to continue that run, "
                "--overwrite to delete it, or another --out"
            )

    def open(self, *, resume: bool, overwrite: bool) -> None:
        """Create the folder; a run to overwrite is deleted, a run to resume is kept.

        Args, Raises: see `check`.
        """
        self.check(resume=resume, overwrite=overwrite)
        if overwrite and not resume and self.root.exists():
            shutil.rmtree(self.root)
        for folder in (self.last.parent, self.pictures):
            folder.mkdir(parents=True, exist_ok=True)
