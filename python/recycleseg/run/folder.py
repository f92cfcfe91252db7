"""The run folder: the files of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from recycleseg.folders import OwnFolder
from recycleseg.locks import check_unlocked
from recycleseg.names import file_name

# What a run writes before its first checkpoint.
_DESCRIPTION = ("config.yaml", "plan.yaml", "dataset.json", "environment.json")
# Checkpoints before the last one that are kept, by their steps.
EARLIER = "step-" + 8 * "[0-9]" + ".safetensors"
# The last checkpoint goes first, so that nobody resumes a run that is partly deleted.
_MADE = {
    "checkpoints": ("last.safetensors", EARLIER, "best.safetensors"),
    "pictures": ("validation-" + 6 * "[0-9]" + "*.png",),
    "tensorboard": ("events.out.tfevents.*",),
    ".": ("summary.json", "metrics.jsonl", "learning_curve.png", *_DESCRIPTION),
}


def run_root(out: str | None, dataset_name: str, strategy: str) -> Path:
    """Where a run is: the option `out`, or a name made of data set and strategy."""
    return Path(out or f"runs/{file_name(dataset_name.lower())}-{strategy}")


def inputs_of_run(
    data: str | None, init_from: str | None, cache: Path | str | None
) -> dict[str, Path]:
    """What a run reads and must never delete: its name in messages -> its folder."""
    named = (("--data", data), ("--init-from", init_from), ("the cache", cache))
    return {f"{name} {path}": Path(path) for name, path in named if path is not None}


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
        self._own = OwnFolder(root, "a run", _MADE)

    def check(
        self, *, resume: bool, overwrite: bool, inputs: Mapping[str, Path] | None = None
    ) -> None:
        """Check that a run may begin in the folder or go on; change nothing.

        A run may also begin where another one was killed before its first checkpoint.

        Args:
            resume: whether the run in the folder goes on.
            overwrite: whether a run in the folder may be deleted.
            inputs: what the run reads; see `recycleseg.folders.check_apart`.

        Raises:
            ValueError: another process works in the folder; or it was made for something else; or
                it is not empty and neither option is given; or there is no checkpoint to resume
                from; or the folder to overwrite is not that of a run, or not apart from the inputs.
        """
        check_unlocked(self.root)
        self._own.check_mark()
        if resume:
            if not self.last.is_file():
                raise ValueError(
                    f"--resume: expected a checkpoint at {self.last}, got no such file; "
                    "start the run again, with --overwrite if its folder exists"
                )
        elif overwrite:
            self._own.check_overwrite(inputs or {})
        elif self._holds_work():
            raise ValueError(
                f"--out: {self.root} exists and is not empty; use --resume to continue that run, "
                "--overwrite to delete it, or another --out"
            )

    def _holds_work(self) -> bool:
        """Whether anything is in the folder but the beginning of a run that was killed."""
        files = [file.name for file in self._own.finished()]
        begun = _DESCRIPTION if self._own.is_marked else ()
        return bool(self._own.foreign()) or any(name not in begun for name in files)

    def open(
        self, *, resume: bool, overwrite: bool, inputs: Mapping[str, Path] | None = None
    ) -> list[str]:
        """Create the folder; a run to overwrite is deleted, a run to resume is kept.

        Of a run that is deleted, configuration and plan stay until `write_run_description` replaces
        them, because the command may have read them.

        Args, Raises: see `check`.

        Returns:
            A line for the user about files of others, which stay, or none.
        """
        self.check(resume=resume, overwrite=overwrite, inputs=inputs)
        self.root.mkdir(parents=True, exist_ok=True)
        self._own.mark()
        kept = self._own.finished() if resume else (self.config, self.plan)
        self._own.delete(file for file in self._own.files() if file not in kept)
        for folder in (self.last.parent, self.pictures):
            folder.mkdir(parents=True, exist_ok=True)
        return [] if resume else self._own.foreign_note()
