"""Cutting a volume into overlapping windows and joining their predictions again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import EllipsisType

import torch
from torch import Tensor

from recycleseg.sampling.memory import slabs


def window_starts(
    image_shape: Sequence[int], patch_size: Sequence[int], overlap: Sequence[int]
) -> Tensor:
    """First voxel of each window: steps of patch_size - overlap, the last one flush with the end.

    Args:
        image_shape: voxels of each of n axes.
        patch_size: voxels of a window along each axis, at most the image's.
        overlap: voxels that neighbouring windows share at least, less than patch_size.

    Returns:
        (N, n) int64, last axis fastest.

    Raises:
        ValueError: lengths differ, or a size is out of range.
    """
    if not len(image_shape) == len(patch_size) == len(overlap):
        raise ValueError(
            "image_shape, patch_size, overlap: expected one number per axis, "
            f"got {tuple(image_shape)}, {tuple(patch_size)}, {tuple(overlap)}"
        )
    along = []
    for axis, (size, patch, shared) in enumerate(
        zip(image_shape, patch_size, overlap, strict=True)
    ):
        if not 1 <= patch <= size:
            raise ValueError(f"patch_size[{axis}]: expected 1 to {size} (the image), got {patch}")
        if not 0 <= shared < patch:
            raise ValueError(f"overlap[{axis}]: expected 0 to {patch - 1}, got {shared}")
        last = size - patch
        along.append(torch.tensor([*range(0, last, patch - shared), last]))
    return torch.cartesian_prod(*along).view(-1, len(along))


def extract_windows(x: Tensor, starts: Tensor, patch_size: Sequence[int]) -> Tensor:
    """Cut windows out of x.

    Args:
        x: (B, C, *S).
        starts: (N, n) first voxels.
        patch_size: n sizes.

    Returns:
        (B, N, C, *patch_size), a copy.

    Raises:
        ValueError: a window leaves x.
    """
    return torch.stack([x[box] for box in _boxes(starts, patch_size, x.shape[2:])], dim=1)


def _gaussian(size: int) -> Tensor:
    offset = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    return torch.exp(-0.5 * (8 * offset / size) ** 2)


class WindowGrid:
    """The windows that cover a volume, and their weighted mean, taken a few windows at a time.

    A window's weights fall off towards its rim (nnU-Net, Isensee et al. 2021): a Gaussian whose
    standard deviation is an eighth of the window's size, divided by its sum over all windows at
    each voxel. Both are products over the axes, so a window's own share is known from its place
    alone, and no volume of weights is held.

    Args:
        image_shape: n sizes of the volume.
        patch_size: n sizes of a window, at most the volume's.
        overlap: fraction of a window that its neighbour repeats at least, below 1.
        device: where the volume is.

    Attributes:
        starts: (N, n) int64, first voxels of the windows.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        patch_size: Sequence[int],
        overlap: float,
        device: torch.device | str = "cpu",
    ) -> None:
        shared = [min(int(size * overlap), size - 1) for size in patch_size]
        self.image_shape = tuple(image_shape)
        self.patch_size = tuple(patch_size)
        self.starts = window_starts(image_shape, patch_size, shared)
        self._shares = [
            _shares(size, patch, self.starts[:, axis].unique().tolist(), device)
            for axis, (size, patch) in enumerate(zip(image_shape, patch_size, strict=True))
        ]

    def __len__(self) -> int:
        return len(self.starts)

    def batches(self, size: int) -> list[slice]:
        """The windows' indices, as ranges of at most `size`."""
        return [slice(first, first + size) for first in range(0, len(self), size)]

    def cut(self, x: Tensor, windows: slice) -> Tensor:
        """Windows (n, C, *patch_size) of x (C, *image_shape), a copy."""
        return extract_windows(x[None], self.starts[windows], self.patch_size)[0]

    def add(self, mean: Tensor, values: Tensor, windows: slice, first_row: int = 0) -> None:
        """Add what windows have, (n, ..., *patch_size), to the mean (..., *image_shape).

        The mean is that of all windows when each was added once to zeros. It may lack rows of the
        first axis that the windows do not reach; first_row: the first that it has.
        """
        starts = self.starts[windows]
        shifted = starts.clone()
        shifted[:, 0] -= first_row
        boxes = _boxes(shifted, self.patch_size, self.image_shape)
        for value, box, start in zip(values, boxes, starts.tolist(), strict=True):
            mean[box] += value * self._weight(start)

    def _weight(self, start: Sequence[int]) -> Tensor:
        weight, *others = [s[first] for s, first in zip(self._shares, start, strict=True)]
        for share in others:
            weight = weight[..., None] * share
        return weight


class RowMerger:
    """Mean of windows that arrive in order, whose rows leave once no further window reaches them.

    So that a band of the volume is held instead of the whole.

    Args:
        grid: the windows.
        channels: C of what they have.
        batches: ranges of windows as they will be added.
        device: where they are.
    """

    def __init__(
        self,
        grid: WindowGrid,
        channels: int,
        batches: Sequence[slice],
        device: torch.device | str = "cpu",
    ) -> None:
        self.grid = grid
        self._first_row = 0
        rows = [grid.starts[batch, 0] for batch in batches]
        height = max(int(of_batch[-1] - of_batch[0]) for of_batch in rows) + grid.patch_size[0]
        # channels-last, as networks give it
        band = torch.zeros((height, *grid.image_shape[1:], channels), device=device)
        self._band = band.movedim(-1, 0)

    def add(self, values: Tensor, windows: slice) -> Iterator[tuple[slice, Tensor]]:
        """Add what windows have, (n, C, *patch_size).

        Yields the volume's rows that are finished by it, in slabs: their range along the first
        axis and the mean (C, rows, ...) there, which may be overwritten after. To be used up.
        """
        grid, first = self.grid, self._first_row
        grid.add(self._band, values, windows, first)
        is_last = windows.stop >= len(grid)
        stop = grid.image_shape[0] if is_last else int(grid.starts[windows.stop, 0])
        for rows in slabs((stop - first, *grid.image_shape[1:]), len(self._band)):
            yield slice(first + rows.start, first + rows.stop), self._band[:, rows]
        unfinished = self._band[:, stop - first :].clone()
        self._band[:, : unfinished.shape[1]] = unfinished
        self._band[:, unfinished.shape[1] :] = 0
        self._first_row = 0 if is_last else stop


def _shares(
    size: int, patch: int, starts: Sequence[int], device: torch.device | str
) -> dict[int, Tensor]:
    """First voxel of each window along one axis -> its share (patch,) of the weights there."""
    weight = _gaussian(patch)
    total = torch.zeros(size, dtype=torch.float64)
    for start in starts:
        total[start : start + patch] += weight
    return {s: (weight / total[s : s + patch]).float().to(device) for s in starts}


def _boxes(
    starts: Tensor, patch_size: Sequence[int], image_shape: Sequence[int]
) -> list[tuple[slice | EllipsisType, ...]]:
    """Index of each window's voxels; ValueError where one leaves the volume."""
    boxes: list[tuple[slice | EllipsisType, ...]] = []
    for start in starts.tolist():
        ends = [first + size for first, size in zip(start, patch_size, strict=True)]
        if min(start) < 0 or any(end > size for end, size in zip(ends, image_shape, strict=True)):
            raise ValueError(
                f"starts: expected windows of {tuple(patch_size)} within {tuple(image_shape)}, "
                f"got one at {tuple(start)}"
            )
        boxes.append((..., *(slice(*ends_of) for ends_of in zip(start, ends, strict=True))))
    return boxes
