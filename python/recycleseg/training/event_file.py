"""Scalars for TensorBoard, written at once.

PyTorch's `SummaryWriter` writes in a thread of its own, which loses minutes of scalars if the
process is killed, and prints a traceback if the disk is full.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class EventFile:
    """A new file of events in a folder.

    Args:
        folder: where TensorBoard looks; it is created if needed.
        first_step: scalars of later steps in older files of the folder are no longer shown.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time_ns()
        name = f"events.out.tfevents.{now // 10**9}.{socket.gethostname()}.{os.getpid()}.{now}"
        self.path = folder / name
        self._file = self.path.open("wb")
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(step=first_step + 1, session_log=start))

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Add one value of one curve."""
        scalar = Summary.Value(tag=tag, simple_value=value)
        self._write(Event(step=step, summary=Summary(value=[scalar])))

    def flush(self) -> None:
        """Hand all values to the system."""
        self._file.flush()

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
