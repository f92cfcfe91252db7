"""Commands in processes of their own, which start in milliseconds; faults; and what a run left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from recycleseg.data.identity import content_hash
from recycleseg.run.metrics_log import read_metrics

SERVER = Path(__file__).with_name("command_server.py")
# In seconds; longer than any of the commands takes on a machine that many share.
TIMEOUT = 1200.0


@dataclass(frozen=True)
class Result:
    """How a command ended.

    Attributes:
        code: exit code; negative after a signal.
        text: all that it printed.
        seconds: how long it kept the processor busy.
        seen: number of watched calls of the system.
    """

    code: int
    text: str
    seconds: float
    seen: int

    @property
    def errors(self) -> list[str]:
        """The lines of the error message."""
        lines = self.text.splitlines()
        starts = [k for k, line in enumerate(lines) if line.startswith("recycle-")]
        return lines[starts[0] :] if starts else []


class Server:
    """A process that runs commands.

    Args:
        folder: for the output of the commands.
        preload: a shared library that is loaded before all others.
    """

    def __init__(self, folder: Path, preload: Path | None = None) -> None:
        self._output = folder / "output.txt"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(folder)}
        environment.pop("RECYCLESEG_DEBUG", None)
        if preload is not None:
            environment["LD_PRELOAD"] = str(preload)
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=folder,
            text=True,
        )
        self._answer()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def run(
        self,
        command: str,
        arguments: Sequence[object],
        *,
        watched: Sequence[Path] = (),
        fail_at: int = 0,
        errno: int = 0,
        lasting: bool = False,
        kill_after: float = 0.0,
        environment: dict[str, str] | None = None,
    ) -> Result:
        """Run a command to its end.

        Args:
            command: train, predict, ensemble, evaluate or data.
            arguments: of the command.
            watched: folders whose calls of the system are counted.
            fail_at: which of these calls fails, from 1; 0 is none.
            errno: how it fails.
            lasting: whether all calls after it fail, too.
            kill_after: seconds on the processor after which SIGKILL comes; 0 is never.
            environment: variables.
        """
        self._output.with_name("output.txt.seen").unlink(missing_ok=True)
        task = {
            "command": command,
            "arguments": [str(argument) for argument in arguments],
            "output": str(self._output),
            "watched": [str(folder) for folder in watched],
            "fail_at": fail_at,
            "errno": errno,
            "lasting": lasting,
            "kill_after": kill_after,
            "timeout": TIMEOUT,
            "environment": environment or {},
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        text = self._output.read_text(errors="backslashreplace") if self._output.exists() else ""
        return Result(answer["code"], text, answer["seconds"], answer["seen"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def train_arguments(data: Path, folder: Path) -> list[str]:
    """A run of two steps and a validation in FOLDER/run, with FOLDER/cache."""
    options = {
        "data": data,
        "out": folder / "run",
        "patch.size": "[16,16]",
        "model.channels": "[8,8]",
        "model.num_res_blocks": 1,
        "model.num_heads": 2,
        "optim.steps": 2,
        "optim.batch_size": 2,
        "optim.warmup_steps": 1,
        "optim.ema_decay": 0.9,
        "sampling.num_steps": 2,
        "validation.every": 2,
        "validation.patch_every": 1,
        "validation.save_every": 1,
        "validation.keep_last": 2,
        "runtime.device": "cpu",
        "runtime.precision": "float32",
        "runtime.threads": 1,
        "runtime.log_every": 1,
        "runtime.cache": folder / "cache",
    }
    return [f"--{name}={value}" for name, value in options.items()]


def train_to_the_end(server: Server, data: Path, folder: Path) -> Result:
    """Go on with the run after a fault or a kill: resume it, or begin if nothing was begun."""
    arguments = train_arguments(data, folder)
    if (folder / "run/checkpoints/last.safetensors").is_file():
        return server.run("train", [*arguments, "--resume"])
    shutil.rmtree(folder / "run", ignore_errors=True)
    return server.run("train", arguments)


def bits_of_run(folder: Path) -> dict[str, Any]:
    """All results of the run that do not depend on the time it took."""
    run = folder / "run"
    files = [*run.glob("checkpoints/[!.]*")]
    files += [run / name for name in ("summary.json", "config.yaml", "dataset.json")]
    results: dict[str, Any] = {str(path.relative_to(run)): content_hash(path) for path in files}
    results["config.yaml"] = (run / "config.yaml").read_text().replace(str(folder), "")
    (plan,) = folder.glob("cache/*/*/plan.json")
    cached = [plan, *folder.glob("cache/prepared/*/[!.]*")]
    results |= {str(path.relative_to(folder)): content_hash(path) for path in cached}
    for line in read_metrics(run / "metrics.jsonl"):
        line.pop("steps_per_second", None)
        results[f"line {line['step']}, {sorted(line)}"] = line
    pictures = sorted(path.name for path in (run / "pictures").iterdir())
    return {**results, "pictures": [name for name in pictures if not name.startswith(".")]}
