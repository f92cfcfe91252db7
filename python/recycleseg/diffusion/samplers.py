"""Samplers: one reverse step of DDPM and of DDIM, and the loop from noise to a segmentation.

Each step is x_prev = a * x_start + b * x_t + s * noise, with coefficients of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from recycleseg.diffusion.gaussian import GaussianDiffusion, columns_for, weighted_sum
from recycleseg.diffusion.network import Network, NetworkInput
from recycleseg.diffusion.steps import reverse


def ddpm_step(
    diffusion: GaussianDiffusion, model_out: Tensor, x_t: Tensor, t_index: Tensor, *, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """x_{t-1} ~ p(x_{t-1} | x_t), Ho et al. (arXiv 2006.11239), algorithm 2.

    Args:
        diffusion: the process.
        model_out: network output (B, C, *S), 2 * C channels if the variance is learned.
        x_t: state (B, C, *S).
        t_index: (B,) int64.
        noise: normal noise (B, C, *S); t_index 0 adds none.

    Returns:
        x_prev and the predicted x_start, both as x_t.
    """
    mean, log_variance, x_start = diffusion.p_mean_variance(model_out, x_t, t_index)
    not_last = (t_index != 0).view(-1, *[1] * (x_t.ndim - 1))
    return mean + not_last * (0.5 * log_variance).exp() * noise, x_start


def ddim_step(
    diffusion: GaussianDiffusion,
    model_out: Tensor,
    x_t: Tensor,
    t_index: Tensor,
    *,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """x_{t-1} of Song et al. (arXiv 2010.02502), eq. 12, with sigma = eta * posterior std (eq. 16).

    Where the diffusion is ``imgx_compat``, sigma = eta * posterior log variance, as in ImgX: NaN
    for most eta > 0.

    Args:
        diffusion: the process; a learned variance is not used.
        model_out: network output (B, C, *S), 2 * C channels if the variance is learned.
        x_t: state (B, C, *S).
        t_index: (B,) int64.
        eta: 0 (deterministic) ... 1 (as noisy as DDPM).
        noise: normal noise (B, C, *S), needed where eta > 0.

    Returns:
        x_prev and the predicted x_start, both as x_t.

    Raises:
        ValueError: eta outside [0, 1], or eta > 0 without noise.
    """
    coefficients = ddim_coefficients(diffusion, t_index, eta)
    if eta > 0 and noise is None:
        raise ValueError(f"eta = {eta} needs noise, got None")
    of_start, of_x_t, of_noise = columns_for(x_t, t_index, coefficients)
    x_start = diffusion.predict_x_start(model_out, x_t, t_index)
    terms = [(of_start, x_start), (of_x_t, x_t)]
    if noise is not None:
        terms.append((of_noise, noise))
    return weighted_sum(x_t.dtype, *terms), x_start


def ddim_coefficients(diffusion: GaussianDiffusion, t_index: Tensor, eta: float) -> Tensor:
    """Coefficients (B, 3) float64 of x_start, x_t and noise in a step of DDIM; see `ddim_step`.

    Raises:
        ValueError: eta outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], got {eta}")
    alphas_cumprod = diffusion.look_up("alphas_cumprod", t_index)
    alphas_cumprod_prev = diffusion.look_up("alphas_cumprod_prev", t_index)
    if diffusion.imgx_compat:
        sigma = eta * diffusion.look_up("posterior_log_variance_clipped", t_index)
    else:
        sigma = eta * diffusion.look_up("posterior_variance", t_index).sqrt()
    direction = (1 - alphas_cumprod_prev - sigma.square()).sqrt() / (1 - alphas_cumprod).sqrt()
    of_start = alphas_cumprod_prev.sqrt() - direction * alphas_cumprod.sqrt()
    return torch.stack([of_start, direction, sigma], dim=1)


def ddpm_coefficients(diffusion: GaussianDiffusion, t_index: Tensor) -> Tensor:
    """Coefficients (B, 3) float64 of x_start, x_t and noise in a step of DDPM; see `ddpm_step`.

    Raises:
        ValueError: the variance is learned: it has no coefficient.
    """
    std = (0.5 * diffusion.fixed_log_variance(t_index)).exp()
    coefficients = diffusion.posterior_mean_coefficients(t_index)
    coefficients[:, 2] = torch.where(t_index == 0, 0.0, std)
    return coefficients


@torch.no_grad()
def sample(
    network: Network,
    diffusion: GaussianDiffusion,
    image: Tensor,
    num_classes: int,
    *,
    noise: Callable[[], Tensor],
    sampler: Literal["ddim", "ddpm"] = "ddim",
    eta: float = 0.0,
    self_conditioning: bool = False,
) -> Iterator[Tensor]:
    """Segment an image by reversing the diffusion from noise, step by step.

    Args:
        network: called as network(x.tensor, t=t) once a step, x being the image and the mask.
        diffusion: process whose schedule has been respaced to the wanted number of steps.
        image: (B, C_img, *S).
        num_classes: C.
        noise: gives normal noise (B, C, *S), float32 on the image's device: called first for the
            state to start from, then once a step by ddpm, and by ddim where eta > 0.
        sampler: ``ddim`` or ``ddpm``.
        eta: of DDIM.
        self_conditioning: whether the network's mask has C more channels, which hold the
            prediction of the step before (zeros at the first).

    Yields:
        At each step, from the first to the last, the predicted mask (B, C, *S) in [0, 1].

    Raises:
        ValueError: an unknown sampler, or noise of another shape.
    """
    if sampler not in ("ddim", "ddpm"):
        raise ValueError(f"unknown sampler {sampler!r}, expected 'ddim' or 'ddpm'")
    batch, _, *spatial = image.shape
    x_t = noise()
    if x_t.shape != (batch, num_classes, *spatial):
        raise ValueError(
            f"noise must give shape {(batch, num_classes, *spatial)}, got {tuple(x_t.shape)}"
        )
    x = NetworkInput(image, num_classes * (2 if self_conditioning else 1))
    mask, predicted = x.mask.tensor_split([num_classes], dim=1)
    mask.copy_(diffusion.x_to_mask(x_t))
    predicted.zero_()
    stochastic = draws_noise(sampler, eta)
    for index in reversed(range(diffusion.num_timesteps)):
        t_index = torch.full((batch,), index, device=image.device)
        model_out = network(x.tensor, t=diffusion.network_time(t_index))
        x_t, probs = reverse_step(
            diffusion,
            model_out,
            x_t,
            t_index,
            x,
            sampler=sampler,
            eta=eta,
            noise=noise() if stochastic else None,
        )
        if self_conditioning:
            predicted.copy_(probs)
        yield probs


def draws_noise(sampler: Literal["ddim", "ddpm"], eta: float) -> bool:
    """Whether the steps of a sampler draw noise; the state to start from always is noise."""
    return sampler == "ddpm" or eta > 0


def reverse_step(
    diffusion: GaussianDiffusion,
    model_out: Tensor,
    x_t: Tensor,
    t_index: Tensor,
    x: NetworkInput | None = None,
    *,
    sampler: Literal["ddim", "ddpm"] = "ddim",
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of `sample`.

    Args:
        diffusion: the process.
        model_out: network output (B, C, *S), 2 * C channels if the variance is learned.
        x_t: state (B, C, *S).
        t_index: (B,) int64.
        x: network input whose first C channels of the mask become those of x_{t-1}, or None.
        sampler: ``ddim`` or ``ddpm``.
        eta: of DDIM.
        noise: normal noise (B, C, *S), needed where `draws_noise`.

    Returns:
        x_{t-1} and the predicted mask in [0, 1], both (B, C, *S).
    """
    if sampler == "ddpm" and diffusion.learns_variance:
        assert noise is not None
        x_prev, x_start = ddpm_step(diffusion, model_out, x_t, t_index, noise=noise)
        if x is not None:
            x.mask[:, : x_t.shape[1]] = diffusion.x_to_mask(x_prev)
        return x_prev, diffusion.x_to_mask(x_start)
    if sampler == "ddpm":
        coefficients = ddpm_coefficients(diffusion, t_index)
    else:
        coefficients = ddim_coefficients(diffusion, t_index, eta)
    step = reverse(
        diffusion, model_out, x_t, t_index, coefficients, x, noise=noise, return_probs=True
    )
    assert step.probs is not None
    return step.x_prev, step.probs
