"""Random patches of prepared cases; the step decides which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recycleseg.classes import Classes
from recycleseg.data.blocks import Blocks
from recycleseg.data.positions import Positions
from recycleseg.rows import Rows


@dataclass(frozen=True)
class TrainingCase:
    """A prepared case of which patches are read.

    Attributes:
        case_id: name of the case.
        image: (C, *S) float32.
        label: see `PreparedCase`.
        classes: of the label.
        positions: of the label's structures.
    """

    case_id: str
    image: Blocks | Tensor
    label: Blocks | Tensor
    classes: Classes
    positions: Positions


class PatchSampler:
    """Batches of patches that depend only on seed and step, so a resumed run needs no state.

    A row of a batch depends on nothing else either, so several processes can share a batch.

    Every case comes once per epoch, and each epoch has a new random order. A patch starts at any
    position where it fits, from the first to the last. If an image is smaller than the patch, it
    is centred and padded: the image with 0 (its mean after normalisation), the label with
    background. If there is an ignore label, every patch contains a voxel that is not ignored, if
    the case has one, because other patches teach nothing.

    Args:
        cases: training cases.
        patch_size: one size per axis.
        batch_size: patches per step.
        rows: which rows of each batch are given; None gives all.
        foreground_probability: share of patches that must contain a foreground voxel. A random
            class (or region) of the case is chosen, then a random voxel of it.
        seed: decides all random choices.
        imgx_compat: a patch that need not contain foreground never starts at the last position,
            as in ImgX.

    Raises:
        ValueError: an argument is invalid.
    """

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        patch_size: Sequence[int],
        batch_size: int,
        *,
        rows: Rows | None = None,
        foreground_probability: float = 0.5,
        seed: int = 0,
        imgx_compat: bool = False,
    ) -> None:
        if not cases:
            raise ValueError("cases: expected at least one, got none")
        dims = cases[0].image.ndim - 1
        if len(patch_size) != dims or min(patch_size) < 1:
            raise ValueError(f"patch_size: expected {dims} positive sizes, got {patch_size}")
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if not 0.0 <= foreground_probability <= 1.0:
            raise ValueError(
                f"foreground_probability: expected 0 to 1, got {foreground_probability}"
            )
        self.cases = tuple(cases)
        self.patch_size = tuple(patch_size)
        self.rows = rows or Rows.all(batch_size)
        self.foreground_probability = foreground_probability
        self.seed = seed
        self.imgx_compat = imgx_compat
        self._epoch: tuple[int, np.ndarray[Any, Any]] = (-1, np.empty(0))

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Image (B, C, *P) float32 and label (B, *P) or (B, C, *P) uint8 of the rows of a step."""
        image, label = self._zeros(self.cases[0].image), self._zeros(self.cases[0].label)
        for row in range(self.rows.num):
            item = step * self.rows.batch + self.rows.first + row
            index = self._case_index(item)
            starts = self._starts(index, np.random.default_rng((self.seed, 0, item)))
            _copy_patch(self.cases[index].image, starts, image[row])
            _copy_patch(self.cases[index].label, starts, label[row])
        return image, label

    def _zeros(self, like: Blocks | Tensor) -> Tensor:
        """Zeros (B, ..., *P) for a batch of patches of an array (..., *S)."""
        leading = like.shape[: like.ndim - len(self.patch_size)]
        return torch.zeros((self.rows.num, *leading, *self.patch_size), dtype=like.dtype)

    def _case_index(self, item: int) -> int:
        epoch, position = divmod(item, len(self.cases))
        if self._epoch[0] != epoch:
            order = np.random.default_rng((self.seed, 1, epoch)).permutation(len(self.cases))
            self._epoch = (epoch, order)
        return int(self._epoch[1][position])

    def _starts(self, index: int, rng: np.random.Generator) -> list[int]:
        """First voxel of the patch per axis; negative if the image is smaller than the patch."""
        shape = self.cases[index].image.shape[1:]
        low = np.zeros(len(shape), dtype=np.int64)
        high = np.subtract(shape, self.patch_size)
        centred = high // 2
        too_small = high < 0
        wants_foreground = rng.random() < self.foreground_probability
        positions = self.cases[index].positions
        flat = positions.draw_foreground(rng) if wants_foreground else None
        if flat is None:
            flat = positions.draw_known(rng)
        if flat is not None:
            voxel = np.array(np.unravel_index(flat, shape))
            low = np.maximum(low, voxel - np.array(self.patch_size) + 1)
            high = np.minimum(high, voxel)
        elif self.imgx_compat:
            high = high - 1
        starts = rng.integers(low, np.maximum(low, high), endpoint=True)
        return [int(start) for start in np.where(too_small, centred, starts)]


def _copy_patch(x: Blocks | Tensor, starts: Sequence[int], patch: Tensor) -> None:
    """Copy x (..., *S), from voxel `starts` on, into patch (..., *P), as far as they overlap."""
    if isinstance(x, Blocks):
        x.copy_patch(starts, patch)
        return
    first_axis = x.ndim - len(starts)
    for axis, start in enumerate(starts, first_axis):
        first, last = max(start, 0), min(start + patch.shape[axis], x.shape[axis])
        x = x.narrow(axis, first, last - first)
        patch = patch.narrow(axis, first - start, last - first)
    # NumPy's copy, because PyTorch's would take all threads from the network for a short piece.
    patch.numpy()[...] = x.numpy()
