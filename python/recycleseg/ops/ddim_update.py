"""One reverse step of the diffusion, with the next input of the network and the segmentation."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from recycleseg.classes import probabilities
from recycleseg.ops import _checks as check
from recycleseg.ops._backend import use_triton
from recycleseg.ops._layout import check_output, collapsible, empty_in_layout_of
from recycleseg.ops.noise_step import x_to_mask
from recycleseg.ops.philox import as_seed, philox_normal

PredictionType = Literal["x_start", "noise"]


class DdimUpdate(NamedTuple):
    """What :func:`ddim_update` gives; label and probs are None where they are not asked for.

    Attributes:
        x_prev: x_{t-1} (B, C, *S), new, not clipped, in x_t's layout.
        label: (B, *S) uint8, the first arg-max of model_out; of p where the noise is predicted.
        probs: p (B, C, *S).
    """

    x_prev: Tensor
    label: Tensor | None
    probs: Tensor | None


@torch.no_grad()
def ddim_update(
    model_out: Tensor,
    x_t: Tensor,
    coefficients: Tensor,
    *,
    prediction_type: PredictionType = "x_start",
    start_coefficients: Tensor | None = None,
    exclusive: bool = True,
    noise: Tensor | None = None,
    seed: int | Tensor | None = None,
    offset: int | Tensor = 0,
    network_input: Tensor | None = None,
    first_channel: int = 0,
    return_label: bool = False,
    return_probs: bool = False,
    probs_mean: Tensor | None = None,
    mean_weight: float | Tensor | None = None,
    backend: str = "auto",
) -> DdimUpdate:
    """A step from x_t to x_{t-1}, of DDIM or DDPM: the coefficients tell which.

        x_prev = a[b] * out + b[b] * x_t + s[b] * noise,     (a, b, s)[b] = coefficients[b],

    where out is x_start = 2 * p - 1 with p the softmax (exclusive classes) or sigmoid of model_out,
    or, of a network that predicts the noise, model_out itself. DDIM (Song et al., arXiv 2010.02502,
    eq. 12) and DDPM (Ho et al., arXiv 2006.11239, algorithm 2) are of this form. It is computed in
    float32 (float64 if model_out or x_t is), on a GPU in one pass that reads and writes every
    element once. Nothing here waits for the device. There is no gradient.

    Args:
        model_out: (B, C, *S), any floating dtype; it may be a slice of channels.
        x_t: (B, C, *S), any floating dtype.
        coefficients: (B, 3) float32 (float64 if model_out or x_t is).
        prediction_type: what the network gives: logits of "x_start", or the "noise".
        start_coefficients: (B, 2), for "noise" if label, probs or their mean are asked for: then
            p = (clip(x_start, -1, 1) + 1) / 2 of x_start = c_t[b] * x_t + c_out[b] * model_out.
        exclusive: softmax rather than sigmoid.
        noise: (B, C, *S), any floating dtype; None: it is drawn from the seed.
        seed: of :func:`recycleseg.ops.philox.philox_normal`, as for `noise_step`. Without noise and
            seed, s counts as 0.
        offset: of `philox_normal`.
        network_input: (B, C_total, *S), any floating dtype, contiguous or channels-last, or a slice
            of channels of such a tensor. (clip(x_prev, -1, 1) + 1) / 2 overwrites its C channels
            from first_channel on. It must not share memory with the other arguments.
        first_channel: of the mask in network_input.
        return_label: whether to give the label. It needs exclusive classes.
        return_probs: whether to give p.
        probs_mean: (B, C, *S), dtype of the coefficients, to which mean_weight * (p - probs_mean)
            is added: the mean of n samples if mean_weight is 1 / n at the n-th.
        mean_weight: a number, or a 0-d tensor with the dtype of the coefficients.
        backend: "triton", "reference", or "auto": Triton on a GPU, where it is installed and C at
            most 64, else the reference.

    Returns:
        DdimUpdate, whose x_prev and probs have the dtype of the coefficients.

    Raises:
        ValueError: an argument is not as described.
        RuntimeError: "triton" where it is not installed.
    """
    dtype = _check(model_out, x_t, prediction_type, exclusive, return_label)
    shape, device = model_out.shape, model_out.device
    check.tensor("coefficients", coefficients, (shape[0], 3), dtype, device)
    wants_probs = return_label or return_probs or probs_mean is not None
    if prediction_type == "x_start" or not wants_probs:
        start_coefficients = None
    else:
        start_coefficients = _start_coefficients(start_coefficients, shape[0], dtype, device)
    if noise is not None and seed is not None:
        raise ValueError("noise, seed: expected at most one of them, got both")
    if noise is not None:
        check.floating("noise", noise, shape, device)
    if network_input is not None:
        check.network_input(network_input, shape, first_channel, device)
    weight = _mean_weight(probs_mean, mean_weight, shape, dtype, device)

    fused = use_triton(backend, shape[1], model_out, x_t, noise, network_input)
    if fused:
        model_out, x_t = collapsible(model_out.detach()), collapsible(x_t.detach())
    x_prev = empty_in_layout_of(x_t, shape, dtype)
    probs = empty_in_layout_of(x_t, shape, dtype) if return_probs else None
    label = model_out.new_empty((shape[0], *shape[2:]), dtype=torch.uint8) if return_label else None
    if fused:
        # Imported here because Triton may be absent, and takes seconds to import.
        from recycleseg.kernels.ddim_update import ddim_update_op

        check_output("network_input", network_input)
        check_output("probs_mean", probs_mean)
        ddim_update_op(
            model_out,
            x_t,
            coefficients.contiguous(),
            start_coefficients,
            None if noise is None else collapsible(noise),
            *as_seed(seed, offset, device),
            x_prev,
            network_input,
            label,
            probs,
            probs_mean,
            weight,
            prediction_type == "noise",
            exclusive,
            first_channel,
        )
        return DdimUpdate(x_prev, label, probs)
    if seed is not None:
        noise = philox_normal(shape, seed, offset, device)
    x, p, score = ddim_update_reference(
        model_out,
        x_t.to(dtype),
        coefficients,
        prediction_type=prediction_type,
        start_coefficients=start_coefficients,
        exclusive=exclusive,
        noise=None if noise is None else noise.to(dtype),
    )
    x_prev.copy_(x)
    if network_input is not None:
        network_input[:, first_channel : first_channel + shape[1]] = x_to_mask(x)
    if p is not None and score is not None:
        if label is not None:
            label.copy_(score.argmax(1))
        if probs is not None:
            probs.copy_(p)
        if probs_mean is not None and weight is not None:
            probs_mean += weight * (p - probs_mean)
    return DdimUpdate(x_prev, label, probs)


def ddim_update_reference(
    model_out: Tensor,
    x_t: Tensor,
    coefficients: Tensor,
    *,
    prediction_type: PredictionType = "x_start",
    start_coefficients: Tensor | None = None,
    exclusive: bool = True,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """x_prev of :func:`ddim_update`, p and the score whose arg-max is the label, in plain torch.

    p and the score are None where start_coefficients are missing for them.
    """
    per_sample = (-1, *[1] * (x_t.ndim - 1))
    a, b, s = (column.view(per_sample) for column in coefficients.unbind(1))
    out = score = model_out.to(coefficients.dtype)
    probs = None
    if prediction_type == "x_start":
        probs = probabilities(out, exclusive)
        out = 2 * probs - 1
    elif start_coefficients is not None:
        c_t, c_out = (column.view(per_sample) for column in start_coefficients.unbind(1))
        probs = score = x_to_mask(c_t * x_t + c_out * out)
    x_prev = a * out + b * x_t
    if noise is not None:
        x_prev = x_prev + s * noise
    return x_prev, probs, None if probs is None else score


def _check(
    model_out: Tensor, x_t: Tensor, prediction_type: str, exclusive: bool, return_label: bool
) -> torch.dtype:
    """The dtype that is computed in."""
    if prediction_type not in get_args(PredictionType):
        raise ValueError(
            f"prediction_type: expected one of {get_args(PredictionType)}, got {prediction_type!r}"
        )
    check.is_tensor("model_out", model_out)
    if model_out.ndim < 3 or not model_out.is_floating_point():
        raise ValueError(
            "model_out: expected floating point (B, C, *S), "
            f"got {model_out.dtype} of shape {tuple(model_out.shape)}"
        )
    check.floating("x_t", x_t, model_out.shape, model_out.device)
    if return_label and not (exclusive and 1 <= model_out.shape[1] <= 256):
        raise ValueError(
            "return_label: expected False of overlapping classes, or of more than 256, got True"
        )
    both = torch.promote_types(model_out.dtype, x_t.dtype)
    return torch.promote_types(both, torch.float32)


def _start_coefficients(
    start_coefficients: Tensor | None, batch: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    if start_coefficients is None:
        raise ValueError(
            "start_coefficients: expected (B, 2) for the label, probs or their mean of "
            "prediction_type 'noise', got None"
        )
    check.tensor("start_coefficients", start_coefficients, (batch, 2), dtype, device)
    return start_coefficients.contiguous()


def _mean_weight(
    probs_mean: Tensor | None,
    mean_weight: float | Tensor | None,
    shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor | None:
    if (probs_mean is None) != (mean_weight is None):
        missing = "probs_mean" if probs_mean is None else "mean_weight"
        raise ValueError(f"probs_mean, mean_weight: expected both or none, got no {missing}")
    if probs_mean is None or mean_weight is None:
        return None
    check.tensor("probs_mean", probs_mean, shape, dtype, device)
    if isinstance(mean_weight, Tensor):
        check.tensor("mean_weight", mean_weight, (), dtype, device)
        return mean_weight
    return torch.full((), mean_weight, dtype=dtype, device=device)
