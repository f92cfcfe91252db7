"""From a configuration to the objects it describes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recycleseg.classes import Classes
from recycleseg.data.intensity import ChannelIntensity
from recycleseg.data.preprocess import Plan
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.diffusion.strategies import (
    Recycling,
    SelfConditioning,
    Standard,
    Supervised,
    make_draws,
)
from recycleseg.diffusion.timesteps import ImportanceTimesteps, UniformTimesteps
from recycleseg.run import factory
from recycleseg.run.config import TrainConfig
from recycleseg.run.device import AutocastNetwork
from recycleseg.run.options import (
    DiffusionConfig,
    LossConfig,
    ModelConfig,
    PatchConfig,
    RecyclingConfig,
    RuntimeConfig,
    SamplingConfig,
    SelfConditioningConfig,
)

STRATEGIES = {
    "recycling": Recycling,
    "standard": Standard,
    "self_conditioning": SelfConditioning,
    "supervised": Supervised,
}
PLAN = Plan(
    channel_names=("T1", "T2"),
    classes=Classes(("background", "a", "b")),
    spatial_dims=2,
    spacing=None,
    shape=None,
    intensities=(ChannelIntensity("none"),) * 2,
)
SMALL = TrainConfig(model=ModelConfig(channels=(8, 16), num_res_blocks=1, num_heads=2))


@pytest.mark.parametrize(
    ("median_shape", "expected"),
    [((33, 48, 31), (40, 48, 32)), ((1, 7), (8, 8)), ((512, 512), (512, 512))],
)
def test_patch_is_the_median_shape_rounded_up(
    median_shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert factory.choose_patch_size(SMALL.patch, median_shape) == expected


def test_patch_is_cut_to_fit() -> None:
    size = factory.choose_patch_size(SMALL.patch, (300, 200, 40))
    assert size[2] == 40 and all(n % 8 == 0 for n in size)
    assert 0.8 * 2**18 < math.prod(size) <= 2**18
    patch = PatchConfig(max_voxels=20_000)
    assert factory.choose_patch_size(patch, (32, 40, 32)) == (24, 24, 32)
    patch = PatchConfig(max_voxels=1)
    assert factory.choose_patch_size(patch, (32, 40, 32)) == (8, 8, 8)


def test_patch_of_the_configuration() -> None:
    config = replace(SMALL, patch=PatchConfig(size=(20, 12)))
    assert factory.choose_patch_size(config.patch, (300, 200)) == (20, 12)
    with pytest.raises(ValueError, match=r"patch.size: expected 3 numbers, got \[20, 12\]"):
        factory.choose_patch_size(config.patch, (300, 200, 40))


def test_cache_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv(factory.CACHE)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert factory.cache_root() == tmp_path / ".cache" / "recycleseg"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert factory.cache_root() == tmp_path / "xdg" / "recycleseg"
    monkeypatch.setenv(factory.CACHE, str(tmp_path / "mine"))
    assert factory.cache_root() == tmp_path / "mine"
    config = replace(SMALL, runtime=RuntimeConfig(cache=str(tmp_path / "own")))
    assert factory.cache_root(config.runtime.cache) == tmp_path / "own"


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("variance_type", ["fixed_small", "learned_range"])
@pytest.mark.parametrize("exclusive", [True, False])
def test_parts_of_a_strategy_fit_together(
    strategy: Any, variance_type: Any, exclusive: bool
) -> None:
    """A training step, and the sampling of an image that is larger than the patch."""
    torch.manual_seed(0)
    diffusion_config = DiffusionConfig(variance_type=variance_type, num_timesteps=11)
    learned = variance_type == "learned_range" and strategy != "supervised"
    loss = LossConfig(vlb=0.1 if learned else 0.0)
    config = replace(SMALL, strategy=strategy, diffusion=diffusion_config, loss=loss)
    plan = (
        PLAN if exclusive else replace(PLAN, classes=Classes(("a", "b", "c"), ((1, 2), (1,), (2,))))
    )
    network = factory.make_network(config, plan)
    forward = AutocastNetwork(network, torch.device("cpu"), "float32")

    diffusion = factory.make_diffusion(config, exclusive)
    assert (diffusion.num_timesteps, diffusion.exclusive) == (11, exclusive)
    made = factory.make_strategy(config, diffusion, len(plan.classes))
    assert type(made) is STRATEGIES[strategy]
    label = torch.randint(3, (2, 8, 8)) if exclusive else torch.randint(2, (2, 3, 8, 8))
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 2, 8, 8)
    if isinstance(made, Supervised):
        result = made(forward, image, label)
    else:
        timesteps = factory.make_timesteps(config)
        draws = make_draws(made, timesteps, generator, (2, len(plan.classes), 8, 8))
        result = made(forward, image, label, draws)
    assert result.loss.isfinite()
    assert result.logits.shape == (2, 3, 8, 8)
    result.loss.backward()

    sampler = factory.make_volume_sampler(config, forward, plan, (8, 8), torch.device("cpu"))
    network.eval()
    probs = torch.stack([p.clone() for p in sampler.steps(torch.randn(2, 11, 8), generator)])
    assert probs.shape == (1 if strategy == "supervised" else 5, 3, 11, 8)
    assert 0 <= probs.min() and probs.max() <= 1
    if exclusive:
        torch.testing.assert_close(probs.sum(1), torch.ones_like(probs[:, 0]))


def test_options_reach_their_objects() -> None:
    config = replace(
        SMALL,
        imgx_compat=True,
        diffusion=DiffusionConfig(
            num_timesteps=101, prediction_type="noise", timesteps="importance"
        ),
        recycling=RecyclingConfig(prev_step="next", reverse_step=True),
        self_conditioning=SelfConditioningConfig(prev_step="next", probability=0.25),
        loss=LossConfig(dice=2.0, focal=3.0, cross_entropy=4.0, mse=5.0, vlb=6.0),
        patch=PatchConfig(overlap=0.25),
        sampling=SamplingConfig(sampler="ddpm", num_steps=7, eta=0.5, window_batch=3),
    )
    diffusion = factory.make_diffusion(config, True)
    assert (diffusion.num_timesteps, diffusion.prediction_type) == (101, "noise")
    assert diffusion.imgx_compat
    cosine = replace(config, diffusion=DiffusionConfig(schedule="cosine"))
    imgx_betas = NoiseSchedule("imgx_cosine").betas
    assert factory.make_diffusion(cosine, True).schedule.betas.equal(imgx_betas)
    literature = factory.make_diffusion(replace(cosine, imgx_compat=False), True)
    assert literature.schedule.betas.equal(NoiseSchedule("cosine").betas)
    timesteps = factory.make_timesteps(config)
    assert isinstance(timesteps, ImportanceTimesteps) and timesteps.imgx_compat
    assert isinstance(factory.make_timesteps(SMALL), UniformTimesteps)

    recycling = factory.make_strategy(config, diffusion, 3)
    assert isinstance(recycling, Recycling)
    assert (recycling.prev_step, recycling.reverse_step) == ("next", True)
    assert (recycling.objective.mse, recycling.objective.vlb) == (5.0, 6.0)
    segmentation = recycling.objective.segmentation
    assert segmentation.weights == {"dice": 2.0, "focal": 3.0, "cross_entropy": 4.0}
    assert segmentation.imgx_compat
    conditioned = factory.make_strategy(replace(config, strategy="self_conditioning"), diffusion, 3)
    assert isinstance(conditioned, SelfConditioning)
    assert (conditioned.prev_step, conditioned.probability) == ("next", 0.25)
    assert conditioned.objective.diffusion.imgx_compat

    device = torch.device("cpu")
    sampler = factory.make_volume_sampler(config, lambda image: image, PLAN, (8, 8), device)
    assert (sampler.sampler, sampler.eta, sampler.window_batch) == ("ddpm", 0.5, 3)
    assert (sampler.overlap, sampler.patch_size) == (0.25, (8, 8))
    assert sampler.diffusion is not None
    assert (sampler.diffusion.num_timesteps, sampler.diffusion.imgx_compat) == (7, True)
