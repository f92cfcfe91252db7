"""One process of a run fails: the others end soon, and one line tells why."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from recycleseg.processes import Processes
from recycleseg.rows import Rows

SCRIPT = Path(__file__).with_name("fail_together.py")
LINES = {
    "raises": "recycle-test: error: scan.nii.gz: expected a whole file, got a part",
    "is killed": "recycle-test: error: another process of this run has ended without a word; was it"
    " killed, or is its machine down? The checkpoints are kept: go on with --resume",
    "is stopped": "recycle-test: error: process 2 of 3 gives no sign of life; all processes end; "
    "the checkpoints are kept: go on with --resume",
    "hangs": r"recycle-test: error: process 2 of 3 hangs.*, \d+ s after the beginning of its step; "
    "all processes end; the checkpoints are kept: go on with --resume",
    "loses its disk": "recycle-test: error: No space left on device.*",
}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        port: int = one.getsockname()[1]
    return port


def start(number: int, way: str, victim: int) -> list[subprocess.Popen[str]]:
    """Start processes with torchrun's variables; the first one has the store."""
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), way, str(victim)],
            env={**os.environ, **common, "RANK": str(rank), "WORLD_SIZE": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(number)
    ]


def wait_until_met(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    # Gloo of PyTorch 2.9 prints a line of its own before.
    assert "met\n" in iter(process.stdout.readline, "")


def lines_after(way: str, victim: int) -> list[str]:
    """Our lines after a fault of one of three processes; the others must end by it, and soon."""
    processes = start(3, way, victim)
    others = [process for rank, process in enumerate(processes) if rank != victim]
    try:
        wait_until_met(others[0])
        start_of_fault = time.monotonic()
        told = [process.communicate(timeout=100)[1] for process in others]
        # The script waits 4 s for a sign of life where a run waits 40 s.
        assert time.monotonic() - start_of_fault < 60 - 36
    finally:
        for process in processes:
            process.kill()
    told.append(processes[victim].communicate()[1])
    assert [process.returncode for process in others] == [2, 2]
    assert "Traceback" not in "".join(told)
    lines = "".join(told).splitlines()
    return [line for line in lines if line.startswith("recycle-test")]


@pytest.mark.parametrize("way", LINES)
def test_all_end_within_a_minute_with_one_line(way: str) -> None:
    (line,) = lines_after(way, victim=2)
    assert re.fullmatch(LINES[way].replace("?", r"\?"), line), line


@pytest.mark.parametrize("way", LINES)
def test_the_others_end_and_say_why_if_the_first_process_fails(way: str) -> None:
    """Without torchrun it has the store, by which processes agree on who tells an error."""
    # Who cannot ask the store tells what it knows.
    most = 1 if way in ("raises", "loses its disk", "hangs") else 2
    assert 1 <= len(lines_after(way, victim=0)) <= most


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, "RANK: expected in the environment, because WORLD_SIZE is 2"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: expected a whole number in the environment, got 'two"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"},
            "MASTER_PORT: expected in the environment",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "no.such.machine.", "MASTER_PORT": "1"},
            "MASTER_ADDR, MASTER_PORT: expected 2 processes that meet at no.such.machine.:1",
        ),
    ],
)
def test_wrong_variables_are_named(variables: dict[str, str], message: str) -> None:
    environment = {**os.environ, **variables}
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "none", "0"], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert f"recycle-test: error: {message}" in result.stderr
    assert "Traceback" not in result.stderr


def test_no_two_processes_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    host, processes = socket.gethostname(), Processes(rank=1, size=3, local_rank=1, local_size=2)
    monkeypatch.setattr(
        "torch.cuda.get_device_properties", lambda device: SimpleNamespace(uuid=device.index)
    )
    for others, is_fine in (
        ([(host, "0"), (host, "1"), ("other", "1")], True),
        ([(host, "1"), (host, "1"), ("other", "0")], False),
    ):
        monkeypatch.setattr(processes, "gather", lambda own, others=others: others)
        with (
            nullcontext()
            if is_fine
            else pytest.raises(
                ValueError, match="^runtime.device: expected auto and a GPU for each process"
            )
        ):
            processes.check_device(torch.device("cuda", 1))
    monkeypatch.setattr(processes, "gather", lambda own: [own, own, own])
    processes.check_device(torch.device("cpu"))


def test_each_process_has_a_row() -> None:
    processes = Processes(rank=2, size=4)
    assert processes.rows(10) == Rows(5, 2, 10)
    message = "optim.batch_size: expected at least 4, one row for each process, got 3"
    with pytest.raises(ValueError, match=message):
        processes.rows(3)
