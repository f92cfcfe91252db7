"""Test-time mirroring: the mean prediction over all flips of an image."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor

from recycleseg.classes import probabilities
from recycleseg.diffusion.gaussian import PredictionType
from recycleseg.diffusion.network import Network


class MirroredNetwork:
    """A network whose prediction is the mean over all flips of the spatial axes.

    In a diffusion model, image and state are flipped at each sampling step and the predictions of
    this step are averaged. So all flips share one trajectory, and for a symmetric network nothing
    changes. One prediction takes 2**n passes for n spatial axes.

    Args:
        network: the network; see `Network`.
        num_classes: C; further channels of the output (a learned variance) are also averaged.
        exclusive: whether a voxel has one class.
        prediction_type: what the network gives: logits of ``x_start`` (also for a supervised
            network), whose probabilities are averaged, or ``noise``, which is itself averaged.
    """

    def __init__(
        self,
        network: Network,
        num_classes: int,
        exclusive: bool,
        prediction_type: PredictionType = "x_start",
    ) -> None:
        self.network = network
        self.num_classes = num_classes
        self.exclusive = exclusive
        self.prediction_type = prediction_type

    def __call__(
        self, image: Tensor, mask: Tensor | None = None, t: Tensor | None = None
    ) -> Tensor:
        """Call it like the network.

        Args:
            image: (B, C_img, *S).
            mask: (B, C, *S), or None.
            t: (B,), or None.

        Returns:
            (B, C, *S) float32: logits of the mean probabilities, or the mean noise.
        """
        total: Tensor | None = None
        number = 2 ** (image.ndim - 2)
        for axes in _subsets(range(2, image.ndim)):
            flipped = None if mask is None else mask.flip(axes)
            out = self._averaged(self.network(image.flip(axes), flipped, t)).flip(axes) / number
            total = out if total is None else total + out
        assert total is not None
        return self._as_output(total)

    def _averaged(self, out: Tensor) -> Tensor:
        """The output to average, with probabilities in place of logits."""
        out = out.float()
        if self.prediction_type == "noise":
            return out
        logits, rest = out.tensor_split([self.num_classes], dim=1)
        return torch.cat([probabilities(logits, self.exclusive), rest], dim=1)

    def _as_output(self, mean: Tensor) -> Tensor:
        if self.prediction_type == "noise":
            return mean
        probs, rest = mean.tensor_split([self.num_classes], dim=1)
        tiny = torch.finfo(probs.dtype).tiny
        logits = probs.clamp_min(tiny).log()
        if not self.exclusive:
            logits = logits - (1 - probs).clamp_min(tiny).log()
        return torch.cat([logits, rest], dim=1)


def _subsets(axes: range) -> Iterator[tuple[int, ...]]:
    for number in range(len(axes) + 1):
        yield from combinations(axes, number)
