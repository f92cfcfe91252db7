"""Kinds of allowed values. Which one an option has stands at its field in `options.py`."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from recycleseg.progress import A_TIME, parse_duration

Value = TypeVar("Value")

# Where the metadata of a dataclass field hold its range.
RANGE = "range"


@dataclass(frozen=True)
class Range:
    """Values that an option may have; None is always allowed.

    Attributes:
        expected: the range in words, for messages.
        holds: tells whether a value is in the range.
        largest: of all whole numbers in a value.
    """

    expected: str
    holds: Callable[[Any], bool]
    largest: int = 2**31 - 1

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, as "expected ..., got ..."; None if nothing is."""
        if value is None:
            return None
        too_large = any(abs(number) > self.largest for number in _whole_numbers(value))
        if not self.holds(value):
            expected = self.expected
        elif too_large:
            expected = f"whole numbers up to {self.largest}"
        else:
            return None
        return f"expected {expected}, got {reprlib.repr(value) if too_large else value}"


AT_LEAST_0 = Range("at least 0", lambda value: 0 <= value < math.inf)
AT_LEAST_1 = Range("at least 1", lambda value: value >= 1)
AT_LEAST_2 = Range("at least 2", lambda value: value >= 2)
ABOVE_0 = Range("above 0", lambda value: value > 0)
SHARE = Range("0 to 1", lambda value: 0 <= value <= 1)
BELOW_1 = Range("0 to below 1", lambda value: 0 <= value < 1)
# Seeds that torch's generators accept.
SEED = Range("0 to 2**63 - 1", lambda seed: 0 <= seed < 2**63, largest=2**63 - 1)
SIZES = Range("one or more sizes of at least 1", lambda sizes: bool(sizes) and min(sizes) >= 1)
# More than a computer can hold, and few enough for the 64-bit numbers of every library.
MAX_PATCH_VOXELS = 2**36
PATCH_SIZE = Range(
    f"{SIZES.expected}, and at most 2**36 voxels",
    lambda sizes: SIZES.holds(sizes) and math.prod(sizes) <= MAX_PATCH_VOXELS,
)
SCALES = Range(
    "factors of at least 1",
    lambda scales: all(factor >= 1 for factor in _numbers(scales)),
)
KERNELS = Range(
    "odd sizes of at least 1",
    lambda kernels: all(size >= 1 and size % 2 for size in _numbers(kernels)),
)
DURATION = Range(A_TIME, lambda text: _is_duration(text))
AUTO_OR_AT_LEAST_1 = Range(
    "auto or at least 1",
    lambda batch: batch >= 1 if isinstance(batch, int) else batch == "auto",
)

FOLD = Range(
    "all or at least 0",
    lambda fold: fold >= 0 if isinstance(fold, int) else fold == "all",
)


def _is_duration(text: str) -> bool:
    try:
        return parse_duration(text) > 0
    except ValueError:
        return False


def _whole_numbers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, tuple | list):
        for entry in value:
            yield from _whole_numbers(entry)


def _numbers(entries: Any) -> list[int]:
    """All numbers of a number, or of entries that are numbers or one number per axis."""
    each = [entries] if isinstance(entries, int) else entries
    return [n for entry in each for n in ([entry] if isinstance(entry, int) else entry)]


def within(allowed: Range, default: Value) -> Value:
    """A dataclass field with this default; its values must be in the range."""
    made: Value = field(default=default, metadata={RANGE: allowed})
    return made
