"""Levels of the network: where it halves which axis, and which axes its kernels see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

# After Isensee et al. 2021 (nnU-Net): an axis is halved down to this many voxels, and voxels are
# about isotropic where no side is twice as long as the shortest.
MIN_EDGE = 4
_LONG = 2.0
# Tokens of the transformer at the bottom; its time grows with their square.
MAX_TOKENS = 1536


@dataclass(frozen=True)
class Topology:
    """Shape of the network for one patch.

    Attributes:
        patch_size: voxels along each axis, multiples of the product of the factors.
        kernels: per level, one size per axis: 3, or 1 across slices that are still thick.
        scales: per step between two levels, one factor per axis: 2, or 1.
    """

    patch_size: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    scales: tuple[tuple[int, ...], ...]

    @property
    def num_levels(self) -> int:
        """Levels of the network."""
        return len(self.kernels)

    @property
    def factors(self) -> tuple[int, ...]:
        """Product of the factors of all steps, along each axis."""
        along = zip(*self.scales, strict=True) if self.scales else ((1,) for _ in self.patch_size)
        return tuple(math.prod(factors) for factors in along)

    def rounded(self) -> Topology:
        """The same with a patch that the factors divide, not smaller."""
        sides = (f * math.ceil(n / f) for n, f in zip(self.patch_size, self.factors, strict=True))
        return replace(self, patch_size=tuple(sides))

    def sizes(self) -> list[tuple[int, ...]]:
        """Voxels along each axis on every level."""
        found = [self.patch_size]
        for scale in self.scales:
            last = found[-1]
            found.append(
                tuple(-(-size // factor) for size, factor in zip(last, scale, strict=True))
            )
        return found


def make_topology(patch_size: Sequence[float], spacing: Sequence[float], levels: range) -> Topology:
    """Levels for a patch.

    An axis gets kernels of 3 as soon as its voxels are less than twice as long as the shortest
    side; before that, neighbours across slices say less than those in the slice. An axis of one
    voxel has no neighbours, so its kernels are 1. An axis is halved under the same condition, while
    it has at least 8 voxels.

    Args:
        patch_size: wanted voxels along each axis; rounded up to what the factors divide.
        spacing: voxel size along each axis.
        levels: allowed numbers of levels; more than the first only while an axis can be halved.
    """
    size, spacing = [math.ceil(n) for n in patch_size], list(spacing)
    kernel = [1] * len(size)
    kernels: list[tuple[int, ...]] = []
    scales: list[tuple[int, ...]] = []
    while True:
        # An axis of one voxel has no neighbours.
        shortest = min((mm for mm, s in zip(spacing, size, strict=True) if s > 1), default=0.0)
        near = [s > 1 and mm < _LONG * shortest for mm, s in zip(spacing, size, strict=True)]
        kernel = [3 if k == 3 or n else 1 for k, n in zip(kernel, near, strict=True)]
        kernels.append(tuple(kernel))
        if len(kernels) == levels[-1]:
            break
        halved = [n and s >= 2 * MIN_EDGE for n, s in zip(near, size, strict=True)]
        if not any(halved):
            # The short sides cannot be halved any more, so it is the turn of the long ones.
            halved = [s >= 2 * MIN_EDGE for s in size]
        if not any(halved):
            if len(kernels) >= levels[0]:
                break
            halved = [s > 1 for s in size]
        scale = tuple(2 if half else 1 for half in halved)
        scales.append(scale)
        size = [-(-s // factor) for s, factor in zip(size, scale, strict=True)]
        spacing = [mm * factor for mm, factor in zip(spacing, scale, strict=True)]
    asked = tuple(math.ceil(n) for n in patch_size)
    return Topology(asked, tuple(kernels), tuple(scales)).rounded()
