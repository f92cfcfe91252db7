"""Whole training steps and 5-step sampling by us, by PyTorch's own layers and by MONAI."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from rivals.monai import MonaiWorkload
from step_cases import CASES, NUM_CLASSES, Case
from torch import Tensor

from recycleseg import _ext
from recycleseg.diffusion.process import GaussianDiffusion
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

PROVIDERS = ("fused", "plain", "compiled")
STRATEGIES = {"recycling": Recycling, "standard": Standard}


class Workload:
    """One case computed one way.

    provider: "fused": what recycle-train does here (bf16 where the processor has it, channels
    last, the extension or Triton, on a GPU compiled); "plain": the same network in float32 and
    contiguous, of PyTorch's own layers (instance_norm with its affine, residual, gelu) and steps;
    "compiled": torch.compile of "plain".
    """

    def __init__(self, case: Case, provider: str, strategy: str = "recycling") -> None:
        torch.manual_seed(0)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = UNet(len(case.shape), 1, NUM_CLASSES, case.channels, dropout=0.1).to(device)
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
            patch_size=case.shape,
            window_batch=case.batch,
            compiled=mode != "off",
        )
        self.generators = [torch.Generator(device).manual_seed(i) for i in range(case.batch)]
        self.timesteps = UniformTimesteps(1001)
        self.image = torch.randn((case.batch, 1, *case.shape), device=device)
        self.label = torch.randint(NUM_CLASSES, (case.batch, *case.shape), device=device)

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
    """Make ours, or for the providers "monai" and "monai_bf16" MONAI's, which knows one strategy.

    Args:
        case: Name of one of CASES.
        provider: One of PROVIDERS, or "monai" or "monai_bf16".
        strategy: One of STRATEGIES.

    Returns:
        What has the methods `train` and `sample`.
    """
    if provider.startswith("monai"):
        precision = "bf16" if provider.endswith("bf16") else "float32"
        return MonaiWorkload(CASES[case], precision)
    return Workload(CASES[case], provider, strategy)
