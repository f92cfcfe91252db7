"""How much memory a training step and the sampling of a whole image take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from recycleseg.planning.cost import NetworkShape
from recycleseg.sampling.memory import LIVE_LAYERS, auto_window_batch, state_dtype

# What PyTorch loads with its first optimiser and its first convolution on a CPU.
FIRST_STEP_BYTES = 230 * 2**20
# What a run loads later on a CPU: to draw, to write logs, and its data.
_LATER_BYTES = 110 * 2**20
# Tensors that a layer keeps for its backward pass, each as large as its output. A residual block
# keeps the outputs of both convolutions and both activations, on the way up also its input, a sum
# with the skip. The stem and a step between two levels keep a convolution's output and a norm's.
_KEPT_DOWN = 4
_KEPT_UP = 5
_KEPT_STEP = 2
# Arrays of float32 at full resolution, per class: mask, logits, probabilities, their gradients.
_ARRAYS_PER_CLASS = 9
# Weights, their average, and the two moments of AdamW, in float32. The gradients come while the
# activations go, so the larger of both counts.
_COPIES_OF_WEIGHTS = 4
# Whole-image arrays in sampling: x_t and the prediction, per class, both of `state_dtype`; and what
# the label map and its comparison with the reference take, in arrays of float32.
_SAMPLED_ARRAYS = 2
_LABEL_ARRAYS = 1.5
# Windows per pass follow from what keeps the device busy, not from its memory.
_UNLIMITED = 2**62


def peak_bytes(
    shape: NetworkShape,
    batch_size: int,
    bytes_per_value: int,
    image_shapes: Iterable[Sequence[float]],
    device: str,
) -> int:
    """Expected peak memory of a run on its device, without what the process holds before.

    Args:
        shape: of the network, for one patch.
        batch_size: patches per pass.
        bytes_per_value: 2 for bfloat16, 4 for float32.
        image_shapes: voxels of the images that are sampled.
        device: "cpu" or "cuda".
    """
    largest = max(image_shapes, key=math.prod)
    found = torch.device(device)
    windows = auto_window_batch(shape.topology.patch_size, shape.channels[0], found, _UNLIMITED)
    peak = max(
        training_bytes(shape, batch_size, bytes_per_value),
        sampling_bytes(shape, largest, windows, bytes_per_value, found),
    )
    if device == "cpu":
        # The best checkpoint comes in beside what the process has not given back.
        return FIRST_STEP_BYTES + _LATER_BYTES + peak + _state_bytes(shape)
    return peak


def training_bytes(shape: NetworkShape, batch_size: int, bytes_per_value: int) -> int:
    """Memory of one optimiser step, without what the process holds before.

    Args:
        shape: of the network, for one patch.
        batch_size: patches per pass.
        bytes_per_value: 2 for bfloat16, 4 for float32.
    """
    voxels, channels = shape.voxels(), shape.channels
    down, up = shape.num_res_blocks, shape.num_res_blocks + 1
    per_level = [_KEPT_DOWN * down + _KEPT_UP * up + 2 * _KEPT_STEP] * len(channels)
    per_level[-1] += 2 * _KEPT_DOWN  # the two blocks at the bottom
    kept = sum(n * v * c for n, v, c in zip(per_level, voxels, channels, strict=True))
    of_classes = voxels[0] * (_ARRAYS_PER_CLASS * shape.num_classes + shape.in_channels)
    activations = batch_size * (kept * bytes_per_value + of_classes * 4)
    return _state_bytes(shape) + max(activations, 4 * shape.parameters())


def sampling_bytes(
    shape: NetworkShape,
    image_shape: Sequence[float],
    window_batch: int,
    bytes_per_value: int,
    device: torch.device,
) -> int:
    """Memory of sampling one image, without what the process holds before.

    Args:
        shape: of the network, for one window.
        image_shape: voxels of the largest image.
        window_batch: windows per pass.
        bytes_per_value: 2 for bfloat16, 4 for float32.
        device: where the image is sampled.
    """
    size = zip(image_shape, shape.topology.patch_size, strict=True)
    voxels = math.prod(max(int(n), p) for n, p in size)
    image_channels = shape.in_channels - shape.num_classes
    state = shape.num_classes * voxels
    states = _SAMPLED_ARRAYS * state * state_dtype(state, device).itemsize
    whole = states + int(4 * voxels * (image_channels + _LABEL_ARRAYS))
    window = shape.voxels()[0] * (
        LIVE_LAYERS * shape.channels[0] * bytes_per_value + 4 * shape.num_classes
    )
    return whole + window_batch * window + _state_bytes(shape)


def _state_bytes(shape: NetworkShape) -> int:
    """Weights, average and moments, as a run holds them and as a checkpoint does."""
    return _COPIES_OF_WEIGHTS * 4 * shape.parameters()
