"""Label maps as integers of a small type, whatever type a file stores them in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from recycleseg.data.formats.volume import Array
from recycleseg.files import FileError, shortened
from recycleseg.limits import check_memory

# Values that are converted at a time.
BLOCK = 2**20
# A label v from scl_slope in float32 is off by up to v * 6e-8, which is 7e-4 for the largest labels
# of an atlas, 12175. What lies further from a whole number was interpolated or scaled on purpose.
_WHOLE = 1e-3
# Above this, not every whole number is a float64.
_LARGEST = 2.0**53
_MOST_SHOWN = 1000


def is_small(dtype: np.dtype[np.generic]) -> bool:
    """Whether label maps of this type stay as they are."""
    return dtype.kind in "iu" and dtype.itemsize <= 2


def whole_numbers(blocks: Iterable[Array], size: int, path: Path, reason: str = "") -> Array:
    """The values of a label map (size,) as integers of the smallest type that holds all.

    Args:
        blocks: the values, in pieces (N,) of any real type.
        size: their number.
        path: the file, for messages.
        reason: what a message says at its end about values that are not whole.

    Raises:
        FileError: a value is not a whole number, but for the rounding of a scaled file.
    """
    array: Array = np.empty(size, np.uint8)
    wrong, shown, end = 0, np.empty(0), 0
    for block in blocks:
        start, end = end, end + len(block)
        if block.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                whole = np.rint(block)
                is_wrong = ~(np.abs(block - whole) <= _WHOLE) | ~(np.abs(whole) <= _LARGEST)
            if is_wrong.any():
                wrong += int(is_wrong.sum())
                shown = np.unique(np.concatenate([shown, block[is_wrong]]))[:_MOST_SHOWN]
            if wrong:
                continue
            block = whole
        array = _holding(array, start, int(block.min()), int(block.max()), path)
        array[start:end] = block
    if wrong:
        raise FileError(
            f"{path}: expected labels that are whole numbers, got {shortened(shown.tolist())} in "
            f"{wrong} voxels{reason}"
        )
    return array


def in_blocks(array: Array) -> Iterator[Array]:
    """The values of an array (N,) in pieces."""
    for start in range(0, len(array), BLOCK):
        yield array[start : start + BLOCK]


def _holding(array: Array, used: int, low: int, high: int, path: Path) -> Array:
    """The array with its first values, in a type that also holds others from `low` to `high`."""
    dtype = np.result_type(array.dtype, np.min_scalar_type(low), np.min_scalar_type(high))
    if dtype.kind == "f":
        raise FileError(f"{path}: expected labels of one integer type, got {low} to {high}")
    if dtype == array.dtype:
        return array
    check_memory(path, array.size * (array.itemsize + dtype.itemsize))
    wider: Array = np.empty(array.size, dtype)
    wider[:used] = array[:used]
    return wider
