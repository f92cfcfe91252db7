"""The expected time of sampling, before any case is sampled; how the time of work is measured."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from recycleseg.diffusion.network import NetworkInput
from recycleseg.sampling.volume import VolumeSampler

# What is tried: often if it is short, because machines vary; not for long if it is long.
_LEAST_TRIES, _MOST_TRIES = 4, 16
_SECONDS_TO_MEASURE = 10.0


def median_seconds(
    work: Callable[[int], None],
    device: torch.device,
    go_on: Callable[[bool], bool] = bool,
) -> float:
    """Median time of a piece of work, after a first try, which may compile or read files anew.

    Args:
        work: gets the number of the try.
        device: where it computes.
        go_on: gets whether another try is wanted here, and decides.
    """
    seconds: list[float] = []
    while go_on(
        len(seconds) < _LEAST_TRIES
        or (len(seconds) < _MOST_TRIES and sum(seconds[1:]) < _SECONDS_TO_MEASURE)
    ):
        start = time.perf_counter()
        work(len(seconds))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def seconds_per_case(
    sampler: VolumeSampler,
    image_channels: int,
    shapes: Sequence[Sequence[int]],
    device: torch.device,
    *,
    samples: int = 1,
) -> list[float]:
    """Expected time of sampling images of these shapes.

    Forward passes of a batch of windows are measured. The numbers of windows, sampling steps and
    samples tell how many such passes a case takes. All else (reading, the reverse step, counting)
    is left out, because it is short beside the network.

    Args:
        sampler: of the cases.
        image_channels: channels of the images.
        shapes: spatial shape of each image.
        device: where the network computes.
        samples: trajectories per case.

    Returns:
        Seconds, one number per shape; an estimate.
    """
    if not shapes:
        return []
    windows = {tuple(shape): sampler.num_windows(shape) for shape in shapes}
    batch = sampler.window_batch
    if not sampler.compiled:
        batch = min(batch, max(windows.values()))
    passes = 1
    if sampler.diffusion is not None:
        passes = samples * sampler.diffusion.num_timesteps
    of_batch = _seconds_of_pass(sampler, image_channels, batch, device)

    def batches(number: int) -> float:
        # A compiled network takes whole batches only.
        return math.ceil(number / batch) if sampler.compiled else number / batch

    return [passes * batches(windows[tuple(shape)]) * of_batch for shape in shapes]


@torch.no_grad()
def _seconds_of_pass(
    sampler: VolumeSampler, image_channels: int, batch: int, device: torch.device
) -> float:
    """Time of a forward pass."""
    image = torch.zeros(batch, image_channels, *sampler.patch_size, device=device)
    x, t = image, None
    if sampler.diffusion is not None:
        network_input = NetworkInput(image, sampler.mask_channels)
        network_input.mask.zero_()
        x, t = network_input.tensor, torch.ones(batch, device=device)

    def forward(_: int) -> None:
        sampler.network(x) if t is None else sampler.network(x, t=t)

    return median_seconds(forward, device)
