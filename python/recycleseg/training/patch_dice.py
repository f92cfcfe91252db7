"""The Dice on a few patches: what the network has learnt, between two validations."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recycleseg.classes import Classes, probabilities
from recycleseg.data.cache import PreparedDataset
from recycleseg.data.patches import PatchSampler
from recycleseg.diffusion.network import Network
from recycleseg.diffusion.samplers import sample
from recycleseg.metrics.aggregate import finite_mean, mean_of_means
from recycleseg.processes import ALONE, Processes
from recycleseg.run import factory
from recycleseg.run.config import TrainConfig


def make_patch_dice(
    config: TrainConfig,
    data: PreparedDataset,
    patch_size: tuple[int, ...],
    device: torch.device,
    processes: Processes = ALONE,
) -> PatchDice | None:
    """The estimates of a run, if it wants some and has validation cases; see `PatchDice`."""
    if config.validation.patch_every is None or not data.dataset.split["val"]:
        return None
    return PatchDice(config, data, patch_size, device, processes)


class PatchDice:
    """Dice of what one pass of the network tells of patches of the validation cases.

    A diffusion network predicts from noise, as in the first step of sampling. Patches and noise
    depend on the seed alone. Each patch shows a structure if its case has one, and other patches
    than these are not looked at, so this is no substitute for a validation.

    Args:
        config: of the run.
        data: the preprocessed data set, with validation cases.
        patch_size: voxels along each axis.
        device: of the network.
        processes: which share the patches.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: PreparedDataset,
        patch_size: tuple[int, ...],
        device: torch.device,
        processes: Processes,
    ) -> None:
        cases = [data.patch_case(case_id) for case_id in data.dataset.split["val"]]
        patches = PatchSampler(
            cases,
            patch_size,
            config.validation.patches,
            foreground_probability=1.0,
            seed=config.seed,
        )
        self._image, self._label = patches.batch(0)
        self._config = config
        self._classes = data.dataset.classes
        self._diffusion = None
        if config.strategy != "supervised":
            diffusion = factory.make_sampling_diffusion(config, self._classes.exclusive)
            self._diffusion = diffusion.to(device)
        self._device = device
        self._processes = processes
        self._size = math.ceil(config.optim.batch_size / processes.size)

    @torch.no_grad()
    def __call__(self, network: Network) -> dict[str, float]:
        """The mean over the classes, "patch_dice", and each class, "patch_dice/CLASS".

        Args:
            network: in evaluation mode, with the same weights in all processes.
        """
        starts = range(0, len(self._image), self._size)
        own = {start: self._dice(network, start) for start in self._processes.share_of(starts)}
        dice = {start: d for part in self._processes.gather(own) for start, d in part.items()}
        values = torch.cat([dice[start] for start in starts]).double().numpy()
        return scores(values, tuple(self._classes.foreground))

    def _dice(self, network: Network, start: int) -> Tensor:
        """Dice (B, F) of the patches of one pass, on the CPU."""
        rows = range(len(self._image))[start : start + self._size]
        image, label = (
            x[rows.start : rows.stop].to(self._device) for x in (self._image, self._label)
        )
        return soft_dice(self._predict(network, image, rows), label, self._classes).cpu()

    def _predict(self, network: Network, image: Tensor, rows: range) -> Tensor:
        """Probabilities (B, C, *P) of these patches."""
        if self._diffusion is None:
            return probabilities(network(image), self._classes.exclusive)
        shape = (len(self._classes), *image.shape[2:])

        def noise() -> Tensor:  # of each patch its own, whoever predicts it
            return torch.stack([self._noise(shape, row) for row in rows])

        steps = sample(
            network,
            self._diffusion,
            image,
            len(self._classes),
            noise=noise,
            self_conditioning=self._config.strategy == "self_conditioning",
        )
        return next(steps)

    def _noise(self, shape: tuple[int, ...], row: int) -> Tensor:
        seed = np.random.SeedSequence([self._config.seed, row]).generate_state(1).item()
        generator = torch.Generator(self._device).manual_seed(seed)
        return torch.randn(shape, generator=generator, device=self._device)


def soft_dice(probs: Tensor, target: Tensor, classes: Classes) -> Tensor:
    """Dice (B, F) of probabilities instead of a decision: 2 sum(p y) / (sum(p) + sum(y)).

    Args:
        probs: (B, C, *P).
        target: labels (B, *P), or masks (B, C, *P) of overlapping classes; ignored voxels count
            nowhere.
        classes: of both, F of which are foreground.

    Returns:
        NaN where a patch does not show a class.
    """
    target, known = classes.split(target, dim=1)
    if known is not None:
        probs = probs * known.unsqueeze(1)
    dice = []
    for channel in range(len(classes) - len(classes.foreground), len(classes)):
        truth = target == channel if classes.exclusive else target[:, channel] == 1
        predicted, truth = probs[:, channel].flatten(1), truth.flatten(1)
        size = truth.sum(1)
        of_class = 2 * (predicted * truth).sum(1) / (predicted.sum(1) + size)
        dice.append(of_class.where(size > 0, math.nan))
    return torch.stack(dice, dim=1)


def scores(dice: NDArray[np.float64], names: tuple[str, ...]) -> dict[str, float]:
    """Means over the patches that show a class, of Dice (N, F), and the mean over the classes."""
    of_classes = zip(names, finite_mean(dice).tolist(), strict=True)
    return {"patch_dice": mean_of_means(dice)} | {f"patch_dice/{n}": d for n, d in of_classes}
