"""Normal distributions against torch.distributions and the arrays computed by ImgX."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from recycleseg.diffusion.likelihood import (
    approx_standard_normal_cdf,
    discretized_gaussian_log_likelihood,
    normal_kl,
)


def test_equals_imgx(reference: Callable[[str], dict[str, np.ndarray]]) -> None:
    arrays = {key: torch.from_numpy(array) for key, array in reference("d_distribution").items()}
    rounding = {"rtol": 2e-6, "atol": 2e-6}  # float32
    normals = [arrays.pop(f"{d}_{name}") for d in "pq" for name in ("mean", "log_variance")]
    torch.testing.assert_close(normal_kl(*normals), arrays.pop("normal_kl"), **rounding)
    cdf = approx_standard_normal_cdf(arrays.pop("cdf_x"))
    torch.testing.assert_close(cdf, arrays.pop("cdf"), **rounding)
    x, mean, log_variance = (arrays.pop(f"ll_{n}") for n in ("x", "mean", "log_variance"))
    ours = discretized_gaussian_log_likelihood(x, mean, log_variance)
    # a difference of two float32 CDFs near 1: its rounding is absolute, so compare it, not its log
    torch.testing.assert_close(ours.exp(), arrays.pop("ll").exp(), rtol=0, atol=2e-7)
    assert not arrays


def test_kl_is_that_of_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    p_mean, p_log, q_mean, q_log = torch.randn(4, 100, dtype=torch.float64, generator=generator)
    expected = kl_divergence(
        Normal(p_mean, (0.5 * p_log).exp()), Normal(q_mean, (0.5 * q_log).exp())
    )
    torch.testing.assert_close(normal_kl(p_mean, p_log, q_mean, q_log), expected)


def test_cdf_is_approximately_normal() -> None:
    x = torch.linspace(-8, 8, 1001, dtype=torch.float64)
    normal = Normal(torch.zeros((), dtype=torch.float64), 1.0)
    # the error that the approximation is known for
    torch.testing.assert_close(approx_standard_normal_cdf(x), normal.cdf(x), rtol=0, atol=2e-4)


def test_likelihood_of_all_intervals_is_one() -> None:
    """256 grey values from -1 to 1, each the centre of an interval of width 2 / 255."""
    x = torch.linspace(-1, 1, 256, dtype=torch.float64)
    mean = torch.tensor([[-1.2], [-0.3], [0.0], [1.0]], dtype=torch.float64)
    for log_variance in (-8.0, -2.0, 1.0):
        log_likelihood = discretized_gaussian_log_likelihood(x, mean, torch.tensor(log_variance))
        # values below 1e-12 are lifted to it
        torch.testing.assert_close(
            log_likelihood.exp().sum(1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-9
        )


@pytest.mark.parametrize("log_variance", [-80.0, -20.0, 0.0, 80.0])
def test_gradient_is_finite(log_variance: float) -> None:
    x = torch.tensor([-1.0, 0.0, 0.3, 1.0])
    mean = torch.full((4,), 0.3, requires_grad=True)
    log_variances = torch.full((4,), log_variance, requires_grad=True)
    discretized_gaussian_log_likelihood(x, mean, log_variances).sum().backward()
    for gradient in (mean.grad, log_variances.grad):
        assert gradient is not None
        assert bool(gradient.isfinite().all())
