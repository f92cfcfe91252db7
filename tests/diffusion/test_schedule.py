"""Noise schedules against their equations and against the arrays computed by ImgX."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from recycleseg.diffusion.schedule import NoiseSchedule

NAMES = ["linear", "quadratic", "cosine", "warmup10", "warmup50"]


def imgx_attributes(schedule: NoiseSchedule) -> dict[str, Tensor]:
    """Every array that ImgX derives from a schedule, under its name there."""
    alphas_cumprod = schedule.alphas_cumprod
    return {
        "betas": schedule.betas,
        "alphas_cumprod": alphas_cumprod,
        "alphas_cumprod_prev": schedule.alphas_cumprod_prev,
        "alphas_cumprod_next": torch.cat([alphas_cumprod[1:], alphas_cumprod.new_zeros(1)]),
        "sqrt_alphas_cumprod": alphas_cumprod.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - alphas_cumprod).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - alphas_cumprod).log(),
        "sqrt_recip_alphas_cumprod": alphas_cumprod.rsqrt(),
        "sqrt_recip_alphas_cumprod_minus_one": (1 / alphas_cumprod - 1).sqrt(),
        "posterior_mean_coeff_start": schedule.posterior_mean_coef_start,
        "posterior_mean_coeff_t": schedule.posterior_mean_coef_t,
        "posterior_variance": schedule.posterior_variance,
        "posterior_log_variance_clipped": schedule.posterior_log_variance_clipped,
    }


@pytest.mark.parametrize("name", NAMES)
def test_equals_imgx(reference: Callable[[str], dict[str, np.ndarray]], name: str) -> None:
    arrays = reference("a_schedules")
    imgx_name = {"quadratic": "quadradic"}.get(name, name)
    our_name = "imgx_cosine" if name == "cosine" else name
    full = NoiseSchedule(our_name, 1001)
    keys = [key for key in arrays if key.split("/")[1] == imgx_name]
    for key in keys:
        kind, _, size, *attribute = key.split("/")
        # ImgX takes 1 - beta and the products in float32, which costs a small difference from 1,
        # such as the first betas, up to three digits; ours are float64
        tolerance = {"rtol": 3e-4, "atol": 0.0}
        if kind == "betas":
            ours = NoiseSchedule(our_name, int(size[1:])).betas
            tolerance["rtol"] = 1e-6  # rounding of float32
        elif kind == "downsampled":
            ours = full.respace(int(size.removeprefix("T1001_keep"))).betas
        else:
            ours = imgx_attributes(full.respace(int(size[1:])))[attribute[0]]
            if "log" in attribute[0]:
                tolerance = {"rtol": 0.0, "atol": 3e-4}  # the same of its argument
            elif attribute[0] in ("alphas_cumprod", "sqrt_alphas_cumprod"):
                tolerance["rtol"] = 2e-5  # up to 1001 roundings of a product
        theirs = torch.from_numpy(arrays[key]).double()
        torch.testing.assert_close(ours, theirs, **tolerance, msg=lambda m, k=key: f"{k}: {m}")
    assert len(keys) * len(NAMES) == len(arrays)


def test_cosine_is_equation_17() -> None:
    num_timesteps, offset = 1001, 0.008

    def alphas_cumprod(t: int) -> float:
        return math.cos((t / num_timesteps + offset) / (1 + offset) * math.pi / 2) ** 2

    ratio = [alphas_cumprod(t) / alphas_cumprod(t - 1) for t in range(1, num_timesteps + 1)]
    expected = torch.tensor([min(1 - r, 0.999) for r in ratio], dtype=torch.float64)
    schedule = NoiseSchedule("cosine", num_timesteps)
    # float64 rounding of 1 - ratio, whose smallest value is 4e-5
    torch.testing.assert_close(schedule.betas, expected, rtol=1e-11, atol=0)
    assert schedule.betas[-1] == 0.999
    start = alphas_cumprod(0)
    closed_form = torch.tensor([alphas_cumprod(t) / start for t in range(1, num_timesteps)])
    torch.testing.assert_close(schedule.alphas_cumprod[:-1].float(), closed_form)


@pytest.mark.parametrize("name", NAMES)
def test_posterior_is_bayes_rule(name: str) -> None:
    """q(x_{t-1} | x_t, x_0) by multiplying the densities of its two neighbours, step by step."""
    schedule = NoiseSchedule(name, 50)
    for t in range(1, 50):
        alpha, before = float(schedule.alphas[t]), float(schedule.alphas_cumprod[t - 1])
        precision = alpha / (1 - alpha) + 1 / (1 - before)
        # the two ways round differently where the precisions are large
        close = {"rel_tol": 1e-9}
        assert math.isclose(schedule.posterior_variance[t], 1 / precision, **close)
        coef_t = math.sqrt(alpha) / (1 - alpha) / precision
        assert math.isclose(schedule.posterior_mean_coef_t[t], coef_t, **close)
        coef_start = math.sqrt(before) / (1 - before) / precision
        assert math.isclose(schedule.posterior_mean_coef_start[t], coef_start, **close)
        log_variance = schedule.posterior_log_variance_clipped[t]
        assert math.isclose(log_variance, -math.log(precision), **close)
    assert schedule.posterior_variance[0] == 0
    first_two = schedule.posterior_log_variance_clipped[:2]
    assert first_two[0] == first_two[1]


@pytest.mark.parametrize("name", NAMES)
def test_respace_keeps_noise_levels(name: str) -> None:
    schedule = NoiseSchedule(name, 101)
    for steps in range(2, 102):
        respaced = schedule.respace(steps)
        kept = respaced.train_t_index
        assert respaced.num_timesteps == len(kept) == steps
        assert respaced.num_train_timesteps == 101
        assert kept[0] == 0
        assert kept[-1] == 100
        assert bool((kept.diff() > 0).all())
        ideal = torch.linspace(0, 100, steps, dtype=torch.float64)
        # rounded to the nearest step, halves upwards
        assert float((kept - ideal).abs().max()) <= 0.5 + 1e-9
        # products of 1 - beta in float64, with a beta of 1 - 2e-7 at the end of the cosine schedule
        torch.testing.assert_close(
            respaced.alphas_cumprod, schedule.alphas_cumprod[kept], rtol=1e-9, atol=0
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_single_step_is_the_last(name: str) -> None:
    schedule = NoiseSchedule(name, 101)
    one = schedule.respace(1)
    assert (one.num_timesteps, one.num_train_timesteps) == (1, 101)
    assert one.train_t_index.tolist() == [100]
    # 1 - (1 - alphas_cumprod), of which the cosine schedule's last is 2e-7 of the one before
    torch.testing.assert_close(
        one.alphas_cumprod, schedule.alphas_cumprod[-1:], rtol=1e-9, atol=1e-15
    )
    # q(x_{-1} | x_0, x_t) is x_0 itself
    assert one.posterior_mean_coef_start.tolist() == [1.0]
    assert one.posterior_mean_coef_t.tolist() == [0.0]
    assert one.posterior_variance.tolist() == [0.0]
    assert one.posterior_log_variance_clipped.equal(one.betas.log())
    assert one.respace(1).alphas_cumprod.equal(one.alphas_cumprod)


def test_respace_twice_refers_to_training() -> None:
    schedule = NoiseSchedule("linear", 1001).respace(101).respace(5)
    assert schedule.train_t_index.tolist() == [0, 250, 500, 750, 1000]
    assert schedule.num_train_timesteps == 1001


def test_respace_to_all_steps_changes_nothing() -> None:
    schedule = NoiseSchedule("linear", 1001)
    same = schedule.respace(1001)
    assert same.train_t_index.equal(torch.arange(1001))
    # 1 - (1 - beta) loses float64 digits of the smallest beta, 1e-4
    torch.testing.assert_close(same.betas, schedule.betas, rtol=1e-11, atol=0)


def test_from_betas_takes_any_numbers() -> None:
    schedule = NoiseSchedule.from_betas([0.1, 0.2, 0.5])
    expected = torch.tensor([0.9, 0.72, 0.36], dtype=torch.float64)
    torch.testing.assert_close(schedule.alphas_cumprod, expected)
    assert schedule.train_t_index.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseSchedule("sine"), "unknown schedule name 'sine', expected one of .*cosine"),
        (lambda: NoiseSchedule(num_timesteps=1), "num_timesteps must be at least 2, got 1"),
        (lambda: NoiseSchedule(beta_end=1.0), "beta_end < 1, got .* beta_end=1.0"),
        (lambda: NoiseSchedule(beta_start=0.0), "0 < beta_start .*beta_start=0.0"),
        (lambda: NoiseSchedule().respace(0), r"in \[1, 1001\].* got 0"),
        (lambda: NoiseSchedule().respace(1002), r"in \[1, 1001\].* got 1002"),
        (lambda: NoiseSchedule.from_betas([]), r"shape \(T,\).*got \(0,\)"),
        (lambda: NoiseSchedule.from_betas([0.1, 1.5]), r"lie in \(0, 1\), got 0.1 ... 1.5"),
        (lambda: NoiseSchedule.from_betas([0.1, math.nan]), r"lie in \(0, 1\)"),
        (
            lambda: NoiseSchedule.from_betas([0.1, 0.2], train_t_index=torch.arange(3)),
            r"train_t_index must have shape \(2,\) as betas, got \(3,\)",
        ),
        (
            lambda: NoiseSchedule.from_betas([0.1, 0.2], train_t_index=torch.tensor([0, 5])),
            r"train_t_index must lie in \[0, 2\), got 0 ... 5",
        ),
    ],
)
def test_bad_arguments(make: Callable[[], NoiseSchedule], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
