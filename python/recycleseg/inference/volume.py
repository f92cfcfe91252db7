"""Whole volumes by overlapping windows, each window with a trajectory of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from recycleseg.diffusion.gaussian import GaussianDiffusion
from recycleseg.diffusion.network import Network
from recycleseg.diffusion.samplers import sample
from recycleseg.inference.graphs import GraphedSteps
from recycleseg.inference.windows import (
    WindowMerger,
    extract_windows,
    gaussian_weight,
    window_starts,
)


@dataclass(frozen=True)
class VolumeSampler:
    """Segments an image of any size with a network trained on patches.

    network: see `Network`. diffusion: the respaced process; None: the network is supervised.
    overlap: fraction of a window. compiled: the network is compiled, for one shape: batches are
    filled up to window_batch, and on a GPU a trajectory that draws no noise on its way runs as a
    CUDA graph.
    """

    network: Network
    diffusion: GaussianDiffusion | None
    num_classes: int
    exclusive: bool
    patch_size: tuple[int, ...]
    overlap: float = 0.5
    sampler: Literal["ddim", "ddpm"] = "ddim"
    eta: float = 0.0
    self_conditioning: bool = False
    window_batch: int = 2
    compiled: bool = False

    @torch.no_grad()
    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Probabilities at every sampling step.

        image: (C_img, *S) float32 on the network's device. generator: on the same device; it
        seeds one generator for each window, so that no noise depends on `window_batch`. Returns
        (K, C, *S) float32 in [0, 1], first step to last; K = 1 for a supervised network.
        """
        shape = image.shape[1:]
        image, first = pad_to(image, self.patch_size)
        image = image[None]
        overlap = [min(int(p * self.overlap), p - 1) for p in self.patch_size]
        starts = window_starts(image.shape[2:], self.patch_size, overlap)
        weight = gaussian_weight(self.patch_size).to(image.device)
        merger = WindowMerger(image.shape[2:], weight)
        generators = spawn(generator, len(starts))
        for first_window in range(0, len(starts), self.window_batch):
            batch = slice(first_window, first_window + self.window_batch)
            windows = extract_windows(image, starts[batch], self.patch_size)[0]
            merger.add(self.sample_windows(windows, generators[batch]), starts[batch])
        probs = merger.merged()
        for axis, (start, size) in enumerate(zip(first, shape, strict=True), 2):
            probs = probs.narrow(axis, start, size)
        return probs

    @torch.no_grad()
    def sample_windows(self, windows: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Probabilities (K, N, C, *P) of windows (N, C_img, *P) at every step.

        generators: one for each window, on its device. Where the sampler is compiled, N is at most
        window_batch, and on a GPU the next call may overwrite the result.
        """
        number = len(windows)
        if self.compiled and number < self.window_batch:
            missing = self.window_batch - number
            windows = torch.cat([windows, windows[:1].expand(missing, *windows.shape[1:])])
            # of their own, for those of real windows must not move
            generators = generators + [
                torch.Generator(windows.device).manual_seed(i) for i in range(missing)
            ]
        shape = (self.num_classes, *self.patch_size)

        def noise() -> Tensor:
            drawn = [torch.randn(shape, generator=g, device=g.device) for g in generators]
            return torch.stack(drawn)

        if self.diffusion is None:
            logits = self.network(windows).float()
            probs = (logits.softmax(1) if self.exclusive else logits.sigmoid()).unsqueeze(0)
        elif self.compiled and windows.is_cuda and self.sampler == "ddim" and self.eta == 0:
            probs = self._graphed(windows, noise())
        else:
            probs = self._trajectory(windows, noise=noise)
        return probs[:, :number]

    @cached_property
    def _graphed(self) -> GraphedSteps:
        # Not of self, which holds it: a graph and its memory go when the sampler goes.
        trajectory = self._trajectory
        return GraphedSteps(lambda windows, x: trajectory(windows, noise=lambda: x))

    @property
    def _trajectory(self) -> Callable[..., Tensor]:
        assert self.diffusion is not None
        return partial(
            _all_steps,
            self.network,
            self.diffusion,
            num_classes=self.num_classes,
            sampler=self.sampler,
            eta=self.eta,
            self_conditioning=self.self_conditioning,
        )


def _all_steps(
    network: Network, diffusion: GaussianDiffusion, windows: Tensor, **options: Any
) -> Tensor:
    return torch.stack(list(sample(network, diffusion, windows, **options)))


def spawn(generator: torch.Generator, number: int) -> list[torch.Generator]:
    """As many generators on the same device, each with a seed drawn from `generator`."""
    seeds = torch.randint(2**63 - 1, (number,), generator=generator, device=generator.device)
    return [torch.Generator(generator.device).manual_seed(seed) for seed in seeds.tolist()]


def pad_to(image: Tensor, size: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    """Pad (C, *S) with zeros to at least `size`, centred as PatchSampler does.

    Returns the padded image and the index of its first own voxel.
    """
    widths = [max(p - n, 0) for n, p in zip(image.shape[1:], size, strict=True)]
    first = tuple((width + 1) // 2 for width in widths)
    flat = [
        n
        for low, width in reversed(list(zip(first, widths, strict=True)))
        for n in (low, width - low)
    ]
    return F.pad(image, flat), first
