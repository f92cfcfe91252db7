"""Samples of a case: their noise, their mean and their disagreement."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
import torch
from torch import Tensor

from recycleseg.diffusion.process import GaussianDiffusion
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.sampling.samples import case_generator, sample_case
from recycleseg.sampling.volume import VolumeSampler

STEPS = 3


def mask_network(image: Tensor, mask: Tensor | None = None, t: Tensor | None = None) -> Tensor:
    """Repeats its input mask, so that the output shows the noise."""
    return 3.0 * image[:, 1:]


def make_sampler(**options: Any) -> VolumeSampler:
    exclusive = options.get("exclusive", True)
    schedule = NoiseSchedule("linear", 1001).respace(STEPS)
    defaults = {
        "network": mask_network,
        "diffusion": GaussianDiffusion(schedule, exclusive=exclusive),
        "num_classes": 2,
        "exclusive": exclusive,
        "patch_size": (8, 6),
    }
    return VolumeSampler(**{**defaults, **options})


IMAGE = torch.zeros(1, 11, 9)


def test_noise_of_a_case() -> None:
    """The noise of the first sample depends only on the seed and the name of the case."""
    drawn = torch.randn(5, generator=case_generator(7, "case"))
    seed = zlib.crc32(b"case") ^ 7
    assert torch.equal(drawn, torch.randn(5, generator=torch.Generator().manual_seed(seed)))
    others = [
        case_generator(seed, case_id, sample)
        for seed in (7, 8)
        for case_id in ("case", "other")
        for sample in range(3)
    ]
    values = {tuple(torch.randn(5, generator=generator).tolist()) for generator in others}
    assert len(values) == len(others) and tuple(drawn.tolist()) in values


@pytest.mark.parametrize("fusion", ["trajectory", "step"])
@pytest.mark.parametrize("exclusive", [True, False])
def test_mean_and_disagreement_of_samples(fusion: str, exclusive: bool) -> None:
    sampler = make_sampler(fusion=fusion, exclusive=exclusive)
    alone = torch.stack(
        [
            torch.stack(
                [p.clone() for p in sampler.steps(IMAGE, case_generator(3, "case", sample))]
            )
            for sample in range(4)
        ]
    )
    steps: list[Tensor] = []
    told: list[tuple[int, int]] = []
    probs, mutual = sample_case(
        sampler,
        IMAGE,
        "case",
        seed=3,
        samples=4,
        on_step=lambda step, of_step: steps.append(of_step.clone()),
        uncertainty=True,
        progress=lambda done, total: told.append((done, total)),
    )
    # Means of four float32 values, summed in another order.
    torch.testing.assert_close(torch.stack(steps), alone.mean(0), rtol=1e-6, atol=1e-6)
    assert torch.equal(steps[-1], probs)
    last = alone[:, -1].double()

    def entropy(p: Tensor) -> Tensor:
        if exclusive:
            return -torch.special.xlogy(p, p).sum(-3, keepdim=True)
        return -torch.special.xlogy(p, p) - torch.special.xlogy(1 - p, 1 - p)

    expected = entropy(last.mean(0)) - entropy(last).mean(0)
    assert mutual is not None and expected.max() > 0.02
    torch.testing.assert_close(mutual.double(), expected, rtol=1e-4, atol=1e-6)
    assert told[-1][0] == told[-1][1] and sorted(told) == told
    without_steps, nothing = sample_case(sampler, IMAGE, "case", seed=3, samples=4)
    assert torch.equal(without_steps, probs) and nothing is None


@pytest.mark.parametrize("fusion", ["trajectory", "step"])
def test_one_sample_is_the_sampler_itself(fusion: str) -> None:
    sampler = make_sampler(fusion=fusion)
    expected = [p.clone() for p in sampler.steps(IMAGE, case_generator(3, "case"))]
    steps: list[Tensor] = []
    probs, mutual = sample_case(
        sampler,
        IMAGE,
        "case",
        seed=3,
        on_step=lambda step, of_step: steps.append(of_step.clone()),
        uncertainty=True,
    )
    assert all(map(torch.equal, steps, expected)) and len(steps) == STEPS
    assert torch.equal(probs, expected[-1]) and mutual is None
    assert torch.equal(sample_case(sampler, IMAGE, "case", seed=3)[0], probs)


@pytest.mark.parametrize("fusion", ["trajectory", "step"])
@pytest.mark.parametrize("options", [{}, {"eta": 1.0}, {"sampler": "ddpm"}], ids=str)
def test_samples_do_not_depend_on_the_window_batch(fusion: str, options: dict[str, Any]) -> None:
    results = [
        sample_case(
            make_sampler(fusion=fusion, window_batch=batch, **options),
            IMAGE,
            "case",
            seed=3,
            samples=2,
        )[0]
        for batch in (1, 3, 100)
    ]
    assert results[0].std() > 0.05
    for other in results[1:]:  # exp rounds differently in a vector and at the end of a chunk
        torch.testing.assert_close(other, results[0], rtol=1e-6, atol=1e-6)


def test_a_supervised_network_has_one_sample() -> None:
    calls = []

    def network(image: Tensor, mask: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        calls.append(len(image))
        return torch.cat([image, -image], 1)

    sampler = make_sampler(network=network, diffusion=None)
    _, disagreement = sample_case(sampler, IMAGE, "case", seed=0, samples=4, uncertainty=True)
    assert disagreement is None and sum(calls) == 4  # 4 windows of 8 x 6 cover 11 x 9
