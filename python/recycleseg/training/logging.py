"""Writes a run's numbers to metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recycleseg.files import system_errors_name
from recycleseg.names import printable
from recycleseg.run.metrics_log import open_metrics, read_metrics
from recycleseg.training.event_file import EventFile


class RunLogger:
    """Scalars per optimiser step, to metrics.jsonl (one JSON object per line) and TensorBoard.

    Args:
        metrics_path: metrics.jsonl.
        tensorboard: folder of TensorBoard's files.
        first_step: optimiser steps done; lines of later steps, which a crash undid, do not count.

    Attributes:
        validated: optimiser steps before the last finished validation; 0 before the first.
    """

    def __init__(self, metrics_path: Path, tensorboard: Path, first_step: int) -> None:
        self._file = open_metrics(metrics_path, first_step)
        validations = [line["step"] for line in read_metrics(metrics_path) if "val_dice" in line]
        self.validated = max(validations, default=0)
        self._path = metrics_path
        self._events = EventFile(tensorboard, first_step)

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            with system_errors_name(self._path):
                self._file.close()
        finally:
            with system_errors_name(self._events.path):
                self._events.close()

    def log(self, step: int, scalars: Mapping[str, float | list[float]]) -> None:
        """Record scalars after optimiser step `step`; non-finite values become null in JSON."""
        line: dict[str, Any] = {"step": step}
        for name, value in scalars.items():
            listed = isinstance(value, list)
            values = value if isinstance(value, list) else [value]
            for i, v in enumerate(values, 1):
                tag = printable(f"{name}/{i}" if listed else name)
                self._events.add_scalar(tag, v, step)
            finite = [v if math.isfinite(v) else None for v in values]
            line[name] = finite if listed else finite[0]
        with system_errors_name(self._events.path):
            self._events.flush()
        with system_errors_name(self._path):
            self._file.write(json.dumps(line) + "\n")
        if "val_dice" in line:
            self.validated = step
