"""Mirroring is the mean over flips, and changes nothing for a symmetric network."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recycleseg.diffusion.process import GaussianDiffusion
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.sampling.mirror import MirroredNetwork
from recycleseg.sampling.volume import VolumeSampler


def convolution(spatial_dims: int, out_channels: int, symmetric: bool) -> Any:
    """A network that is one convolution of image and mask, with a symmetric kernel or not."""
    torch.manual_seed(0)
    kernel = torch.randn(out_channels, 3, *[3] * spatial_dims)
    if symmetric:
        axes = range(2, 2 + spatial_dims)
        for axis in axes:
            kernel = (kernel + kernel.flip(axis)) / 2
    convolve = F.conv2d if spatial_dims == 2 else F.conv3d

    def network(image: Tensor, mask: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        seen = image if mask is None else torch.cat([image, mask], 1)
        return convolve(seen, kernel, padding=1)

    return network


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("exclusive", [True, False])
def test_probabilities_are_averaged_over_all_flips(spatial_dims: int, exclusive: bool) -> None:
    network = convolution(spatial_dims, 4, symmetric=False)
    x = torch.randn(2, 3, *(6, 5, 4)[:spatial_dims])
    t = torch.tensor([0.1, 0.7])

    def probs(logits: Tensor) -> Tensor:
        return logits.softmax(1) if exclusive else logits.sigmoid()

    flips = [
        [axis for axis, flipped in enumerate(chosen, 2) if flipped]
        for chosen in product((False, True), repeat=spatial_dims)
    ]
    outs = torch.stack([network(x.flip(axes)).flip(axes) for axes in flips])
    expected = torch.stack([probs(out[:, :2]) for out in outs]).mean(0)
    mirrored = MirroredNetwork(network, 2, exclusive)
    for out in (mirrored(x, t=t), mirrored(x[:, :1], x[:, 1:], t), mirrored(x)):
        # Taking a logarithm and back rounds in float32.
        torch.testing.assert_close(probs(out[:, :2]), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(out[:, 2:], outs[:, :, 2:].mean(0), rtol=1e-5, atol=1e-5)
    of_noise = MirroredNetwork(network, 4, exclusive, "noise")(x)
    torch.testing.assert_close(of_noise, outs.mean(0), rtol=1e-5, atol=1e-5)


def test_certain_probabilities_stay_finite() -> None:
    certain = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1).expand(1, 2, 3, 3)
    for exclusive in (True, False):
        out = MirroredNetwork(lambda *_: certain, 2, exclusive)(torch.zeros(1, 1, 3, 3))
        assert out.isfinite().all()
        probs = out.softmax(1) if exclusive else out.sigmoid()
        torch.testing.assert_close(probs[0, :, 0, 0], torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("fusion", ["trajectory", "step"])
@pytest.mark.parametrize("prediction_type", ["x_start", "noise", None])
def test_a_symmetric_network_is_left_as_it_is(fusion: Any, prediction_type: Any) -> None:
    """A prediction type of None stands for a supervised network."""
    diffusion = None
    if prediction_type is not None:
        schedule = NoiseSchedule("linear", 1001).respace(4)
        diffusion = GaussianDiffusion(schedule, prediction_type=prediction_type)
    plain = convolution(2, 2, symmetric=True)
    mirrored = MirroredNetwork(plain, 2, True, prediction_type or "x_start")
    image = torch.randn(3 if diffusion is None else 1, 11, 9)

    def probs(network: Any) -> Tensor:
        sampler = VolumeSampler(network, diffusion, 2, True, (6, 8), fusion=fusion)
        return sampler(image, torch.Generator().manual_seed(0))

    assert probs(plain).std() > 0.05
    # Means round, and four sampling steps may amplify this.
    torch.testing.assert_close(probs(mirrored), probs(plain), rtol=1e-4, atol=1e-5)
