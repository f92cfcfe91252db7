"""Several `recycle-predict` at once in one folder: forks of one process, killed and started again.

It reads one JSON object per line: arguments, processes, kills, seconds between kills, seed, log.
The forks note in the log which case they finished. It prints exit codes and the number of kills.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401

from recycleseg.cli.predict import main
from recycleseg.prediction.folder import PredictionFolder


def predict_here(arguments: list[str], log: Path) -> None:
    """Run the command in this process, with its output in a file, and end the process."""
    write = PredictionFolder.write

    def noted(self: PredictionFolder, case_id: str, *given: Any) -> None:
        write(self, case_id, *given)
        with log.open("a") as file:
            file.write(f"{case_id}\n")

    PredictionFolder.write = noted  # type: ignore[method-assign]
    output = os.open(f"{log}.{os.getpid()}.txt", os.O_CREAT | os.O_WRONLY, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = main(arguments)
    sys.stdout.flush()
    os._exit(code)


def start(task: dict[str, Any]) -> int:
    """A fork that predicts."""
    child = os.fork()
    if child == 0:
        try:
            predict_here(task["arguments"], Path(task["log"]))
        finally:
            os._exit(120)
    return child


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Kill and start again, until every process has ended by itself."""
    rng = random.Random(task["seed"])
    alive, codes, kills = [start(task) for _ in range(task["processes"])], [], 0
    next_kill = time.monotonic() + rng.uniform(0, 2 * task["between"])
    while alive:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended:
            alive.remove(ended)
            code = os.waitstatus_to_exitcode(status)
            if code == -signal.SIGKILL:
                alive.append(start(task))
            else:
                codes.append(code)
        elif kills < task["kills"] and time.monotonic() > next_kill:
            os.kill(rng.choice(alive), signal.SIGKILL)
            kills += 1
            next_kill = time.monotonic() + rng.uniform(0, 2 * task["between"])
        else:
            time.sleep(0.002)
    return {"codes": codes, "kills": kills}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
