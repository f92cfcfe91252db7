"""Divergence and likelihood of elementwise normal distributions, for the variational bound."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Beyond this many standard deviations the approximate CDF is 0 or 1 in float64 too. Clamping there
# changes no value, and keeps the cube from overflowing where a learned variance is tiny.
_CDF_LIMIT = 10.0


def normal_kl(
    p_mean: Tensor, p_log_variance: Tensor, q_mean: Tensor, q_log_variance: Tensor
) -> Tensor:
    """KL[p || q] in nats of two normal distributions, element by element (shapes broadcast)."""
    return 0.5 * (
        q_log_variance
        - p_log_variance
        + (p_log_variance - q_log_variance).exp()
        + (p_mean - q_mean).square() * (-q_log_variance).exp()
        - 1
    )


def approx_standard_normal_cdf(x: Tensor) -> Tensor:
    """P(y <= x) of a standard normal y, by tanh (Page 1977); off by less than 2e-4 everywhere."""
    x = x.clamp(-_CDF_LIMIT, _CDF_LIMIT)
    return 0.5 * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


def discretized_gaussian_log_likelihood(
    x: Tensor, mean: Tensor, log_variance: Tensor, *, delta: float = 1 / 255, bound: float = 0.999
) -> Tensor:
    """log P(x - delta < y <= x + delta) in nats of a normal y, element by element.

    The intervals at the ends of [-1, 1] reach to infinity (Ho et al., arXiv 2006.11239, eq. 13).

    Args:
        x: values in [-1, 1]; shapes broadcast.
        mean: of the normal distribution.
        log_variance: logarithm of its variance.
        delta: half the width of an interval.
        bound: |x| beyond which the interval counts as the outermost.
    """
    inverse_std = (-0.5 * log_variance).exp()
    cdf_plus = approx_standard_normal_cdf(inverse_std * (x - mean + delta))
    cdf_minus = approx_standard_normal_cdf(inverse_std * (x - mean - delta))
    inside = torch.where(x > bound, 1 - cdf_minus, cdf_plus - cdf_minus)
    return torch.where(x < -bound, cdf_plus, inside).clamp(min=1e-12).log()
