"""What of the benches runs without --full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_bench_has_a_part_that_runs_without_full() -> None:
    command = [sys.executable, "-m", "pytest", "benches", "--collect-only", "-q"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    collected = [line for line in done.stdout.splitlines() if "::" in line]
    files = {Path(line.partition("::")[0]).name for line in collected}
    assert files == {path.name for path in (ROOT / "benches").glob("bench_*.py")}
    assert len(collected) <= 90  # each takes seconds, and with torch.compile up to a minute
