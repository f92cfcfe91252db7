"""Whole volumes by overlapping windows."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from recycleseg.classes import probabilities
from recycleseg.diffusion.network import Network, NetworkInput
from recycleseg.diffusion.process import GaussianDiffusion
from recycleseg.diffusion.samplers import Sampler, draws_noise, reverse_step, sample
from recycleseg.ops.noise_step import x_to_mask_
from recycleseg.progress import Progress
from recycleseg.sampling.graphs import GraphedSteps
from recycleseg.sampling.memory import SLAB_ELEMENTS, state_dtype
from recycleseg.sampling.watch import WatchedNetwork, check_finite
from recycleseg.sampling.windows import WindowGrid, WindowMerger, num_windows


@dataclass(frozen=True)
class VolumeSampler:
    """Segments an image of any size with a network trained on patches.

    Attributes:
        network: see `Network`.
        diffusion: the respaced process; None for a supervised network.
        num_classes: C.
        exclusive: whether a voxel has exactly one class.
        patch_size: voxels of a window along each axis.
        overlap: share of a window that its neighbour repeats.
        sampler: ``ddim`` or ``ddpm``.
        eta: noise of DDIM.
        self_conditioning: whether the network also sees the prediction of the step before.
        window_batch: windows per forward pass.
        compiled: whether the network is compiled, for one shape. Then batches are filled up to
            window_batch. On a GPU a trajectory that draws no noise on its way runs as one CUDA
            graph, otherwise the network does.
        fusion: "trajectory" samples each window alone and averages probabilities where windows
            overlap. "step" keeps one state x_t for the whole volume and averages the network's
            outputs at every step, so that windows agree where they overlap.
        watched: the part of `network` whose outputs are checked after each volume; None checks
            only the probabilities.
    """

    network: Network
    diffusion: GaussianDiffusion | None
    num_classes: int
    exclusive: bool
    patch_size: tuple[int, ...]
    overlap: float = 0.5
    sampler: Sampler = "ddim"
    eta: float = 0.0
    self_conditioning: bool = False
    window_batch: int = 2
    compiled: bool = False
    fusion: Literal["trajectory", "step"] = "step"
    watched: WatchedNetwork | None = None

    @property
    def mask_channels(self) -> int:
        """Channels of the mask in the network's input."""
        return self.num_classes * (2 if self.self_conditioning else 1)

    def num_windows(self, shape: Sequence[int]) -> int:
        """Number of windows that cover an image of this spatial shape."""
        return num_windows(shape, self.patch_size, self.overlap)

    def state_dtype(self, shape: Sequence[int], device: torch.device) -> torch.dtype:
        """In what the state and the probabilities of an image of this spatial shape are kept."""
        padded = (max(n, p) for n, p in zip(shape, self.patch_size, strict=True))
        return state_dtype(self.num_classes * math.prod(padded), device)

    def __call__(
        self, image: Tensor, generator: torch.Generator, progress: Progress | None = None
    ) -> Tensor:
        """Give the probabilities after the last sampling step.

        Args:
            image: (C_img, *S) float32 on the network's device.
            generator: on the same device. It seeds the generator of each window's noise, or of
                the whole volume's, so that no noise depends on `window_batch`.
            progress: called with the windows done and all windows.

        Returns:
            (C, *S) in [0, 1], as `state_dtype` tells.

        Raises:
            NonFiniteError: the network gave NaN or Inf, or probabilities are none.
        """
        for probs in self._run(image, generator, progress, every_step=False):
            last = probs
        return last

    def steps(
        self, image: Tensor, generator: torch.Generator, progress: Progress | None = None
    ) -> Iterator[Tensor]:
        """Give the probabilities (C, *S) at every sampling step; the arguments are the call's.

        A supervised network has one step. The next step may overwrite the tensor. The fusion
        "trajectory" holds all steps in memory, "step" holds one.

        Raises:
            NonFiniteError: as from a call, after the last step.
        """
        return self._run(image, generator, progress, every_step=True)

    @torch.no_grad()
    def _run(
        self,
        image: Tensor,
        generator: torch.Generator,
        progress: Progress | None,
        every_step: bool,
    ) -> Iterator[Tensor]:
        if self.watched is not None:
            self.watched.begin()
        shape = image.shape[1:]
        image, first = pad_to(image, self.patch_size)
        grid = WindowGrid(image.shape[1:], self.patch_size, self.overlap, image.device)
        if self.diffusion is None or self.fusion == "trajectory":
            whole = iter(self._merged_trajectories(image, grid, generator, progress, every_step))
        else:
            whole = self._shared_state(self.diffusion, image, grid, generator, progress, every_step)
        for probs in whole:
            for axis, (start, size) in enumerate(zip(first, shape, strict=True), 1):
                probs = probs.narrow(axis, start, size)
            yield probs
        check_finite(probs, self.watched)

    def _merged_trajectories(
        self,
        image: Tensor,
        grid: WindowGrid,
        generator: torch.Generator,
        progress: Progress | None,
        every_step: bool,
    ) -> Tensor:
        """Probabilities (K, C, *S) at all steps, or at the last one only."""
        generators = spawn(generator, len(grid))
        steps = self.diffusion.num_timesteps if self.diffusion and every_step else 1
        channels, batches = steps * self.num_classes, grid.batches(self.window_batch)
        dtype = self.state_dtype(grid.image_shape, image.device)
        merged = torch.empty((channels, *grid.image_shape), dtype=dtype, device=image.device)
        merger = WindowMerger(grid, channels, image.device)
        for windows in batches:
            probs = self.sample_windows(
                grid.cut(image, windows), generators[windows], every_step=every_step
            )
            for box, mean in merger.add(probs.movedim(1, 0).flatten(1, 2), windows):
                merged[box] = mean.clamp_(0, 1)
            report(progress, windows, len(grid))
        return merged.view(steps, self.num_classes, *grid.image_shape)

    def _shared_state(
        self,
        diffusion: GaussianDiffusion,
        image: Tensor,
        grid: WindowGrid,
        generator: torch.Generator,
        progress: Progress | None,
        every_step: bool,
    ) -> Iterator[Tensor]:
        """Probabilities (C, *S) at each step, or at the last one, of one state x_t for the volume.

        Voxels of x_t become those of x_{t-1} as soon as no further window sees them, so one x_t is
        enough. At the last step its place is taken by the probabilities. If they are asked for at
        every step, they take one more volume; so does the noise, at steps that draw it. Between
        steps all are kept as `state_dtype` tells; a step computes in float32.
        """
        (own,) = spawn(generator, 1)
        shape = (1, self.num_classes, *image.shape[1:])
        dtype = self.state_dtype(grid.image_shape, image.device)
        x_t = normal_noise(shape, own, dtype)
        predicted = torch.zeros_like(x_t) if every_step or self.self_conditioning else None
        channels = self.num_classes * (2 if diffusion.learns_variance else 1)
        batches = grid.batches(self.window_batch)
        merger = WindowMerger(grid, channels, image.device)
        x: NetworkInput | None = None
        for index in reversed(range(diffusion.num_timesteps)):
            t_index = torch.full((1,), index, device=image.device)
            noise = None
            if draws_noise(self.sampler, self.eta):
                noise = normal_noise(shape, own, dtype)
            done = diffusion.num_timesteps - 1 - index
            for windows in batches:
                x = self._network_input(image, x_t, predicted, grid, windows, x)
                time = diffusion.network_time(t_index).expand(len(x.tensor)).contiguous()
                model_out = self._call(x.tensor, time)[: len(grid.starts[windows])]
                for box, out in merger.add(model_out, windows):
                    here = (slice(None), *box)
                    x_prev, probs = reverse_step(
                        diffusion,
                        out[None],
                        x_t[here].float(),
                        t_index,
                        sampler=self.sampler,
                        eta=self.eta,
                        noise=None if noise is None else noise[here].float(),
                    )
                    x_t[here] = x_prev if index or every_step else probs
                    if predicted is not None:
                        predicted[here] = probs
                report(progress, windows, len(grid), done, diffusion.num_timesteps)
            if every_step and predicted is not None:
                yield predicted[0]
        if not every_step:
            yield x_t[0]

    def _network_input(
        self,
        image: Tensor,
        x_t: Tensor,
        predicted: Tensor | None,
        grid: WindowGrid,
        windows: slice,
        before: NetworkInput | None,
    ) -> NetworkInput:
        """Windows of the image and the mask as the network sees them, window_batch if compiled.

        They take the place of those `before`, because new memory costs more than filling it.
        """
        number = len(grid.starts[windows])
        size = self.window_batch if self.compiled else number
        if before is not None and len(before.tensor) == size:
            x = before
        else:
            shape = (size, len(image), *self.patch_size)
            x = NetworkInput(image.new_empty(shape), self.mask_channels)
        grid.cut(image, windows, x.image[:number])
        masks = [x_t] if predicted is None or not self.self_conditioning else [x_t, predicted]
        for of_mask, volume in zip(x.mask.split(self.num_classes, dim=1), masks, strict=True):
            grid.cut(volume[0], windows, of_mask[:number])
        x.tensor[number:] = x.tensor[:1]
        x_to_mask_(x.mask[:, : self.num_classes])
        return x

    def _filled(self, windows: Tensor) -> Tensor:
        """As many windows as a compiled network takes."""
        missing = self.window_batch - len(windows) if self.compiled else 0
        if missing == 0:
            return windows
        return torch.cat([windows, windows[:1].expand(missing, *windows.shape[1:])])

    @torch.no_grad()
    def sample_windows(
        self, windows: Tensor, generators: list[torch.Generator], *, every_step: bool = True
    ) -> Tensor:
        """Sample each window alone.

        Args:
            windows: (N, C_img, *P); N is at most window_batch if the sampler is compiled.
            generators: one per window, on its device.
            every_step: whether to give every step, or the last one only.

        Returns:
            Probabilities (K, N, C, *P) of K steps. On a GPU the next call of a compiled sampler
            may overwrite them.
        """
        number = len(windows)
        windows = self._filled(windows)
        # of their own, for those of real windows must not move
        generators = generators + [
            torch.Generator(windows.device).manual_seed(i) for i in range(len(windows) - number)
        ]
        shape = (self.num_classes, *self.patch_size)

        def noise() -> Tensor:
            drawn = [torch.randn(shape, generator=g, device=g.device) for g in generators]
            return torch.stack(drawn)

        if self.diffusion is None:
            probs = probabilities(self._call(windows).float(), self.exclusive).unsqueeze(0)
        elif self.compiled and windows.is_cuda and not draws_noise(self.sampler, self.eta):
            probs = self._graphed(windows, noise())
        else:
            probs = self._trajectory(windows, noise=noise, every_step=every_step)
        return probs[:, :number] if every_step else probs[-1:, :number]

    def _call(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """The network's output; where it runs as a CUDA graph, the next call overwrites it."""
        inputs = (x,) if t is None else (x, t)
        if self.compiled and x.is_cuda:
            return self._graphed_network(*inputs)
        return _apply(self.network, *inputs)

    @cached_property
    def _graphed_network(self) -> GraphedSteps:
        return GraphedSteps(partial(_apply, self.network))

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


def _apply(network: Network, x: Tensor, t: Tensor | None = None) -> Tensor:
    return network(x) if t is None else network(x, t=t)


def _all_steps(
    network: Network,
    diffusion: GaussianDiffusion,
    windows: Tensor,
    *,
    every_step: bool = True,
    **options: Any,
) -> Tensor:
    steps = deque(sample(network, diffusion, windows, **options), maxlen=None if every_step else 1)
    return torch.stack(list(steps))


def report(
    progress: Progress | None, windows: slice, number: int, passes: int = 0, all_passes: int = 1
) -> None:
    """Tell `progress` that the windows up to these are done, of `number` in each pass."""
    if progress is not None:
        progress(passes * number + min(windows.stop, number), all_passes * number)


def spawn(generator: torch.Generator, number: int) -> list[torch.Generator]:
    """As many generators on the same device, each with a seed drawn from `generator`."""
    seeds = torch.randint(2**63 - 1, (number,), generator=generator, device=generator.device)
    return [torch.Generator(generator.device).manual_seed(seed) for seed in seeds.tolist()]


def normal_noise(shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Standard normal noise on the generator's device.

    Args:
        shape: of the noise.
        generator: decides it.
        dtype: float32; or float16, the same noise rounded, of which float32 is never held as a
            whole (on a CPU).
    """
    if dtype == torch.float32:
        return torch.randn(shape, generator=generator, device=generator.device)
    noise = torch.empty(shape, dtype=dtype, device=generator.device)
    flat = noise.view(-1)
    # A CPU draws the same noise in parts if all but the last are multiples of 16, and none is less.
    ends = [*range(SLAB_ELEMENTS, flat.numel() - SLAB_ELEMENTS + 1, SLAB_ELEMENTS), flat.numel()]
    for start, end in pairwise([0, *ends]):
        flat[start:end] = torch.randn(end - start, generator=generator, device=generator.device)
    return noise


def pad_to(image: Tensor, size: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    """Pad (C, *S) with zeros to at least `size`, centred as PatchSampler does.

    Returns:
        The padded image, or the image itself if it is large enough, and the index of its first
        own voxel.
    """
    widths = [max(p - n, 0) for n, p in zip(image.shape[1:], size, strict=True)]
    first = tuple((width + 1) // 2 for width in widths)
    if not any(widths):
        return image, first
    flat = [
        n
        for low, width in reversed(list(zip(first, widths, strict=True)))
        for n in (low, width - low)
    ]
    return F.pad(image, flat), first
