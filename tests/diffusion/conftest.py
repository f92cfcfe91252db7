"""Schedules that hold the coefficients ImgX computed in float32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from recycleseg.diffusion.schedule import NoiseSchedule

ARRAYS = {
    "betas": "betas",
    "alphas_cumprod": "alphas_cumprod",
    "alphas_cumprod_prev": "alphas_cumprod_prev",
    "posterior_mean_coef_start": "posterior_mean_coeff_start",
    "posterior_mean_coef_t": "posterior_mean_coeff_t",
    "posterior_variance": "posterior_variance",
    "posterior_log_variance_clipped": "posterior_log_variance_clipped",
}


@pytest.fixture(scope="session")
def imgx_schedule(
    reference: Callable[[str], dict[str, np.ndarray]],
) -> Callable[..., NoiseSchedule]:
    """Maker of a schedule (name, num_timesteps) with the coefficients that ImgX computed.

    ImgX computes its schedules in float32, which costs them up to 3e-4; with its own numbers the
    operations can be compared at float32 rounding. It holds sqrt(1 / alphas_cumprod - 1) beside
    alphas_cumprod, and rounds that too: `by_ratio` takes alphas_cumprod from it.
    """
    arrays = reference("a_schedules")

    def make(name: str, num_timesteps: int, *, by_ratio: bool = False) -> NoiseSchedule:
        def theirs(array: str) -> torch.Tensor:
            return torch.from_numpy(arrays[f"attr/{name}/T{num_timesteps}/{array}"]).double()

        our_name = "imgx_cosine" if name == "cosine" else name
        schedule = NoiseSchedule(our_name, 1001).respace(num_timesteps)
        for our_name, their_name in ARRAYS.items():
            setattr(schedule, our_name, theirs(their_name))
        if by_ratio:
            ratio = theirs("sqrt_recip_alphas_cumprod_minus_one")
            schedule.alphas_cumprod = 1 / (1 + ratio.square())
        return schedule

    return make
