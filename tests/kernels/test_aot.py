"""Every kernel, as it is launched, compiles for the GPUs we serve and keeps to registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import recycleseg.kernels

OPERATIONS = sorted(
    path.stem
    for path in Path(recycleseg.kernels.__file__).parent.glob("*.py")
    if not path.stem.startswith("_")
)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_compiles_ahead_of_time_without_spills(
    operation: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    if recycleseg.kernels.triton_version() is None:
        pytest.skip("Triton is not installed")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    script = Path(__file__).with_name("compile_ahead.py")
    run = subprocess.run(
        [sys.executable, str(script), operation], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    compiled = [json.loads(line) for line in run.stdout.splitlines()]
    assert compiled
    for usage in compiled:
        record_property(usage["kernel"], f"{usage['registers']} registers")
    assert [usage for usage in compiled if usage["spilled_bytes"]] == []
    # Of 65536 a multiprocessor: room for 384 threads at least.
    assert [usage for usage in compiled if usage["registers"] > 168] == []
