"""The expected time of sampling."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recycleseg.diffusion.process import GaussianDiffusion
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.sampling.samples import sample_case
from recycleseg.sampling.timing import median_seconds, seconds_per_case
from recycleseg.sampling.volume import VolumeSampler

CPU = torch.device("cpu")


class SlowNetwork:
    """Takes 2 ms per window; remembers the shapes of its inputs."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def __call__(
        self, image: Tensor, mask: Tensor | None = None, t: Tensor | None = None
    ) -> Tensor:
        self.seen.append(tuple(image.shape))
        time.sleep(2e-3 * len(image))
        return torch.zeros(len(image), 3, *image.shape[2:])


def make_sampler(network: SlowNetwork) -> VolumeSampler:
    diffusion = GaussianDiffusion(NoiseSchedule("linear", 1001).respace(5))
    return VolumeSampler(network, diffusion, 3, True, (8, 8), window_batch=4)


def test_time_follows_the_windows() -> None:
    network = SlowNetwork()
    sampler = make_sampler(network)
    shapes = [(8, 8), (5, 5), (16, 16), (16, 8)]
    one, padded, nine, three = seconds_per_case(sampler, 2, shapes, CPU)
    assert network.seen == [(4, 5, 8, 8)] * 16  # two channels and three classes
    assert one == padded
    assert (nine, three) == pytest.approx((9 * one, 3 * one))
    assert one >= 5 * 2e-3
    twice = seconds_per_case(sampler, 2, [(8, 8)], CPU, samples=2)[0]
    assert twice >= 2 * 5 * 2e-3


def test_a_batch_is_not_larger_than_a_case() -> None:
    network = SlowNetwork()
    seconds_per_case(make_sampler(network), 1, [(8, 8)], CPU)
    assert network.seen == [(1, 4, 8, 8)] * 16


def test_a_compiled_network_takes_whole_batches() -> None:
    network = SlowNetwork()
    sampler = replace(make_sampler(network), compiled=True)
    one, three, nine = seconds_per_case(sampler, 1, [(8, 8), (16, 8), (16, 16)], CPU)
    assert network.seen == [(4, 4, 8, 8)] * 16
    assert (three, nine) == pytest.approx((one, 3 * one))


def test_other_inputs() -> None:
    network = SlowNetwork()
    sampler = make_sampler(network)
    seconds_per_case(replace(sampler, self_conditioning=True), 1, [(8, 8)], CPU)
    (supervised,) = seconds_per_case(replace(sampler, diffusion=None), 1, [(8, 8)], CPU, samples=3)
    assert network.seen == [(1, 7, 8, 8)] * 16 + [(1, 1, 8, 8)] * 16
    assert supervised >= 2e-3
    assert seconds_per_case(sampler, 1, [], CPU) == []
    assert len(network.seen) == 32


def test_the_estimate_is_near_the_time_of_a_case() -> None:
    sampler = make_sampler(SlowNetwork())
    (expected,) = seconds_per_case(sampler, 1, [(32, 32)], CPU)
    start = time.perf_counter()
    sample_case(sampler, torch.zeros(1, 32, 32), "case", seed=0)
    # at least the network's 49 windows of 2 ms at 5 steps; other work and a busy machine add to it
    assert 49 * 5 * 2e-3 <= expected < 3 * (time.perf_counter() - start)


@pytest.mark.parametrize(("each", "number"), [(0.0, 16), (1.0, 11), (30.0, 4)])
def test_quick_work_is_measured_often_and_slow_work_not_for_long(
    monkeypatch: pytest.MonkeyPatch, each: float, number: int
) -> None:
    clock, done = [0.0], []

    def work(index: int) -> None:
        done.append(index)
        clock[0] += each if index else 100.0  # the first one compiles

    monkeypatch.setattr("recycleseg.sampling.timing.time.perf_counter", lambda: clock[0])
    assert median_seconds(work, CPU) == each
    assert done == list(range(number))
