"""Arrays on disk in blocks, so that a patch reads little more than itself.

In an .npy file as NumPy writes it, the voxels of a patch lie far apart, and the system reads whole
pages around each short row: some twenty times the patch. Here they lie in blocks of neighbours,
each read at once. The file is an .npy file too, of shape (..., n_1, ..., n_d, b_1, ..., b_d): n
blocks of b voxels along each of d axes, filled up with zeros at the ends.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from types import EllipsisType

import numpy as np
import torch
from torch import Tensor

from recycleseg.files import FileError

# Voxels of a block along each of 2 or 3 axes: 64 and 128 KiB of float32.
_EDGE = {2: 128, 3: 32}


def to_blocks(x: Tensor, spatial_dims: int) -> Tensor:
    """Cut an array (..., *S) into blocks (..., *n, *b), a copy."""
    first = x.ndim - spatial_dims
    numbers, sizes = _layout(x.shape[first:])
    padded = x.new_zeros((*x.shape[:first], *_filled(numbers, sizes)))
    padded[_corner(x.shape[first:])] = x
    split = padded.reshape(*x.shape[:first], *itertools.chain(*zip(numbers, sizes, strict=True)))
    order = [*range(first), *range(first, split.ndim, 2), *range(first + 1, split.ndim, 2)]
    return split.permute(order).contiguous()


class Blocks:
    """An array of `to_blocks` in a file, which is opened for each use and closed again.

    Args:
        path: the .npy file.
        shape: the sizes S of the array along its spatial axes.

    Attributes:
        shape: of the array, with its leading axes.
        dtype: of its values.

    Raises:
        FileError: the file does not hold such an array.
    """

    def __init__(self, path: Path, shape: Sequence[int]) -> None:
        self.path = path
        numbers, self._sizes = _layout(shape)
        with path.open("rb") as file:
            try:
                np.lib.format.read_magic(file)
                stored, _, dtype = np.lib.format.read_array_header_1_0(file)
            except ValueError as error:
                raise self._error(str(error)) from error
            self._offset = file.tell()
        leading = stored[: len(stored) - 2 * len(numbers)]
        if stored != (*leading, *numbers, *self._sizes):
            raise self._error(f"shape {stored}")
        self._stored, self._numbers = stored, numbers
        self.shape = torch.Size((*leading, *shape))
        self._dtype = dtype
        self.dtype = torch.from_numpy(np.empty(0, dtype)).dtype

    @property
    def ndim(self) -> int:
        """Number of axes of the array."""
        return len(self.shape)

    def whole(self) -> Tensor:
        """The whole array, read one row of blocks after the other, so that no second copy is held.

        Raises:
            FileError: the file was cut.
        """
        (rows, *numbers), (height, *sizes) = self._numbers, self._sizes
        rest = len(numbers)
        order = [rest, *itertools.chain(*((axis, rest + 1 + axis) for axis in range(rest)))]
        size = math.prod(numbers) * math.prod(self._sizes)
        whole = np.empty(
            (math.prod(self.shape[: -rest - 1]), *self.shape[-rest - 1 :]), self._dtype
        )
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for lead, row in itertools.product(range(len(whole)), range(rows)):
                blocks = np.fromfile(file, self._dtype, size)
                if len(blocks) < size:
                    raise self._error("one that was cut")
                joined = blocks.reshape(*numbers, height, *sizes).transpose(order)
                part = whole[lead, row * height : (row + 1) * height]
                joined = joined.reshape(height, *_filled(numbers, sizes))
                part[:] = joined[tuple(slice(n) for n in part.shape)]
        return torch.from_numpy(whole.reshape(self.shape))

    def copy_patch(self, starts: Sequence[int], patch: Tensor) -> None:
        """Copy the array from voxel `starts` on into patch (..., *P), as far as they overlap.

        Args:
            starts: one index per spatial axis; it may be negative.
            patch: on the CPU.

        Raises:
            FileError: the file was cut.
        """
        dims = len(starts)
        shape = self.shape[-dims:]
        ends = [min(a + p, n) for a, p, n in zip(starts, patch.shape[-dims:], shape, strict=True)]
        touched = [
            range(max(a, 0) // b, -(-end // b))
            for a, end, b in zip(starts, ends, self._sizes, strict=True)
        ]
        count = math.prod(self.shape[: self.ndim - dims])
        into = patch.numpy().reshape(count, *patch.shape[-dims:])
        size = math.prod(self._sizes) * self._dtype.itemsize
        with self.path.open("rb", buffering=0) as file:
            for lead, index in itertools.product(range(count), itertools.product(*touched)):
                number = np.ravel_multi_index((lead, *index), (count, *self._numbers))
                file.seek(self._offset + int(number) * size)
                content = file.read(size)
                if len(content) < size:
                    raise self._error("one that was cut")
                block = np.frombuffer(content, self._dtype).reshape(self._sizes)
                source: list[slice] = []
                target: list[int | slice] = [lead]
                for i, b, a, end in zip(index, self._sizes, starts, ends, strict=True):
                    low, high = max(i * b, a, 0), min((i + 1) * b, end)
                    source.append(slice(low - i * b, high - i * b))
                    target.append(slice(low - a, high - a))
                into[tuple(target)] = block[tuple(source)]

    def _error(self, got: str) -> FileError:
        return FileError(
            f"{self.path}: expected the array that was written there, got {got}; start again to "
            "prepare it anew"
        )


def _layout(shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Number of blocks along each axis, and their size, as even as possible."""
    edge = _EDGE[len(shape)]
    numbers = tuple(max(1, -(-size // edge)) for size in shape)
    return numbers, tuple(-(-size // n) for size, n in zip(shape, numbers, strict=True))


def _filled(numbers: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """The sizes of the array once it is filled up."""
    return [n * size for n, size in zip(numbers, sizes, strict=True)]


def _corner(shape: Sequence[int]) -> tuple[EllipsisType | slice, ...]:
    """The index of the array in the one that is filled up."""
    return (..., *(slice(size) for size in shape))
