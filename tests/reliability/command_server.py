"""Runs commands in forks of one process, which has imported everything once.

It reads one JSON object per line: the command, its arguments, and what is to happen to it.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib.backends.backend_agg  # noqa: F401
import matplotlib.figure  # noqa: F401
import scipy.ndimage  # noqa: F401
import torch._dynamo  # noqa: F401

COMMANDS = {
    name: importlib.import_module(f"recycleseg.cli.{name}").main
    for name in ("train", "predict", "ensemble", "evaluate", "data")
}


def run_here(task: dict[str, Any]) -> None:
    """Run a command in this process, with its output in a file, and end the process."""
    output = os.open(task["output"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for name, value in task["environment"].items():
        os.environ[name] = value
    shim = ctypes.CDLL(None) if task["watched"] else None
    if shim is not None:
        for folder in task["watched"]:
            shim.fault_watch(os.fsencode(folder))
        shim.fault_arm(ctypes.c_long(task["fail_at"]), task["errno"], int(task["lasting"]))
    try:
        code = COMMANDS[task["command"]](task["arguments"])
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 120
    seen = shim.fault_seen() if shim is not None else 0
    with open(f"{task['output']}.seen", "w") as file:
        file.write(str(seen))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_task(task: dict[str, Any]) -> dict[str, Any]:
    """Run a command in a fork; kill it if asked, at a moment of its own time on the processor."""
    start, moment = time.monotonic(), task["kill_after"] or math.inf
    child = os.fork()
    if child == 0:
        run_here(task)
    clock = (~child << 3) | 2  # what Linux calls the clock of another process
    while not (ended := os.wait4(child, os.WNOHANG))[0]:
        if time.clock_gettime(clock) >= moment or time.monotonic() - start > task["timeout"]:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    _, status, usage = ended
    seen = Path(f"{task['output']}.seen")
    return {
        "code": os.waitstatus_to_exitcode(status),
        "seconds": usage.ru_utime + usage.ru_stime,
        "seen": int(seen.read_text()) if seen.exists() else 0,
    }


def serve() -> None:
    """Answer every line with the result of its command."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(run_task(json.loads(line))), flush=True)


if __name__ == "__main__":
    serve()
