"""One of several processes fails in a way that an argument names; the test starts them itself."""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

from recycleseg import processes, watchdog
from recycleseg.cli._common import run_command
from recycleseg.files import FileError
from recycleseg.processes import joined

WAY, VICTIM = sys.argv[1], int(sys.argv[2])
# Short, so that the test is; the real one is below a minute.
watchdog.SILENCE = 4.0
processes.MEETING = timedelta(seconds=5)


def fail() -> None:
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
    with joined("recycle-test") as all_of_them:
        all_of_them.meet()
        print("met", flush=True)
        with all_of_them.step():
            if all_of_them.rank == VICTIM:
                fail()
        for _ in range(100):
            with all_of_them.step():
                all_of_them.meet()
                time.sleep(0.01)
    return 0


sys.exit(run_command("recycle-test", work, ""))
