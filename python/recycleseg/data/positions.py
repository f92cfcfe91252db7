"""Where the structures of a case are, so that a patch can be placed on one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recycleseg.classes import Classes

# Enough per class to cover any structure; more would only take memory.
_MOST = 20_000


@dataclass(frozen=True)
class Positions:
    """Flat indices of voxels of a case: all of a class, or as many random ones as are enough.

    Attributes:
        flat: (N,) int32 or int64: those of each class that the case has, one class after the other,
            then those of voxels that are not ignored.
        foreground: how many each class has.
        known: how many are not ignored, of any class; 0 if there is no ignore label.
    """

    flat: Tensor
    foreground: tuple[int, ...]
    known: int

    def draw_foreground(self, rng: np.random.Generator) -> int | None:
        """A random voxel of a random class; None if the case has none."""
        if not self.foreground:
            return None
        index = int(rng.integers(len(self.foreground)))
        first = sum(self.foreground[:index])
        return int(self.flat[first + int(rng.integers(self.foreground[index]))])

    def draw_known(self, rng: np.random.Generator) -> int | None:
        """A random voxel that is not ignored; None if there is none, or no ignore label."""
        if not self.known:
            return None
        return int(self.flat[len(self.flat) - self.known + int(rng.integers(self.known))])


def find_positions(label: Tensor, classes: Classes, spatial_dims: int) -> Positions:
    """The positions of a target.

    Args:
        label: (*S) or (C, *S) uint8, see `PreparedCase`.
        classes: of the label.
        spatial_dims: number of axes of S.
    """
    rng = np.random.default_rng(0)
    label, known = classes.split(label)
    foreground = [_some(found, rng) for found in _of_classes(label, spatial_dims)]
    flat = np.zeros(0, np.int64) if known is None else np.flatnonzero(known.numpy())
    of_known = _some(flat, rng)
    size = label.shape[-spatial_dims:].numel()
    dtype = np.int32 if size <= np.iinfo(np.int32).max else np.int64
    return Positions(
        torch.from_numpy(np.concatenate([*foreground, of_known]).astype(dtype)),
        tuple(map(len, foreground)),
        len(of_known),
    )


def _of_classes(label: Tensor, spatial_dims: int) -> Iterator[np.ndarray[Any, Any]]:
    """All flat indices of each class that the label has."""
    if label.ndim > spatial_dims:
        yield from (found for mask in label if len(found := np.flatnonzero(mask.numpy())))
    else:
        flat = label.flatten().numpy()
        for value in np.flatnonzero(np.bincount(flat)):
            if value:
                yield np.flatnonzero(flat == value)


def _some(found: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    if len(found) <= _MOST:
        return found
    return np.sort(rng.choice(found, _MOST, replace=False))
