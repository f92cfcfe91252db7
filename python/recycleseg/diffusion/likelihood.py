"""Losses of the process itself: the variational bound, and the error of the predicted noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recycleseg.diffusion.process import GaussianDiffusion

# Beyond this many standard deviations the approximate CDF is 0 or 1 in float64 too. Clamping there
# changes no value, and keeps the cube from overflowing where a learned variance is tiny.
_CDF_LIMIT = 10.0


def vlb_loss(
    diffusion: GaussianDiffusion,
    model_out: Tensor,
    x_start: Tensor,
    x_t: Tensor,
    t_index: Tensor,
    known: Tensor | None = None,
) -> Tensor:
    """Term of the variational bound at t_index.

    KL(q(x_{t-1} | x_t, x_0), p(x_{t-1} | x_t)), at t_index 0 -log p(x_0 | x_1), discretised
    (Ho et al., arXiv 2006.11239, eq. 5). Where the variance is learned the gradient reaches only
    its channels (Nichol & Dhariwal, arXiv 2102.09672, section 3.1). Where the diffusion is
    ``imgx_compat``, p and q change places and no gradient goes through the mean, as in ImgX.

    Args:
        diffusion: the process.
        model_out: network output (B, C, *S), 2 * C channels if the variance is learned.
        x_start: truth in x space (B, C, *S).
        x_t: (B, C, *S).
        t_index: (B,) int64.
        known: (B, *S) bool, the voxels to average over; None for all.

    Returns:
        (B,) in bits per element.
    """
    prediction, variance_out = diffusion.split_model_out(model_out)
    if variance_out is not None:
        model_out = torch.cat([prediction.detach(), variance_out], dim=1)
    elif diffusion.imgx_compat:
        model_out = model_out.detach()
    q = diffusion.q_posterior(x_start, x_t, t_index)
    p = diffusion.p_mean_variance(model_out, x_t, t_index)[:2]
    if diffusion.imgx_compat:
        p, q = q, p
    kl = normal_kl(*q, *p)
    nll = -discretized_gaussian_log_likelihood(x_start, *p)
    nats = torch.where(t_index == 0, _mean(nll, known), _mean(kl, known))
    return nats / math.log(2)


def noise_mse_loss(
    diffusion: GaussianDiffusion,
    model_out: Tensor,
    x_t: Tensor,
    t_index: Tensor,
    noise: Tensor,
    known: Tensor | None = None,
) -> Tensor:
    """Mean squared error (B,) of the predicted noise (Ho et al., eq. 14); otherwise as `vlb_loss`.

    noise is what led to x_t, (B, C, *S).
    """
    error = diffusion.predict_noise(model_out, x_t, t_index) - noise
    return _mean(error.square(), known)


def _mean(values: Tensor, known: Tensor | None) -> Tensor:
    """Mean (B,) of values (B, C, *S) over all voxels, or the known ones (B, *S); 0 of none."""
    if known is None:
        return values.flatten(1).mean(1)
    total = values.masked_fill(~known.unsqueeze(1), 0.0).flatten(1).sum(1)
    return total / (known.flatten(1).sum(1).clamp(min=1) * values.shape[1])


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
