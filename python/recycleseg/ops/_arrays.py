"""NumPy arrays and whatever else has their interface, as PyTorch can view them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


def refuse_mask(name: str, x: Any) -> None:
    """Raise ValueError for a masked array, whose mask no operation heeds."""
    if isinstance(x, (np.ma.MaskedArray, torch.masked.MaskedTensor)):
        raise ValueError(
            f"{name}: expected an array without a mask, got {type(x).__name__}: fill in the values "
            "under its mask, such as by .filled(0)"
        )


def as_tensor(name: str, x: Any) -> Tensor:
    """x as a tensor without gradient, copied only where PyTorch cannot view it.

    Raises:
        ValueError: x is no array, has a mask or a dtype that PyTorch does not have.
    """
    refuse_mask(name, x)
    if isinstance(x, Tensor):
        if x.layout is not torch.strided:
            raise ValueError(f"{name}: expected a dense tensor, got {x.layout}")
        return x.detach()
    if not isinstance(x, np.ndarray):
        if hasattr(x, "__dlpack__"):
            try:
                return torch.from_dlpack(x)
            except (BufferError, RuntimeError, TypeError) as error:
                raise ValueError(f"{name}: expected numbers that PyTorch can view") from error
        if not hasattr(x, "__array__"):
            raise ValueError(f"{name}: expected tensors or arrays, got {type(x).__name__}")
        x = np.asarray(x)
    try:
        return torch.from_numpy(viewable(x))
    except TypeError:
        raise ValueError(f"{name}: expected numbers, got dtype {x.dtype}") from None


def viewable(x: Array) -> Array:
    """x, or a copy that PyTorch can view: writable, of native byte order, no negative strides."""
    if x.flags.writeable and x.dtype.isnative and min(x.strides, default=0) >= 0:
        return x
    return np.array(x, dtype=x.dtype.newbyteorder("="), order="K")
