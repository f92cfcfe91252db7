"""A network that gives NaN or Inf never becomes a segmentation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from recycleseg.diffusion.network import Network
from recycleseg.diffusion.process import GaussianDiffusion
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.sampling.mirror import MirroredNetwork
from recycleseg.sampling.samples import sample_case
from recycleseg.sampling.volume import VolumeSampler
from recycleseg.sampling.watch import NonFiniteError, WatchedNetwork, check_finite

CPU = torch.device("cpu")
IMAGE = torch.zeros(1, 12, 9)


class Spoilt:
    """A network whose output has one wrong value at one of its calls.

    Args:
        value: the wrong value; None gives none.
        call: the number of the call, from 0.
    """

    def __init__(self, value: float | None, call: int) -> None:
        self.value, self.call = value, call

    def __call__(
        self, image: Tensor, mask: Tensor | None = None, t: Tensor | None = None
    ) -> Tensor:
        out = torch.cat([image[:, :1] - 1, image[:, :1] + 1], dim=1)
        if self.value is not None and self.call == 0:
            out[-1, 1, 3, 2] = self.value
        self.call -= 1
        return out


def sampler_of(spoilt: Spoilt, *, mirror: bool, noise: bool, **options: Any) -> VolumeSampler:
    prediction_type = "noise" if noise else "x_start"
    exclusive = options.get("exclusive", True)
    network: Network = WatchedNetwork(spoilt, CPU)
    watched = network
    if mirror:
        network = MirroredNetwork(network, 2, exclusive, prediction_type)
    schedule = NoiseSchedule("linear", 1001).respace(3)
    diffusion = GaussianDiffusion(schedule, exclusive=exclusive, prediction_type=prediction_type)
    return VolumeSampler(
        network, diffusion, 2, patch_size=(8, 6), watched=watched, **{"exclusive": True, **options}
    )


@pytest.mark.parametrize("fusion", ["trajectory", "step"])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize(("exclusive", "noise"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("call", [0, 2, 5])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_wrong_output_fails_the_case_and_only_this(
    value: float, call: int, exclusive: bool, noise: bool, mirror: bool, fusion: str
) -> None:
    """At any step and in any window: also where limits would hide it, as 1 or as class 0."""
    spoilt = Spoilt(value, call)
    sampler = sampler_of(spoilt, mirror=mirror, noise=noise, exclusive=exclusive, fusion=fusion)
    with pytest.raises(NonFiniteError, match="^expected finite outputs .*, got NaN or Inf$"):
        sample_case(sampler, IMAGE, "case", seed=0)
    assert spoilt.call < 0
    probs, _ = sample_case(sampler, IMAGE, "case", seed=0)
    assert 0 <= probs.min() and probs.max() <= 1


@pytest.mark.parametrize("samples", [1, 3])
def test_every_sample_is_checked(samples: int) -> None:
    """Four windows, two at a time, go through three steps in six calls for each sample."""
    spoilt = Spoilt(math.nan, 6 * samples - 1)
    sampler = sampler_of(spoilt, mirror=False, noise=False)
    steps: list[int] = []
    with pytest.raises(NonFiniteError):
        sample_case(
            sampler, IMAGE, "c", seed=0, samples=samples, on_step=lambda k, _: steps.append(k)
        )
    assert spoilt.call == -1


def test_supervised_network_is_checked() -> None:
    watched = WatchedNetwork(Spoilt(math.inf, 1), CPU)
    sampler = VolumeSampler(watched, None, 2, False, (8, 6), watched=watched)
    with pytest.raises(NonFiniteError, match="finite outputs"):
        sampler(IMAGE, torch.Generator())


def test_huge_outputs_are_no_logits() -> None:
    """Softmax and sigmoid would make sure classes of them."""
    watched = WatchedNetwork(Spoilt(1e30, 1), CPU)
    sampler = VolumeSampler(watched, None, 2, True, (8, 6), watched=watched)
    with pytest.raises(NonFiniteError, match=r"of the network up to 1e\+06, got 1e\+30$"):
        sampler(IMAGE, torch.Generator())


def test_a_network_that_nobody_watches_is_still_found_by_its_probabilities() -> None:
    sampler = VolumeSampler(Spoilt(math.nan, 0), None, 2, True, (8, 6))
    with pytest.raises(NonFiniteError, match="probabilities within 0 and 1 from the network, got"):
        sampler(IMAGE, torch.Generator())


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_values_that_are_no_probabilities(value: float) -> None:
    probs = torch.full((2, 3, 3), 0.5)
    check_finite(probs, None)
    probs[1, 2, 0] = value
    with pytest.raises(NonFiniteError, match="expected probabilities within 0 and 1"):
        check_finite(probs, None)


def as_channels_last(out: Tensor) -> Tensor:
    return out.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [Tensor.contiguous, as_channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_largest_magnitude(layout: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    out = layout(torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0)).to(dtype))
    watched = WatchedNetwork(lambda image, mask=None, t=None: out * image, CPU)
    for scale in (1.0, -3.0, 2.0):
        watched(torch.tensor(scale, dtype=dtype))
    assert watched.largest == (out * -3).abs().max().float()
    for value in (math.nan, math.inf, -math.inf):
        out[1, 2, 4, 6] = value
        watched(torch.tensor(1.0, dtype=dtype))
        assert not watched.largest < math.inf
        out[1, 2, 4, 6] = 1.0
    watched.begin()
    assert watched.largest == 0
