"""Cut a volume into overlapping windows, and join the predictions of the windows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
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

    def add(
        self, mean: Tensor, values: Tensor, windows: slice, corner: tuple[int, ...] = ()
    ) -> None:
        """Add the values of windows to the weighted mean.

        If every window is added once to zeros, the result is the mean of all windows.

        Args:
            mean: (..., *image_shape), changed in place. It may be a part of the volume, if these
                windows are within it.
            values: (n, ..., *patch_size) of n windows.
            windows: their indices.
            corner: the first voxel that `mean` has, along the first axes; 0 along the others.
        """
        starts = self.starts[windows]
        shifted = starts.clone()
        shifted[:, : len(corner)] -= starts.new_tensor(corner)
        boxes = _boxes(shifted, self.patch_size, self.image_shape)
        for value, box, start in zip(values, boxes, starts.tolist(), strict=True):
            mean[box].addcmul_(value, self._weight(start))

    def _weight(self, start: Sequence[int]) -> Tensor:
        weight, *others = [s[first] for s, first in zip(self._shares, start, strict=True)]
        for share in others:
            weight = weight[..., None] * share
        return weight


class WindowMerger:
    """Mean of windows that come in order; it gives out voxels that no later window reaches.

    Windows at the same place along the first two axes, rows and columns, are a line. Only the
    voxels of one line are in memory, and of all columns the rows that the next lines share.

    Args:
        grid: the windows, of two axes or more.
        channels: C of their values.
        device: where the values are.
    """

    def __init__(self, grid: WindowGrid, channels: int, device: torch.device | str = "cpu") -> None:
        self.grid = grid
        # The rows and columns that a line is the last to reach.
        self._rows, self._columns = (
            [slice(*ends) for ends in pairwise([*grid.starts[:, axis].unique().tolist(), size])]
            for axis, size in enumerate(grid.image_shape[:2])
        )
        self._num_lines = len(self._rows) * len(self._columns)
        height, width, *_ = grid.patch_size
        shared = max(height - _length(rows) for rows in self._rows)

        def zeros(*size: int) -> Tensor:
            # channels-last, because networks give values in this order
            shape = (*size, *grid.image_shape[2:], channels)
            return torch.zeros(shape, device=device).movedim(-1, 0)

        self._line = zeros(height, width)
        self._shared = zeros(shared, grid.image_shape[1])

    def add(
        self, values: Tensor, windows: slice
    ) -> Iterator[tuple[tuple[slice, slice, slice], Tensor]]:
        """Add the values of windows, and give out the voxels that they finish.

        The caller must take all boxes before the next call.

        Args:
            values: (n, C, *patch_size) of n windows.
            windows: their indices.

        Yields:
            Boxes of finished voxels: their index in the volume (C, *image_shape), and the mean
            (C, rows, columns, ...) there. It may be overwritten when the next box is taken.
        """
        of_line = len(self.grid) // self._num_lines
        first, stop = windows.start, min(windows.stop, len(self.grid))
        while first < stop:
            line = first // of_line
            end = min(stop, (line + 1) * of_line)
            row, column = divmod(line, len(self._columns))
            corner = (self._rows[row].start, self._columns[column].start)
            added = values[first - windows.start : end - windows.start]
            self.grid.add(self._line, added, slice(first, end), corner)
            if end == (line + 1) * of_line:
                yield from self._finish(self._rows[row], self._columns[column])
                self._begin((line + 1) % self._num_lines, _length(self._columns[column]))
            first = end

    def _finish(
        self, rows: slice, columns: slice
    ) -> Iterator[tuple[tuple[slice, slice, slice], Tensor]]:
        """Give out what the line has finished, and keep what lines of the next row share."""
        height, width = _length(rows), _length(columns)
        done, others = self._line[:, :height, :width], self._line[:, height:, :width]
        for part in slabs(done.shape[1:], len(done)):
            of_volume = slice(rows.start + part.start, rows.start + part.stop)
            yield (slice(None), of_volume, columns), done[:, part]
        self._shared[:, : others.shape[1], columns] = others

    def _begin(self, line: int, finished: int) -> None:
        """Fill the memory with what earlier lines gave to this one.

        Args:
            line: its number.
            finished: columns that the line before has finished.
        """
        row, column = divmod(line, len(self._columns))
        height, width, *_ = self.grid.patch_size
        # As many columns at a time as overlap with no other place.
        for first in range(finished, width, finished):
            moved = self._line[:, :, first : first + finished]
            self._line[:, :, first - finished : first - finished + moved.shape[2]] = moved
        # Before the first row there is the last one, which shares nothing.
        shared = height - _length(self._rows[row - 1])
        new = self._line[:, :, width - finished :]
        start = self._columns[column].start
        new[:, :shared] = self._shared[:, :shared, start + width - finished : start + width]
        new[:, shared:] = 0


def _length(part: slice) -> int:
    length: int = part.stop - part.start
    return length


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
