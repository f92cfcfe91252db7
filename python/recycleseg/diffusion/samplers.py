"""Samplers: one reverse step of DDPM and of DDIM, and the loop from noise to a segmentation.

Each step is x_prev = a * x_start + b * x_t + s * noise, with coefficients of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, Protocol

import torch
from torch import Tensor

from recycleseg.diffusion.gaussian import GaussianDiffusion, weighted_sum


class Network(Protocol):
    """A segmentation network, as strategies and samplers call it; supervised: without mask and t.

    image (B, C_img, *S), mask (B, C or 2C, *S), t (B,) -> (B, C_out, *S).
    """

    def __call__(
        self, image: Tensor, mask: Tensor | None = None, t: Tensor | None = None
    ) -> Tensor: ...


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
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], got {eta}")
    x_start = diffusion.predict_x_start(model_out, x_t, t_index)
    alphas_cumprod = diffusion.coefficient("alphas_cumprod", t_index, x_t)
    alphas_cumprod_prev = diffusion.coefficient("alphas_cumprod_prev", t_index, x_t)
    if diffusion.imgx_compat:
        sigma = eta * diffusion.coefficient("posterior_log_variance_clipped", t_index, x_t)
    else:
        sigma = eta * diffusion.coefficient("posterior_variance", t_index, x_t).sqrt()
    direction = (1 - alphas_cumprod_prev - sigma.square()).sqrt() / (1 - alphas_cumprod).sqrt()
    terms = [
        (alphas_cumprod_prev.sqrt() - direction * alphas_cumprod.sqrt(), x_start),
        (direction, x_t),
    ]
    if eta > 0:
        if noise is None:
            raise ValueError(f"eta = {eta} needs noise, got None")
        terms.append((sigma, noise))
    return weighted_sum(x_t.dtype, *terms), x_start


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
        network: called as network(image, mask, t) once a step.
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
    shape = (image.shape[0], num_classes, *image.shape[2:])
    x_t = noise()
    if x_t.shape != shape:
        raise ValueError(f"noise must give shape {shape}, got {tuple(x_t.shape)}")
    predicted = torch.zeros_like(x_t)
    for index in reversed(range(diffusion.num_timesteps)):
        t_index = torch.full(shape[:1], index, device=image.device)
        mask = diffusion.x_to_mask(x_t)
        if self_conditioning:
            mask = torch.cat([mask, predicted], dim=1)
        model_out = network(image, mask, diffusion.network_time(t_index))
        if sampler == "ddpm":
            x_t, x_start = ddpm_step(diffusion, model_out, x_t, t_index, noise=noise())
        else:
            added = noise() if eta > 0 else None
            x_t, x_start = ddim_step(diffusion, model_out, x_t, t_index, eta=eta, noise=added)
        predicted = diffusion.x_to_mask(x_start)
        yield predicted
