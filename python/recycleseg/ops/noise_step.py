"""The forward step of the diffusion, straight into the input of the network."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from recycleseg.classes import probabilities
from recycleseg.ops import _checks as check
from recycleseg.ops._backend import use_triton
from recycleseg.ops._layout import check_output, collapsible, empty_in_layout_of
from recycleseg.ops.philox import as_seed, philox_normal

SourceType = Literal["logits", "probs", "label"]


class NoiseStep(NamedTuple):
    """What :func:`noise_step` gives.

    Attributes:
        network_input: (B, C_total, *S), with the mask of x_t in its channels.
        x_t: (B, C, *S), not clipped; None if return_x is False.
    """

    network_input: Tensor
    x_t: Tensor | None


def x_to_mask(x: Tensor) -> Tensor:
    """x clipped to [-1, 1], as a mask in [0, 1]: all that a network sees of x."""
    return (x.clamp(-1, 1) + 1) / 2


def x_to_mask_(x: Tensor) -> Tensor:
    """`x_to_mask` in place, which saves two volumes."""
    return x.clamp_(-1, 1).add_(1).div_(2)


@torch.no_grad()
def noise_step(
    source: Tensor,
    scale_start: Tensor,
    scale_noise: Tensor,
    *,
    source_type: SourceType,
    num_classes: int,
    exclusive: bool = True,
    noise: Tensor | None = None,
    seed: int | Tensor | None = None,
    offset: int | Tensor = 0,
    first_row: int = 0,
    network_input: Tensor | None = None,
    first_channel: int = 0,
    return_x: bool = False,
    backend: str = "auto",
) -> NoiseStep:
    """Noise a segmentation and write it, as mask, into channels of the network's input.

        x_start = 2 * p - 1,     x_t[b] = scale_start[b] * x_start[b] + scale_noise[b] * noise[b],
        mask = (clip(x_t, -1, 1) + 1) / 2,

    with p the softmax (exclusive classes) or sigmoid of logits, or given probabilities, or the
    one-hot of a label, all zeros where it is not in [0, C). With scales sqrt(alphas_cumprod) and
    sqrt(1 - alphas_cumprod) this is q(x_t | x_0) of Ho et al. (arXiv 2006.11239), eq. 4. It is
    computed in float32 (float64 for a float64 source), on a GPU in one pass that reads and writes
    every element once. Nothing here waits for the device. There is no gradient.

    Args:
        source: logits or probabilities (B, C, *S), any floating dtype, or a label (B, *S): uint8,
            int16, int32 or int64; *S of one axis at least.
        scale_start: (B,) float32 (float64 for a float64 source).
        scale_noise: as scale_start.
        source_type: what source is. "label" needs exclusive classes.
        num_classes: C.
        exclusive: softmax of logits rather than sigmoid.
        noise: (B, C, *S), any floating dtype; None: it is drawn from the seed.
        seed: of :func:`recycleseg.ops.philox.philox_normal`; needed if noise is None. Seed and
            offset may be tensors, which are read on the device. So a CUDA graph that increases
            the offset draws new noise at each replay.
        first_row: of `philox_normal`; without meaning for noise that is given.
        offset: of `philox_normal`.
        network_input: (B, C_total, *S), any floating dtype, contiguous or channels-last, or a slice
            of channels of such a tensor. The mask overwrites its C channels from first_channel on.
            It must not share memory with the other arguments. None: a new (B, C, *S).
        first_channel: of the mask in network_input.
        return_x: whether to give x_t too.
        backend: "triton", "reference", or "auto": Triton on a GPU, where it is installed and C at
            most 64, else the reference.

    Returns:
        NoiseStep, whose x_t is channels-last where network_input is. New tensors have the dtype of
        the scales.

    Raises:
        ValueError: an argument is not as described.
        RuntimeError: "triton" where it is not installed.
    """
    _check_source(source, source_type, num_classes, exclusive)
    dtype = torch.float64 if source.dtype == torch.float64 else torch.float32
    batch, *spatial = source.shape if source_type == "label" else source[:, 0].shape
    shape, device = torch.Size((batch, num_classes, *spatial)), source.device
    check.tensor("scale_start", scale_start, (batch,), dtype, device)
    check.tensor("scale_noise", scale_noise, (batch,), dtype, device)
    if (noise is None) == (seed is None):
        both = "none" if noise is None else "both"
        raise ValueError(f"noise, seed: expected exactly one of them, got {both}")
    if noise is not None:
        check.floating("noise", noise, shape, device)
    if network_input is not None:
        check.network_input(network_input, shape, first_channel, device)
    elif first_channel != 0:
        raise ValueError(f"first_channel: expected 0 without network_input, got {first_channel}")
    channels = source.unsqueeze(1) if source_type == "label" else source
    fused = use_triton(backend, num_classes, source, noise, network_input)
    if network_input is None:
        network_input = empty_in_layout_of(channels, shape, dtype)
    x_t = empty_in_layout_of(network_input, shape, dtype) if return_x else None
    if fused:
        # Imported here because Triton may be absent, and takes seconds to import.
        from recycleseg.kernels.noise_step import noise_step_op

        check_output("network_input", network_input)
        noise_step_op(
            collapsible(channels.detach()),
            scale_start.contiguous(),
            scale_noise.contiguous(),
            None if noise is None else collapsible(noise),
            *as_seed(seed, offset, device),
            first_row,
            network_input,
            x_t,
            source_type,
            num_classes,
            exclusive,
            first_channel,
        )
        return NoiseStep(network_input, x_t)
    if seed is not None:
        noise = philox_normal(shape, seed, offset, device, first_row=first_row)
    assert noise is not None
    mask, noised = noise_step_reference(
        source,
        scale_start,
        scale_noise,
        noise.to(dtype),
        source_type=source_type,
        num_classes=num_classes,
        exclusive=exclusive,
    )
    network_input[:, first_channel : first_channel + num_classes] = mask
    if x_t is not None:
        x_t.copy_(noised)
    return NoiseStep(network_input, x_t)


def noise_step_reference(
    source: Tensor,
    scale_start: Tensor,
    scale_noise: Tensor,
    noise: Tensor,
    *,
    source_type: SourceType,
    num_classes: int,
    exclusive: bool = True,
) -> tuple[Tensor, Tensor]:
    """mask and x_t (B, C, *S) of :func:`noise_step` for a given noise, in plain torch."""
    per_sample = (-1, *[1] * (noise.ndim - 1))
    if source_type == "label":
        classes = torch.arange(num_classes, device=source.device)
        probs = source.unsqueeze(1) == classes.view(1, -1, *[1] * (source.ndim - 1))
    elif source_type == "logits":
        probs = probabilities(source.to(scale_start.dtype), exclusive)
    else:
        probs = source
    x_start = 2 * probs.to(scale_start.dtype) - 1
    x_t = scale_start.view(per_sample) * x_start + scale_noise.view(per_sample) * noise
    return x_to_mask(x_t), x_t


def _check_source(source: Tensor, source_type: str, num_classes: int, exclusive: bool) -> None:
    if source_type not in get_args(SourceType):
        raise ValueError(
            f"source_type: expected one of {get_args(SourceType)}, got {source_type!r}"
        )
    check.is_tensor("source", source)
    if num_classes < 1:
        raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
    if source_type == "label":
        if not exclusive:
            raise ValueError("source_type: expected 'logits' or 'probs' of overlapping classes")
        check.label("source", source)
    elif source.ndim < 3 or not source.is_floating_point() or source.shape[1] != num_classes:
        raise ValueError(
            f"source: expected floating point (B, {num_classes}, *S), "
            f"got {source.dtype} of shape {tuple(source.shape)}"
        )
