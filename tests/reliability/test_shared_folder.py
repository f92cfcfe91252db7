"""Four processes predict into one folder and are killed at random moments, until all is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tiny_runs import write_tiny_run

from recycleseg.data.identity import content_hash
from recycleseg.data.volumes import write_volume

# How many cases there are. A fifth as often, a process is killed.
CASES = int(os.environ.get("RECYCLESEG_SHARED_CASES", "60"))
PROCESSES = 4


@pytest.fixture
def predicted(tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Predicts a folder of images by several processes, and tells how they ended."""
    run = write_tiny_run(tmp_path / "run", spatial_dims=2)
    (tmp_path / "scans").mkdir()
    rng = np.random.default_rng(0)
    for case in range(CASES):
        image = rng.integers(0, 256, (8, 8)).astype(np.uint8)
        write_volume(tmp_path / f"scans/c{case:04}.png", image, spacing=None)
    server = [sys.executable, str(Path(__file__).with_name("predictors.py"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        server, stdin=pipe, stdout=pipe, env=environment, cwd=tmp_path, text=True
    ) as process:

        def predict(out: str, processes: int, kills: int, between: float = 0.0) -> dict[str, Any]:
            arguments = ["-m", run, "-i", tmp_path / "scans", "-o", tmp_path / out]
            arguments += ["--save-probabilities", "--steps", "1", "--device", "cpu"]
            task = {
                "arguments": [str(argument) for argument in arguments],
                "processes": processes,
                "kills": kills,
                "between": between,
                "seed": 0,
                "log": str(tmp_path / f"{out}.log"),
            }
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(process.stdout.readline())
            finished = Counter((tmp_path / f"{out}.log").read_text().split())
            texts = [path.read_text() for path in tmp_path.glob(f"{out}.log.*.txt")]
            return {**answer, "finished": finished, "texts": texts}

        yield predict
        process.communicate()


def files_of(folder: Path) -> dict[str, str]:
    """The hash of every file but the record, which tells times."""
    return {
        str(path.relative_to(folder)): content_hash(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "predict.json"
    }


def test_killed_processes_share_a_folder(
    tmp_path: Path, predicted: Callable[..., dict[str, Any]], count: Callable[[str], None]
) -> None:
    names = [f"c{case:04}" for case in range(CASES)]
    alone = predicted("alone", processes=1, kills=0)
    assert alone["codes"] == [0], alone["texts"]
    record = json.loads((tmp_path / "alone/predict.json").read_text())
    whole = files_of(tmp_path / "alone")
    assert len(whole) == 2 * CASES  # without a lock, a case's record or a half-written file

    shared = predicted("shared", processes=PROCESSES, kills=0)
    assert shared["codes"] == [0] * PROCESSES, shared["texts"]
    assert shared["finished"] == dict.fromkeys(names, 1)

    killed = predicted("killed", processes=PROCESSES, kills=CASES // 5, between=0.3)
    assert killed["codes"] == [0] * PROCESSES, killed["texts"]
    # A process may be killed when it has written a case and has not noted that yet.
    twice = {name: times for name, times in killed["finished"].items() if times > 1}
    assert not twice
    assert len(set(names) - set(killed["finished"])) <= killed["kills"]
    for out in ("shared", "killed"):
        assert files_of(tmp_path / out) == whole
        told = json.loads((tmp_path / out / "predict.json").read_text())
        assert sorted(told["images"]) == names and told["images"] == record["images"]
        assert told["contents"] == record["contents"]
        assert told["failed"] == {}
    assert sorted(shared_seconds(tmp_path)) == names
    count(f"{CASES} cases by {PROCESSES} processes, {killed['kills']} SIGKILLs: 0 wrong")


def shared_seconds(folder: Path) -> dict[str, float]:
    seconds: dict[str, float] = json.loads((folder / "shared/predict.json").read_text())["seconds"]
    return seconds
