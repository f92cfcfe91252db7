"""The shapes on which the fused operations are timed, and by whom they are computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import pytest
import torch
from recycleseg.kernels import triton_version
from selection import DEVICE, full_unless, on_device
from torch import Tensor

# reference: plain PyTorch, eager; compiled: torch.compile of it; fused: the operation itself, which
# on a CPU is plain PyTorch too.
PROVIDERS = ("reference", "compiled", "fused")

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Shape:
    """A batch as a preset trains on it.

    exclusive: one class a voxel (softmax) rather than overlapping regions (sigmoid). batch: on a
    GPU; cpu_batch: on a CPU, where large volumes come one at a time.
    """

    spatial: tuple[int, ...]
    classes: int
    image_channels: int = 1
    exclusive: bool = True
    batch: int = 4
    cpu_batch: int = 1

    @property
    def mask(self) -> tuple[int, ...]:
        """(B, C, *S)."""
        return (self.cpu_batch if DEVICE.type == "cpu" else self.batch, self.classes, *self.spatial)

    @property
    def label(self) -> tuple[int, ...]:
        """(B, *S) of exclusive classes, else (B, C, *S)."""
        return (self.mask[0], *self.spatial) if self.exclusive else self.mask


SHAPES = {
    "amos": Shape((128, 128, 128), 16),
    "pelvic": Shape((256, 256, 32), 9),
    "brats": Shape((128, 128, 128), 3, image_channels=4, exclusive=False),
    "muscle": Shape((480, 512), 2, batch=8, cpu_batch=8),
    "hippocampus": Shape((40, 56, 40), 3, batch=8, cpu_batch=8),
}
# Shapes and a dtype that run without --full: a 3D and a 2D one of the paper's data on a GPU.
QUICK_SHAPES = on_device(("hippocampus",), ("amos", "muscle"))
QUICK_DTYPE = on_device(torch.float32, torch.bfloat16)
# Shape and dtype of the logits: bfloat16, as autocast gives them; in float32 the largest, on a CPU
# the smallest.
LOGITS = [
    full_unless(name in QUICK_SHAPES and dtype == QUICK_DTYPE, name, dtype)
    for name, dtype in (
        *((name, torch.bfloat16) for name in SHAPES),
        (on_device("hippocampus", "amos"), torch.float32),
    )
]


def title(name: str, dtype: torch.dtype | None = None) -> str:
    """Name, shape and dtype, for the group of a benchmark."""
    size = "x".join(map(str, SHAPES[name].mask))
    return f"{name} {size}" + (f" {str(dtype).removeprefix('torch.')}" if dtype else "")


def skip_unless_served(provider: str) -> None:
    """Skip what would be timed under another's name: on a GPU without Triton the reference."""
    if provider == "fused" and DEVICE.type == "cuda" and triton_version() is None:
        pytest.skip("needs Triton")


def as_provided(provider: str, function: F) -> F:
    """The function itself, or for "compiled" what torch.compile makes of it for one shape."""
    if provider != "compiled":
        return function
    torch.compiler.reset()  # else the limit on recompilations ends in timing eager code
    return cast(F, torch.compile(function, dynamic=False))


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Equal but for rounding of float32 values near 1; a GPU approximates exp, log and cos."""
    atol = 1e-5 if DEVICE.type == "cpu" else 5e-5
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=atol)


class Inputs:
    """Random tensors of a shape, the same for each provider.

    Logits and the network's input lie in memory as a network of ours has them, channels-last, for
    "fused", and contiguous, as plain PyTorch has them, for the others.
    """

    def __init__(self, name: str, provider: str) -> None:
        self.shape = SHAPES[name]
        self.channels_last = provider == "fused"
        self.generator = torch.Generator(DEVICE).manual_seed(0)

    def normal(self, size: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal, contiguous."""
        return torch.randn(size, generator=self.generator, device=DEVICE).to(dtype)

    def logits(self, dtype: torch.dtype) -> Tensor:
        """Logits (B, C, *S)."""
        return self._laid_out(3 * self.normal(self.shape.mask).to(dtype))

    def label(self) -> Tensor:
        """uint8 label (B, *S); of overlapping classes a float32 mask (B, C, *S)."""
        if self.shape.exclusive:
            high, dtype = self.shape.classes, torch.uint8
        else:
            high, dtype = 2, torch.float32
        size = self.shape.label
        return torch.randint(high, size, generator=self.generator, device=DEVICE).to(dtype)

    def image(self) -> Tensor:
        """float32 image (B, C_img, *S)."""
        return self.normal((self.shape.mask[0], self.shape.image_channels, *self.shape.spatial))

    def network_input(self, image: Tensor) -> Tensor:
        """The image with room for the mask, (B, C_img + C, *S), which is NaN."""
        return self._laid_out(torch.cat([image, image.new_full(self.shape.mask, torch.nan)], 1))

    def _laid_out(self, x: Tensor) -> Tensor:
        if not self.channels_last:
            return x
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
