"""The commands of a study: train, predict, evaluate; each may be stopped and started again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from recycleseg.files import FileError, write_text
from recycleseg.names import printable
from recycleseg.run.folder import RunFolder
from recycleseg.run.settings import nested
from recycleseg.study.design import DIRECT, STRATEGIES, Design, PredictionSet
from recycleseg.workers import Worker

_ENTRY = "import sys; from recycleseg.cli.main import main; sys.exit(main())"
# Seconds until the next look at tasks of other processes.
_PAUSE = 1.0


@dataclass(frozen=True)
class Task:
    """A piece of work that one process does.

    Attributes:
        name: in words.
        done: the file that is there once it is done.
        needs: files that must be there before.
        commands: gives the arguments of `recycleseg` for all commands, one after the other. It is
            asked when the task begins, because they depend on what is there.
    """

    name: str
    done: Path
    needs: tuple[Path, ...]
    commands: Callable[[], list[list[str]]]


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study, and the tasks that fill it.

    Attributes:
        root: the folder.
        design: what is in it.
    """

    root: Path
    design: Design

    def run(self, strategy: str, seed: int) -> RunFolder:
        """The run of a network."""
        return RunFolder(self.root / "runs" / strategy / f"seed_{seed}")

    def scores(self, prediction: PredictionSet) -> Path:
        """The evaluation of predictions."""
        return self.root / "scores" / prediction.name

    def tasks(self) -> Iterator[Task]:
        """All tasks, each after those that it needs."""
        for strategy, seed in self.design.networks():
            yield self._training(strategy, seed)
            for prediction in self.design.predictions_of(strategy, seed):
                yield self._scoring(prediction)
        for prediction in self.design.ensembles():
            yield self._scoring(prediction)

    def _training(self, strategy: str, seed: int) -> Task:
        run = self.run(strategy, seed)
        first = self.run(*next(self.design.networks()))
        is_first = run.root == first.root

        def commands() -> list[list[str]]:
            if run.last.exists():
                options = ["--config", str(run.config), "--resume"]
            elif is_first:
                options = ["--config", str(self.settings)]
                if "optim.steps" not in self.design.settings:
                    options += ["--time", self.design.time, "--optim.steps", "0"]
            else:  # with the steps and all else of the first
                options = ["--config", str(first.config)]
            chosen = {**STRATEGIES[strategy], "seed": seed, "data": self.design.data}
            options += [word for name, v in chosen.items() for word in (f"--{name}", str(v))]
            return [["train", *options, "--out", str(run.root)]]

        needs = () if is_first else (first.config,)
        return Task(f"train {strategy}, seed {seed}", run.summary, needs, commands)

    @property
    def settings(self) -> Path:
        """Options of every training."""
        return self.root / "settings.yaml"

    def write_settings(self) -> None:
        """Write the file of `settings`."""
        write_text(self.settings, yaml.safe_dump(nested(dict(self.design.settings))))

    def _scoring(self, prediction: PredictionSet) -> Task:
        runs = [self.run(*member) for member in prediction.members]
        maps, scores = self.root / "predictions" / prediction.name, self.scores(prediction)
        data = Path(self.design.data)

        def commands() -> list[list[str]]:
            predict = ["predict", "-m", *(str(run.root) for run in runs), "-i", str(data)]
            predict += ["--split", "test", "-o", str(maps)]
            if prediction.sampling != DIRECT:
                sampling = prediction.sampling
                predict += ["--sampler", sampling.sampler, "--steps", str(sampling.num_steps)]
                predict += ["--save-steps"] if len(runs) == 1 else []
            evaluate = ["evaluate", "-p", str(maps), "-r", str(data / "labelsTr")]
            evaluate += ["-o", str(scores), "--no-report", "--workers", "1"]
            return [predict, [*evaluate, *(["--overwrite"] if scores.exists() else [])]]

        name = f"score {prediction.name}"
        return Task(name, scores / "summary.json", tuple(run.summary for run in runs), commands)

    def work(self, begin: Callable[[Task], None]) -> None:
        """Do all tasks, together with other processes that work in the same folder.

        Args:
            begin: called before each task of this process.

        Raises:
            FileError: a command failed; its log is named.
        """
        worker = Worker(self.root)
        worker.begin()
        try:
            left = list(self.tasks())
            while left := [task for task in left if not task.done.exists()]:
                if not any(self._try(task, worker, begin) for task in left):
                    time.sleep(_PAUSE)
        finally:
            worker.end()

    def _try(self, task: Task, worker: Worker, begin: Callable[[Task], None]) -> bool:
        """Do a task if it can begin and no other process has it."""
        if not all(path.exists() for path in task.needs):
            return False
        with worker.claimed(self.root / ".tasks" / self._place(task)) as ours:
            if not ours or task.done.exists():
                return False
            begin(task)
            for command in task.commands():
                self._run(task, command)
            return True

    def _place(self, task: Task) -> Path:
        """Where in the study its result is."""
        return task.done.parent.relative_to(self.root)

    def _run(self, task: Task, command: Sequence[str]) -> None:
        log = (self.root / "logs" / self._place(task)).with_suffix(".txt")
        log.parent.mkdir(exist_ok=True, parents=True)
        with log.open("ab") as output:
            start = output.tell()
            process = subprocess.Popen(
                [sys.executable, "-c", _ENTRY, *command], stdout=output, stderr=output
            )
            try:
                code = process.wait()
            except BaseException:
                # It saves what it has; Ctrl-C of a terminal has reached it, too.
                process.terminate()
                process.wait()
                raise
        if code != 0:
            told = log.read_bytes()[start:].decode(errors="replace").strip().splitlines()
            reason = printable(told[-1]) if told else f"exit code {code}"
            raise FileError(f"{log}: expected {task.name} to end with exit code 0, got: {reason}")
