"""metrics.jsonl of a run: one JSON object per line, and a line is only ever added."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

from recycleseg.files import json_lines

_RESUMED = "resumed"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines that count, in their order; none if there is no file.

    A line {"step": N, "resumed": true} says that the run went back to the state after step N and
    goes on below. Lines above it that are of later steps do not count, because the run takes these
    steps again; nor does this line itself. A line that is not a whole JSON object with a step does
    not count either: a process was killed while it wrote it.
    """
    lines: list[dict[str, Any]] = []
    for line in json_lines(path):
        if not isinstance(line.get("step"), int):
            continue
        if _RESUMED in line:
            lines = [kept for kept in lines if kept["step"] <= line["step"]]
        else:
            lines.append(line)
    return lines


def open_metrics(path: Path, step: int) -> TextIO:
    """Open the file to add lines; the caller closes it.

    Args:
        path: of the file, which is made if there is none.
        step: optimiser steps done. If the file has lines already, it is noted that the run goes on
            after this step.
    """
    # Each line is written at once, so that a killed run leaves at most its last one unfinished.
    file = open(path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115
    if path.stat().st_size:
        unfinished = not path.read_bytes().endswith(b"\n")
        line = json.dumps({"step": step, _RESUMED: True})
        file.write("\n" * unfinished + line + "\n")
    return file
