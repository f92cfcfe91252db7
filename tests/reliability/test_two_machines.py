"""Two machines train one run: network namespaces, each with a host name and a network card."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import pytest
import torch
from tests.training.conftest import make_config
from tests.training.test_processes import write_config

from recycleseg.run.checkpoint import load_checkpoint
from recycleseg.run.config import TrainConfig
from recycleseg.run.options import ValidationConfig

PORT = 29500
LAST = Path("checkpoints/last.safetensors")
# Short, so that the test is; a run waits for 40 s.
SILENCE = 4
MAIN = f"""
import sys
from recycleseg import watchdog
from recycleseg.cli.train import main
watchdog.SILENCE = {SILENCE}
sys.exit(main())
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


@dataclass(frozen=True)
class Machine:
    """A network namespace.

    Attributes:
        name: of the namespace, its network card and its host.
        address: of the card.
        hosts: file of the names and addresses of all machines.
    """

    name: str
    address: str
    hosts: Path

    def start(self, *command: str, **variables: str | int) -> subprocess.Popen[str]:
        become = f'mount --bind {self.hosts} /etc/hosts && hostname {self.name} && exec "$@"'
        return subprocess.Popen(
            [
                *("ip", "netns", "exec", self.name, "unshare", "--uts", "--mount"),
                *("sh", "-c", become, "sh", *command),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in variables.items()}},
            stderr=subprocess.PIPE,
            text=True,
        )

    def plug(self, cable: bool) -> None:
        ip("-n", self.name, "link", "set", self.name, "up" if cable else "down")


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[list[Machine]]:
    """Two machines that a cable connects."""
    hosts, prefix = tmp_path / "hosts", f"rs{os.getpid() % 2**16}"
    pair = [Machine(f"{prefix}{end}", f"10.77.0.{n}", hosts) for n, end in enumerate("ab", 1)]
    lines = (f"{address} {name}" for name, address, _ in map(astuple, pair))
    hosts.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("needs ip and unshare")
    try:
        for machine in pair:
            ip("netns", "add", machine.name)
        a, b = (machine.name for machine in pair)
        ip("-n", a, "link", "add", a, "type", "veth", "peer", "name", b, "netns", b)
        for machine in pair:
            ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", machine.name)
            ip("-n", machine.name, "link", "set", "lo", "up")
            machine.plug(True)
        for machine in pair:
            tried = machine.start("true")
            told = tried.communicate()[1]
            if tried.returncode:
                pytest.skip(f"needs the right to become another machine: {told}")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"needs the right to make network namespaces: {error.stderr.decode()}")
    else:
        yield pair
    finally:
        for machine in pair:
            subprocess.run(["ip", "netns", "del", machine.name], capture_output=True)


def command_of(config: TrainConfig) -> list[str]:
    file = Path(config.out or "").with_suffix(".yaml")
    write_config(config, file)
    return [sys.executable, "-c", MAIN, "--config", str(file)]


def start_by_torchrun(
    machines: Sequence[Machine], config: TrainConfig
) -> list[subprocess.Popen[str]]:
    options = ["--nnodes", str(len(machines)), "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    options += ["--rdzv-endpoint", f"{machines[0].name}:{PORT}", "--rdzv-id", "7", "--no-python"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *options]
    return [machine.start(*torchrun, *command_of(config)) for machine in machines]


def start_by_variables(
    machines: Sequence[Machine], config: TrainConfig, *options: str
) -> list[subprocess.Popen[str]]:
    common = {"MASTER_ADDR": machines[0].name, "MASTER_PORT": PORT, "WORLD_SIZE": len(machines)}
    return [
        machine.start(
            *command_of(config), *options, RANK=rank, LOCAL_RANK=0, LOCAL_WORLD_SIZE=1, **common
        )
        for rank, machine in enumerate(machines)
    ]


def ended(processes: Sequence[subprocess.Popen[str]]) -> tuple[list[int], str]:
    """Exit codes, and all that was told."""
    try:
        told = "".join(process.communicate(timeout=100)[1] for process in processes)
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], told


def test_a_run_ends_when_the_cable_is_pulled_and_goes_on_later(
    discs: Path, machines: list[Machine], tmp_path: Path
) -> None:
    config = make_config(discs, tmp_path)
    config = replace(
        config,
        patch=replace(config.patch, size=(16, 16)),
        optim=replace(config.optim, steps=40),
        validation=ValidationConfig(every=20, save_every=1),
    )
    run, whole = Path(config.out or ""), tmp_path / "whole"
    codes, told = ended(start_by_torchrun(machines, replace(config, out=str(whole))))
    assert codes == [0, 0], told

    processes = start_by_variables(machines, config)
    while not (run / LAST).exists():
        assert all(process.poll() is None for process in processes), ended(processes)
        time.sleep(0.01)
    machines[1].plug(False)
    pulled = time.monotonic()
    codes, told = ended(processes)
    assert codes == [2, 2], told
    assert time.monotonic() - pulled < 60 - (40 - SILENCE)
    lines = [line for line in told.splitlines() if "error" in line]
    assert len(lines) == 2 and all("go on with --resume" in line for line in lines), told
    assert "Traceback" not in told, told

    machines[1].plug(True)
    codes, told = ended(start_by_variables(machines, config, "--resume"))
    assert codes == [0, 0], told
    ours, theirs = (load_checkpoint(folder / LAST) for folder in (run, whole))
    assert ours.state == theirs.state and ours.tensors.keys() == theirs.tensors.keys()
    # Bit for bit, because two processes always sum in the same order.
    assert all(torch.equal(ours.tensors[name], tensor) for name, tensor in theirs.tensors.items())
