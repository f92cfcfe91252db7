"""Time of a training step in several processes, and what averaging the gradients adds to it.

    python benches/processes.py                          # one process with all threads
    torchrun --nproc-per-node 2 benches/processes.py     # beside each other: ours, DDP's wrapper

Prints a line of JSON: seconds per step (median) of this package's sum of gradients, of
`DistributedDataParallel`, and of processes that do not average at all, tried in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import torch
from rich.console import Console
from torch.nn.parallel import DistributedDataParallel

from recycleseg.cli.train import parse_command
from recycleseg.processes import Processes, joined
from recycleseg.run import factory
from recycleseg.run.device import AutocastNetwork, choose_precision, own_gpu, use_device
from recycleseg.run.environment import describe_environment
from recycleseg.training.data import load_training_data
from recycleseg.training.learner import Learner


def kinds(learner: Learner, processes: Processes) -> dict[str, Callable[[int], None]]:
    """A step of each kind; gets its number."""

    def alone(index: int) -> None:
        of_all, learner._gradients.summed = learner._gradients.summed, nullcontext
        try:
            learner.rehearse(index)
        finally:
            learner._gradients.summed = of_all

    found = {"ours": learner.rehearse}
    if processes.several:
        wrapped = DistributedDataParallel(learner.network)
        device, precision = learner.device, "bf16" if learner.forward.bf16 else "float32"
        forwards = learner.forward, AutocastNetwork(wrapped, device, precision)

        def ddp(index: int) -> None:
            learner.forward = forwards[1]
            alone(index)
            learner.forward = forwards[0]

        found |= {"DDP": ddp, "not averaged": alone}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args()
    with joined("processes.py") as processes:
        config = parse_command(["--preset", "tiny"]).config
        optim = replace(config.optim, batch_size=given.batch)
        config = replace(config, optim=optim)
        device = use_device(own_gpu("auto"))
        precision = choose_precision(given.precision, device)
        quiet = Console(quiet=True)
        data = processes.in_turns(lambda: load_training_data(config, quiet))
        patch = factory.choose_patch_size(config.patch, data.median_shape)
        learner = Learner(config, data, patch, device, precision, processes)
        steps = kinds(learner, processes)
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for index in range(given.steps + 2):
            for name, step in steps.items():
                processes.meet()
                start = time.perf_counter()
                step(index)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                processes.meet()
                seconds[name].append(time.perf_counter() - start)
        if processes.is_main:
            medians = {name: statistics.median(of_kind[2:]) for name, of_kind in seconds.items()}
            print(
                json.dumps(
                    {
                        "processes": processes.size,
                        "threads": torch.get_num_threads(),
                        "parameters": sum(p.numel() for p in learner.network.parameters()),
                        "batch": given.batch,
                        "seconds per step": {n: round(s, 4) for n, s in medians.items()},
                        **describe_environment(device, precision),
                    }
                )
            )


if __name__ == "__main__":
    main()
