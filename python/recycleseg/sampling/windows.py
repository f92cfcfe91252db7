"""Cut a volume into overlapping windows, and join the predictions of the windows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from types import EllipsisType

import torch
from torch import Tensor

from recycleseg.sampling.memory import slabs


def window_starts(
    image_shape: Sequence[int], patch_size: Sequence[int], overlap: Sequence[int]
) -> Tensor:
    """First voxel of each window.

    Windows follow in steps of patch_size - overlap; the last one ends at the end of the image.

    Args:
        image_shape: voxels along each of n axes.
        patch_size: voxels of a window along each axis, not more than the image has.
        overlap: voxels that neighbouring windows share at least, less than patch_size.

    Returns:
        (N, n) int64; the last axis changes fastest.

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


def shared_voxels(patch_size: Sequence[int], overlap: float) -> list[int]:
    """Voxels that neighbouring windows share along each axis, for a fraction below 1."""
    return [min(int(size * overlap), size - 1) for size in patch_size]


def num_windows(image_shape: Sequence[int], patch_size: Sequence[int], overlap: float) -> int:
    """Number of windows of an image, which is padded where it is smaller than a window.

    Args:
        image_shape: voxels along each axis.
        patch_size: voxels of a window along each axis.
        overlap: fraction of a window that its neighbour shares at least, below 1.
    """
    shared = shared_voxels(patch_size, overlap)
    along = zip(image_shape, patch_size, shared, strict=True)
    return math.prod(len(range(0, max(n - p, 0), p - s)) + 1 for n, p, s in along)


def extract_windows(
    x: Tensor, starts: Tensor, patch_size: Sequence[int], out: Tensor | None = None
) -> Tensor:
    """Cut windows out of x.

    Args:
        x: (C, *S).
        starts: (N, n) first voxels.
        patch_size: n sizes.
        out: where they go; None makes it.

    Returns:
        (N, C, *patch_size), a copy.

    Raises:
        ValueError: a window is not within x.
    """
    boxes = _boxes(starts, patch_size, x.shape[1:])
    if out is None:
        out = x.new_empty((len(boxes), len(x), *patch_size))
    for window, box in zip(out, boxes, strict=True):
        window.copy_(x[box])
    return out


def _gaussian(size: int) -> Tensor:
    offset = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    return torch.exp(-0.5 * (8 * offset / size) ** 2)


class WindowGrid:
    """The windows that cover a volume, and their weighted mean, a few windows at a time.

    The weights of a window fall towards its rim (nnU-Net, Isensee et al. 2021). They are a
    Gaussian with a standard deviation of an eighth of the size of the window, divided by the sum
    of the Gaussians of all windows at each voxel. Both are products over the axes, so the position
    of a window is enough to compute its weights, and no volume of weights is in memory.

    Args:
        image_shape: n sizes of the volume.
        patch_size: n sizes of a window, not larger than the volume.
        overlap: fraction of a window that its neighbour shares at least, below 1.
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
        shared = shared_voxels(patch_size, overlap)
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
        """The indices of all windows, as ranges of at most `size`."""
        return [slice(first, first + size) for first in range(0, len(self), size)]

    def cut(self, x: Tensor, windows: slice, out: Tensor | None = None) -> Tensor:
        """A copy of windows (n, C, *patch_size) of x (C, *image_shape), in `out` if it is given."""
        return extract_windows(x, self.starts[windows], self.patch_size, out)

    def add(self, mean: Tensor, values: Tensor, windows: slice, first_row: int = 0) -> None:
        """Add the values of windows to the weighted mean.

        If every window is added once to zeros, the result is the mean of all windows.

        Args:
            mean: (..., *image_shape), changed in place. It may lack rows of the first axis that
                these windows do not reach.
            values: (n, ..., *patch_size) of n windows.
            windows: their indices.
            first_row: the first row of the volume that `mean` has.
        """
        starts = self.starts[windows]
        shifted = starts.clone()
        shifted[:, 0] -= first_row
        boxes = _boxes(shifted, self.patch_size, self.image_shape)
        for value, box, start in zip(values, boxes, starts.tolist(), strict=True):
            mean[box].addcmul_(value, self._weight(start))

    def _weight(self, start: Sequence[int]) -> Tensor:
        weight, *others = [s[first] for s, first in zip(self._shares, start, strict=True)]
        for share in others:
            weight = weight[..., None] * share
        return weight


class RowMerger:
    """Mean of windows that come in order; it gives out rows that no later window reaches.

    So only a band of the volume is in memory.

    Args:
        grid: the windows.
        channels: C of their values.
        batches: ranges of windows, in the order in which they will be added.
        device: where the values are.
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
        # channels-last, because networks give values in this order
        band = torch.zeros((height, *grid.image_shape[1:], channels), device=device)
        self._band = band.movedim(-1, 0)

    def add(self, values: Tensor, windows: slice) -> Iterator[tuple[slice, Tensor]]:
        """Add the values of windows, and give out the rows that they finish.

        The caller must take all slabs before the next call.

        Args:
            values: (n, C, *patch_size) of n windows.
            windows: their indices.

        Yields:
            Slabs of finished rows: their range along the first axis of the volume, and the mean
            (C, rows, ...) there. The mean may be overwritten when the next slab is taken.
        """
        grid, first = self.grid, self._first_row
        grid.add(self._band, values, windows, first)
        is_last = windows.stop >= len(grid)
        stop = grid.image_shape[0] if is_last else int(grid.starts[windows.stop, 0])
        if stop == first:
            return
        for rows in slabs((stop - first, *grid.image_shape[1:]), len(self._band)):
            yield slice(first + rows.start, first + rows.stop), self._band[:, rows]
        self._drop(stop - first)
        self._first_row = 0 if is_last else stop

    def _drop(self, finished: int) -> None:
        """Move the other rows to the front, as many at a time as overlap with no other place."""
        band, height = self._band, self._band.shape[1]
        for row in range(finished, height, finished):
            rows = min(finished, height - row)
            band[:, row - finished : row - finished + rows] = band[:, row : row + rows]
        band[:, max(0, height - finished) :] = 0


def _shares(
    size: int, patch: int, starts: Sequence[int], device: torch.device | str
) -> dict[int, Tensor]:
    """First voxel of each window along one axis -> its share (patch,) of all weights."""
    weight = _gaussian(patch)
    total = torch.zeros(size, dtype=torch.float64)
    for start in starts:
        total[start : start + patch] += weight
    return {s: (weight / total[s : s + patch]).float().to(device) for s in starts}


def _boxes(
    starts: Tensor, patch_size: Sequence[int], image_shape: Sequence[int]
) -> list[tuple[slice | EllipsisType, ...]]:
    """The index of the voxels of each window; ValueError if one is not within the volume."""
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
