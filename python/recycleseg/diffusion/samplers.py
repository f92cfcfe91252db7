"""Samplers: the reverse step of DDIM and of DDPM, and the loop from noise to a segmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from recycleseg.diffusion.network import Network, NetworkInput
from recycleseg.diffusion.process import GaussianDiffusion, check_t_index
from recycleseg.ops.ddim_update import ddim_update
from recycleseg.ops.noise_step import x_to_mask

Sampler = Literal["ddim", "ddpm"]


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
        x_prev, without gradient, and the predicted x_start, both as x_t.
    """
    x_prev, _ = reverse_step(diffusion, model_out, x_t, t_index, sampler="ddpm", noise=noise)
    return x_prev.to(x_t.dtype), diffusion.predict_x_start(model_out, x_t, t_index)


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
        x_prev, without gradient, and the predicted x_start, both as x_t.

    Raises:
        ValueError: eta outside [0, 1], or eta > 0 without noise.
    """
    x_prev, _ = reverse_step(diffusion, model_out, x_t, t_index, eta=eta, noise=noise)
    return x_prev.to(x_t.dtype), diffusion.predict_x_start(model_out, x_t, t_index)


@torch.no_grad()
def reverse_step(
    diffusion: GaussianDiffusion,
    model_out: Tensor,
    x_t: Tensor,
    t_index: Tensor,
    x: NetworkInput | None = None,
    *,
    sampler: Sampler = "ddim",
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """x_{t-1} = a * x_start + b * x_t + s * noise: the only reverse step, of every sampler.

    Args:
        diffusion: the process.
        model_out: network output (B, C, *S), 2 * C channels if the variance is learned.
        x_t: state (B, C, *S).
        t_index: (B,) int64.
        x: network input whose mask becomes, in its first C channels, that of x_{t-1}.
        sampler: ``ddim`` or ``ddpm``, which have coefficients a, b and s of their own.
        eta: of DDIM.
        noise: normal noise (B, C, *S). None, where eta is 0 or unused: the mean of x_{t-1}.

    Returns:
        x_{t-1} and the predicted mask in [0, 1], both (B, C, *S) without gradient: float64 where
        model_out or x_t is, else float32.

    Raises:
        ValueError: the shapes do not fit, eta outside [0, 1], or eta > 0 without noise.
    """
    check_t_index(t_index, x_t)
    if sampler == "ddpm":
        coefficients = ddpm_coefficients(diffusion, t_index)
        if diffusion.learns_variance and noise is not None:
            log_variance = diffusion.learned_log_variance(model_out, x_t, t_index)
            noise = (0.5 * log_variance).exp() * noise
    else:
        coefficients = ddim_coefficients(diffusion, t_index, eta)
        if eta > 0 and noise is None:
            raise ValueError(f"eta = {eta} needs noise, got None")
    of_x_start = None
    if diffusion.prediction_type == "noise":
        # x_start = of_x_t * x_t + of_noise * model_out
        of_x_start = diffusion.x_start_coefficients(t_index)
        (a, b, s), (of_x_t, of_noise) = coefficients.unbind(1), of_x_start.unbind(1)
        coefficients = torch.stack([a * of_noise, b + a * of_x_t, s], dim=1)
    both = torch.promote_types(model_out.dtype, x_t.dtype)
    dtype = torch.promote_types(both, torch.float32)
    step = ddim_update(
        diffusion.prediction(model_out, x_t),
        x_t,
        coefficients.to(dtype),
        prediction_type=diffusion.prediction_type,
        start_coefficients=None if of_x_start is None else of_x_start.to(dtype),
        exclusive=diffusion.exclusive,
        noise=noise,
        network_input=None if x is None else x.tensor,
        first_channel=0 if x is None else x.mask_channel,
        return_probs=True,
    )
    assert step.probs is not None
    return step.x_prev, step.probs


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

    A learned variance, which differs between voxels, scales the noise itself: its coefficient is 1.
    """
    of_start, of_x_t = diffusion.posterior_mean_coefficients(t_index).unbind(1)
    if diffusion.learns_variance:
        std = torch.ones_like(of_x_t)
    else:
        std = (0.5 * diffusion.fixed_log_variance(t_index)).exp()
    return torch.stack([of_start, of_x_t, torch.where(t_index == 0, 0.0, std)], dim=1)


@torch.no_grad()
def sample(
    network: Network,
    diffusion: GaussianDiffusion,
    image: Tensor,
    num_classes: int,
    *,
    noise: Callable[[], Tensor],
    sampler: Sampler = "ddim",
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
    mask.copy_(x_to_mask(x_t))
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


def draws_noise(sampler: Sampler, eta: float) -> bool:
    """Whether the steps of a sampler draw noise; the state to start from always is noise."""
    return sampler == "ddpm" or eta > 0
