"""Whole training steps and 5-step sampling, at two sizes that fit a CPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from rivals.monai import MonaiWorkload
from torch import Tensor

from recycleseg import _ext
from recycleseg.diffusion.gaussian import GaussianDiffusion
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.diffusion.strategies import DiffusionObjective, Recycling, Standard, make_draws
from recycleseg.diffusion.timesteps import UniformTimesteps
from recycleseg.losses import SegmentationLoss
from recycleseg.models.unet import UNet
from recycleseg.ops import _backend
from recycleseg.run.compiling import compiled, resolve_mode
from recycleseg.run.device import AutocastNetwork, choose_precision
from recycleseg.run.options import CompileMode, OptimConfig
from recycleseg.sampling.volume import VolumeSampler
from recycleseg.training.optim import clip_and_step, make_optimizer

NUM_CLASSES = 3


@dataclass(frozen=True)
class Case:
    """Batch, image shape and channels of the network."""

    batch: int
    shape: tuple[int, ...]
    channels: tuple[int, ...]


CASES = {
    "A": Case(2, (32, 48, 32), (16, 32, 64, 128)),
    "B": Case(4, (256, 256), (32, 64, 128, 256)),
}
PROVIDERS = ("fused", "plain", "compiled")
STRATEGIES = {"recycling": Recycling, "standard": Standard}


class Workload:
    """One case computed one way.

    provider: "fused": what recycle-train does here (bf16 where the processor has it, channels
    last, the extension or Triton, on a GPU compiled); "plain": the same network in float32 and
    contiguous, of PyTorch's own layers (instance_norm with its affine, residual, gelu) and steps;
    "compiled": torch.compile of "plain".
    """

    def __init__(self, case: str, provider: str, strategy: str = "recycling") -> None:
        torch.manual_seed(0)
        c = CASES[case]
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = UNet(len(c.shape), 1, NUM_CLASSES, c.channels, dropout=0.1).to(device)
        self.plain = provider != "fused"
        if self.plain:
            self.network.memory_format = torch.contiguous_format
            self.network.to(memory_format=torch.contiguous_format)
        precision = "float32" if self.plain else choose_precision("auto", device)
        wanted: dict[str, CompileMode] = {"fused": "auto", "plain": "off", "compiled": "default"}
        mode = resolve_mode(wanted[provider], device)
        forward = AutocastNetwork(self.network, device, precision)
        self.optimizer = make_optimizer(self.network, OptimConfig())
        schedule = NoiseSchedule("linear", 1001)
        objective = DiffusionObjective(
            GaussianDiffusion(schedule).to(device), SegmentationLoss(1.0, 1.0)
        )
        self.strategy = STRATEGIES[strategy](objective, NUM_CLASSES)
        loss_step = compiled(self.strategy, mode)
        self.loss_step = lambda *arguments: loss_step(forward, *arguments)
        self.sampler = VolumeSampler(
            compiled(forward, mode),
            GaussianDiffusion(schedule.respace(5)).to(device),
            NUM_CLASSES,
            exclusive=True,
            patch_size=c.shape,
            window_batch=c.batch,
            compiled=mode != "off",
        )
        self.generators = [torch.Generator(device).manual_seed(i) for i in range(c.batch)]
        self.timesteps = UniformTimesteps(1001)
        self.image = torch.randn((c.batch, 1, *c.shape), device=device)
        self.label = torch.randint(NUM_CLASSES, (c.batch, *c.shape), device=device)

    def train(self) -> None:
        """One optimiser step, from noise to updated weights."""
        self.network.train()
        with self._operations():
            shape = (len(self.image), NUM_CLASSES, *self.image.shape[2:])
            draws = make_draws(self.strategy, self.timesteps, self.generators[0], shape)
            loss = self.loss_step(self.image, self.label, draws).loss
            loss.backward()
            clip_and_step(self.optimizer, 1e-5, 1.0)
        loss.item()

    def sample(self) -> Tensor:
        """Five DDIM steps."""
        self.network.eval()
        with self._operations():
            return self.sampler.sample_windows(self.image, self.generators)[-1].cpu()

    def _operations(self) -> nullcontext[None] | _PlainOperations:
        return _PlainOperations() if self.plain else nullcontext()


class _PlainOperations:
    """Operations take PyTorch's own layers inside."""

    def __enter__(self) -> None:
        self.had = _ext.HAS_CPP, _backend.HAS_TRITON
        _ext.HAS_CPP = _backend.HAS_TRITON = False

    def __exit__(self, *_: object) -> None:
        _ext.HAS_CPP, _backend.HAS_TRITON = self.had


def make_workload(
    case: str, provider: str, strategy: str = "recycling"
) -> Workload | MonaiWorkload:
    """Ours, or for the providers "monai" and "monai_bf16" MONAI's, which knows one strategy."""
    if provider.startswith("monai"):
        precision = "bf16" if provider.endswith("bf16") else "float32"
        return MonaiWorkload(CASES[case], NUM_CLASSES, precision)
    return Workload(case, provider, strategy)


def peak_memory_mb(case: str, provider: str, work: str, strategy: str = "recycling") -> float:
    """Peak memory, in MB, of a process that does the work three times.

    On a GPU what its tensors take at most, else the resident memory.
    """
    command = [sys.executable, __file__, case, provider, work, strategy]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Do the work three times and print the peak memory of the process in MB."""
    case, provider, work, strategy = sys.argv[1:]
    run: Callable[[], object] = getattr(make_workload(case, provider, strategy), work)
    for _ in range(3):
        run()
    if torch.cuda.is_available():
        print(torch.cuda.max_memory_allocated() / 1e6)
    else:
        # Not getrusage, whose maximum starts at the size of the process that started this one.
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").open())
        print(int(status["VmHWM"].split()[0]) / 1e3)  # given in kB


if __name__ == "__main__":
    main()
