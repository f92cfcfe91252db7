"""Checks of arguments that several operations take; each raises ValueError."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from recycleseg.ops._arrays import refuse_mask

LABEL_DTYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)
MASK_DTYPES = (torch.bool, *LABEL_DTYPES)  # of label maps and masks that the extension reads


def is_tensor(name: str, x: Any) -> None:
    """x is a dense tensor, on whatever device."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name}: expected a torch tensor, got {type(x).__name__}")
    if x.layout is not torch.strided:
        raise ValueError(f"{name}: expected a dense tensor, got {x.layout}")


def numbers(name: str, values: Any) -> list[float]:
    """One real number or several as floats, which may be NaN or infinite."""
    found = []
    # torch.compile can trace floats and integers, alone or in lists and tuples. Before PyTorch 2.10
    # it cannot trace `isinstance(item, float | int)`.
    for item in values if isinstance(values, (list, tuple)) else _items(name, values):
        is_plain = isinstance(item, (float, int)) and not isinstance(item, bool)
        found.append(float(item) if is_plain else _number(name, values, item))
    return found


def _items(name: str, values: Any) -> list[Any]:
    if isinstance(values, (float, int)):
        return [values]
    refuse_mask(name, values)
    return list(values) if np.ndim(values) else [values]


def _number(name: str, values: Any, item: Any) -> float:
    try:
        if np.ndim(item) == 0 and not isinstance(item, (str, bytes, bool, np.bool_)):
            return float(item)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass
    raise ValueError(f"{name}: expected numbers, got {values!r}")


def finite_numbers(name: str, values: Any) -> list[float]:
    """One finite number or several."""
    found = numbers(name, values)
    if not all(map(math.isfinite, found)):
        raise ValueError(f"{name}: expected finite numbers, got {found}")
    return found


def is_integer(value: Any) -> bool:
    """Whether value is an integer of Python or NumPy, and no bool."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def integer(name: str, value: Any, least: int, most: int) -> int:
    """value is an integer, and no bool, from least to most."""
    if not is_integer(value) or not least <= value <= most:
        raise ValueError(f"{name}: expected {least} to {most}, got {value!r}")
    return int(value)


def flag(name: str, value: Any) -> bool:
    """value is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {allowed}, got {value!r}")


def integers(name: str, x: Tensor) -> None:
    """x is a label map or a mask, of a dtype that the extension reads."""
    is_tensor(name, x)
    if x.dtype not in MASK_DTYPES:
        raise ValueError(
            f"{name}: expected dtype bool, uint8, int16, int32 or int64, got {x.dtype}"
        )


def same_map(pred: Tensor, ref: Tensor) -> None:
    """ref has the shape and the device of pred."""
    if ref.shape != pred.shape:
        raise ValueError(
            f"ref: expected the shape of pred, {tuple(pred.shape)}, got {tuple(ref.shape)}"
        )
    if ref.device != pred.device:
        raise ValueError(f"ref: expected the device of pred, {pred.device}, got {ref.device}")


def tensor(
    name: str, x: Tensor, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> None:
    """x has exactly this shape and dtype."""
    is_tensor(name, x)
    if x.shape != torch.Size(shape) or x.dtype != dtype:
        raise ValueError(
            f"{name}: expected {dtype} of shape {tuple(shape)}, "
            f"got {x.dtype} of shape {tuple(x.shape)}"
        )
    _same_device(name, x, device)


def floating(name: str, x: Tensor, shape: Sequence[int], device: torch.device) -> None:
    """x has this shape, and some floating dtype."""
    is_tensor(name, x)
    if x.shape != torch.Size(shape) or not x.is_floating_point():
        raise ValueError(
            f"{name}: expected floating point of shape {tuple(shape)}, "
            f"got {x.dtype} of shape {tuple(x.shape)}"
        )
    _same_device(name, x, device)


def label(name: str, x: Tensor) -> None:
    """x is a label (B, *S)."""
    is_tensor(name, x)
    if x.ndim < 2 or x.dtype not in LABEL_DTYPES:
        raise ValueError(
            f"{name}: expected a label (B, *S) of uint8, int16, int32 or int64, "
            f"got {x.dtype} of shape {tuple(x.shape)}"
        )


def refuse_label(name: str, value: int, found: int, num_classes: int) -> NoReturn:
    """Raise for labels that are no class: one of them, and how many voxels have one."""
    raise ValueError(
        f"{name}: expected class labels in [0, {num_classes}), got {value} "
        f"({found} voxels are out of range)"
    )


def network_input(
    x: Tensor, shape: Sequence[int], first_channel: int, device: torch.device
) -> None:
    """x has room for a mask of this shape (B, C, *S) from channel first_channel on."""
    batch, classes, *spatial = shape
    room = x.ndim == len(shape) and 0 <= first_channel <= x.shape[1] - classes
    if not (room and x.is_floating_point() and x.shape == (batch, x.shape[1], *spatial)):
        expected = f"({batch}, C_total, {', '.join(map(str, spatial))})"
        raise ValueError(
            f"network_input: expected floating point of shape {expected} with room for {classes} "
            f"channels from first_channel {first_channel} on, "
            f"got {x.dtype} of shape {tuple(x.shape)}"
        )
    _same_device("network_input", x, device)


def _same_device(name: str, x: Tensor, device: torch.device) -> None:
    if x.device != device:
        raise ValueError(f"{name}: expected a tensor on {device}, got {x.device}")
