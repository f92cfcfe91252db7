"""The steps of the diffusion between two passes of the network, written into the network's input.

Each of them is x_next = a * x_start + b * x_t + s * noise, with coefficients of its own, and gives
the network mask = (clip(x_next, -1, 1) + 1) / 2. They run under no_grad.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recycleseg.diffusion.gaussian import GaussianDiffusion
from recycleseg.diffusion.network import NetworkInput
from recycleseg.ops.ddim_update import DdimUpdate, ddim_update
from recycleseg.ops.noise_step import SourceType, noise_step
from recycleseg.ops.philox import PhiloxNoise

Noise = Tensor | PhiloxNoise


def noise_label(
    diffusion: GaussianDiffusion,
    label: Tensor,
    t_index: Tensor,
    noise: Noise,
    num_classes: int,
    x: NetworkInput,
    *,
    return_x: bool = False,
) -> Tensor | None:
    """Noise the truth to t_index: x_t ~ q(x_t | x_0).

    Args:
        diffusion: the process.
        label: (B, *S) integers; of overlapping classes a mask (B, C, *S).
        t_index: (B,) int64.
        noise: (B, C, *S), or what it is drawn by.
        num_classes: C.
        x: network input, whose first C channels of the mask are overwritten.
        return_x: whether to give x_t.

    Returns:
        x_t (B, C, *S) float32, or None.
    """
    source_type: SourceType = "label" if diffusion.exclusive else "probs"
    source = label if diffusion.exclusive else label.float()
    return _noise_source(diffusion, source, source_type, t_index, noise, num_classes, x, return_x)


def noise_prediction(
    diffusion: GaussianDiffusion,
    model_out: Tensor,
    x_prev: Tensor | None,
    t_prev: Tensor,
    t_index: Tensor,
    noise: Noise,
    x: NetworkInput,
    *,
    return_x: bool = False,
) -> Tensor | None:
    """Noise the x_start that model_out predicts from x_prev at t_prev, to t_index.

    Otherwise as `noise_label`. x_prev: needed of a network that predicts the noise.
    """
    source, _ = diffusion.split_model_out(model_out)
    source_type: SourceType = "logits"
    if diffusion.prediction_type == "noise":
        assert x_prev is not None
        source_type = "probs"
        source = (diffusion.predict_x_start(model_out, x_prev, t_prev) + 1) / 2
    return _noise_source(
        diffusion, source, source_type, t_index, noise, source.shape[1], x, return_x
    )


def _noise_source(
    diffusion: GaussianDiffusion,
    source: Tensor,
    source_type: SourceType,
    t_index: Tensor,
    noise: Noise,
    num_classes: int,
    x: NetworkInput,
    return_x: bool,
) -> Tensor | None:
    step = noise_step(
        source,
        *diffusion.q_scales(t_index),
        source_type=source_type,
        num_classes=num_classes,
        exclusive=diffusion.exclusive,
        network_input=x.tensor,
        first_channel=x.mask_channel,
        return_x=return_x,
        **_drawn(noise),
    )
    return step.x_t


def reverse(
    diffusion: GaussianDiffusion,
    model_out: Tensor,
    x_t: Tensor,
    t_index: Tensor,
    coefficients: Tensor,
    x: NetworkInput | None = None,
    *,
    noise: Noise | None = None,
    return_probs: bool = False,
) -> DdimUpdate:
    """A reverse step from x_t with coefficients (B, 3) of x_start, x_t and noise.

    Otherwise as `noise_label`; x: None where the mask is not wanted; return_probs: whether to give
    the predicted mask.
    """
    prediction, _ = diffusion.split_model_out(model_out)
    of_start = None
    if diffusion.prediction_type == "noise":
        of_start = diffusion.x_start_coefficients(t_index)
        a, b, s = coefficients.unbind(1)
        of_x_t, of_noise = of_start.unbind(1)
        coefficients = torch.stack([a * of_noise, b + a * of_x_t, s], dim=1)
        of_start = of_start.float()
    return ddim_update(
        prediction,
        x_t,
        coefficients.float(),
        prediction_type=diffusion.prediction_type,
        start_coefficients=of_start,
        exclusive=diffusion.exclusive,
        network_input=None if x is None else x.tensor,
        first_channel=0 if x is None else x.mask_channel,
        return_probs=return_probs,
        **_drawn(noise),
    )


def _drawn(noise: Noise | None) -> dict[str, Any]:
    if isinstance(noise, PhiloxNoise):
        return noise._asdict()
    return {"noise": noise}
