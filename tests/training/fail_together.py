"""One of several processes fails in a way that an argument names; the test starts them itself."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from recycleseg import watchdog
from recycleseg.cli._common import run_command
from recycleseg.files import FileError
from recycleseg.processes import Processes, joined

WAY = sys.argv[1]
# Short, so that the test is; the real one is below a minute.
watchdog.SILENCE = 4.0


def fail(processes: Processes) -> None:
    if WAY == "raises":
        raise FileError("scan.nii.gz: expected a whole file, got a part")
    if WAY == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if WAY == "is stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if WAY == "hangs":
        time.sleep(1000)
    if WAY == "loses its disk":
        Path("/dev/full").write_text("all that is lost")


def work() -> int:
    with joined("recycle-test") as processes:
        processes.meet()
        print("met", flush=True)
        processes.beat()
        if processes.rank == processes.size - 1:
            fail(processes)
        for _ in range(100):
            processes.meet()
            time.sleep(0.01)
            processes.beat()
    return 0


sys.exit(run_command("recycle-test", work, ""))
