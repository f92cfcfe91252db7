"""Normal noise by counter, in plain torch: what the Triton kernels draw, number for number.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a
128-bit counter and a 64-bit key into four 32-bit words. An element's counter tells where it lies,
so that its noise depends on nothing else: not on memory layout, block size or device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MAX_OFFSET = 2**60

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
# As Triton has them: |word| * SCALE < 1 for every int32, and log(0) is kept away.
_UNIFORM_SCALE = 4.6566127342e-10
_MIN_UNIFORM = 1e-7


class PhiloxNoise(NamedTuple):
    """Noise not yet drawn: what :func:`philox_normal` makes it of.

    Attributes:
        seed: 0-d int64.
        offset: 0-d int64.
        first_row: of the batch that has this noise.
    """

    seed: Tensor
    offset: Tensor
    first_row: int = 0

    def draw(self, shape: Sequence[int]) -> Tensor:
        """The noise, float32, of shape (B, C, *S)."""
        return philox_normal(shape, self.seed, self.offset, first_row=self.first_row)


Noise = Tensor | PhiloxNoise


def philox_normal(
    shape: Sequence[int],
    seed: int | Tensor,
    offset: int | Tensor = 0,
    device: torch.device | str | None = None,
    *,
    first_row: int = 0,
) -> Tensor:
    """Standard normal noise (B, C, *S), float32.

    Let v be the row-major index of a voxel among V. Box-Muller makes four normals of the words of
    key `seed` and counter

        (lo(n), hi(n), lo(offset), hi(offset) << 4 | c // 4),     n = (first_row + b) * V + v,

    and element (b, c, v) is the (c % 4)-th of them.

    Args:
        shape: (B, C, *S), with C at most 64.
        seed: any int64, or a 0-d int64 tensor on the device.
        offset: in [0, 2^60), int or tensor as the seed. Another offset gives independent noise.
        device: of the result; None: that of the tensors among seed and offset, else the CPU.
        first_row: number of the first row in a batch that several processes share.

    Raises:
        ValueError: an argument is invalid.
    """
    if len(shape) < 2 or shape[1] > 64:
        raise ValueError(f"shape: expected (B, C, *S) with C at most 64, got {tuple(shape)}")
    if device is None:
        tensors = [value for value in (seed, offset) if isinstance(value, Tensor)]
        device = tensors[0].device if tensors else torch.device("cpu")
    seed = as_int64("seed", seed, torch.device(device))
    offset = as_int64("offset", offset, torch.device(device))
    batch, classes, *spatial = shape
    groups = (classes + 3) // 4
    voxels = math.prod(spatial)
    n = torch.arange(batch * voxels, device=device).view(batch, 1, voxels) + first_row * voxels
    group = torch.arange(groups, device=device).view(1, groups, 1)
    zero = torch.zeros_like(n + group)
    counter = (n & _MASK, n >> 32, offset & _MASK, ((offset >> 32) << 4) | group)
    words = philox_words([word + zero for word in counter], (seed & _MASK, (seed >> 32) & _MASK))
    u = [_uniform(word) for word in words]
    normals = torch.stack([*_box_muller(u[0], u[1]), *_box_muller(u[2], u[3])], dim=2)
    return normals.flatten(1, 2)[:, :classes].reshape(shape)


def as_seed(
    seed: int | Tensor | None, offset: int | Tensor, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Both as `as_int64` has them; None where there is no seed."""
    if seed is None:
        return None, None
    return as_int64("seed", seed, device), as_int64("offset", offset, device)


def as_int64(name: str, value: int | Tensor, device: torch.device) -> Tensor:
    """Make a seed or offset a 0-d int64 tensor on `device`, without waiting for the device.

    Args:
        name: "seed" or "offset", which tells the range of an int.
        value: an int, or such a tensor already.
        device: of the result.

    Raises:
        ValueError: another tensor, or an int out of range.
    """
    if isinstance(value, Tensor):
        if value.dtype != torch.int64 or value.ndim != 0 or value.device.type != device.type:
            raise ValueError(
                f"{name}: expected an int or a 0-d int64 tensor on {device}, got {value.dtype} "
                f"of shape {tuple(value.shape)} on {value.device}"
            )
        return value
    low, high = (0, MAX_OFFSET) if name == "offset" else (-(2**63), 2**63)
    if not low <= value < high:
        raise ValueError(f"{name}: expected {low} to {high - 1}, got {value}")
    return torch.full((), value, dtype=torch.int64, device=device)


def philox_words(counter: Sequence[Tensor], key: Sequence[Tensor]) -> list[Tensor]:
    """The four words of Philox4x32-10, each int64 with a uint32's value, as are the arguments."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high2, low2 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high2 ^ c1 ^ k0, low2, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return [c0, c1, c2, c3]


def _multiply(a: Tensor, constant: int) -> tuple[Tensor, Tensor]:
    """High and low word of a product of uint32, in halves: int64 does not hold all of it."""
    low = (a & 0xFFFF) * constant
    high = (a >> 16) * constant
    return (high + (low >> 16)) >> 16, (((high & 0xFFFF) << 16) + low) & _MASK


def _uniform(word: Tensor) -> Tensor:
    """float32 in [0, 1) of a word, with 31 bits of it, as tl.uint_to_uniform_float."""
    return torch.where(word >= 2**31, _MASK - word, word).float() * _UNIFORM_SCALE


def _box_muller(u1: Tensor, u2: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent normals of two uniform numbers, as tl.pair_uniform_to_normal."""
    radius = (-2.0 * u1.clamp(min=_MIN_UNIFORM).log()).sqrt()
    angle = 2 * math.pi * u2
    return radius * angle.cos(), radius * angle.sin()
