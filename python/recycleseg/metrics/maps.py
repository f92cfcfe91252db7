"""Two segmentations as the operations take them: checked, with a batch axis, in memory order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recycleseg.classes import MAX_LABEL
from recycleseg.metrics.measure import Maps, device_of
from recycleseg.ops._arrays import refuse_mask, viewable

# The dtype that holds the values of one that the operations do not take.
_WIDER = {
    torch.int8: torch.int16,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.uint64: torch.int64,
}
_WIDER_IN_NUMPY = {"i1": np.int16, "u2": np.int32, "u4": np.int64, "u8": np.int64}


def integer_maps(name: str, x: Any) -> Maps:
    """x of a dtype that the operations take; copied only where DLPack cannot view it.

    Raises:
        TypeError: x is no array.
        ValueError: x has a mask, no integers, or a label beyond 64 bits with a sign.
    """
    refuse_mask(name, x)
    if not isinstance(x, np.ndarray):
        if not hasattr(x, "__dlpack__"):
            raise TypeError(
                f"{name}: expected a NumPy array, a torch tensor or an object with __dlpack__, "
                f"got {type(x).__name__}"
            )
        if isinstance(x, Tensor) and x.layout is not torch.strided:
            raise ValueError(f"{name}: expected a dense tensor, got {x.layout}")
        tensor = x.detach() if isinstance(x, Tensor) else torch.from_dlpack(x)
        if tensor.is_floating_point() or tensor.is_complex():
            raise ValueError(f"{name}: expected booleans or integers, got {tensor.dtype}")
        if tensor.device.type != "cpu":
            wider = tensor.to(_WIDER.get(tensor.dtype, tensor.dtype))
            if tensor.dtype == torch.uint64 and (wider < 0).any():
                _refuse_large(name, int(wider.amin()) + 2**64)
            return wider
        x = tensor.numpy()
    if x.dtype.kind not in "biu":
        raise ValueError(f"{name}: expected booleans or integers, got {x.dtype}")
    if x.dtype.str[1:] == "u8" and x.size and x.max() > MAX_LABEL:
        _refuse_large(name, int(x.max()))
    if x.dtype.str[1:] in _WIDER_IN_NUMPY:
        x = x.astype(_WIDER_IN_NUMPY[x.dtype.str[1:]])
    return viewable(x)


def _refuse_large(name: str, value: int) -> None:
    raise ValueError(f"{name}: expected labels up to {MAX_LABEL}, got {value}")


def is_bool(maps: Maps) -> bool:
    """Whether the maps hold booleans."""
    return bool(maps.dtype == (np.bool_ if isinstance(maps, np.ndarray) else torch.bool))


def count_axes(pred: Maps, spacing: Sequence[float] | None, batched: bool, masks: bool) -> int:
    """The number of axes in S of pred, 2 or 3, to which spacing must fit."""
    form = f"({'B, ' if batched else ''}{'C, ' if masks else ''}*S)"
    num_axes = pred.ndim - batched - masks
    if num_axes not in (2, 3):
        hint = "" if batched else "; a batch needs batched=True"
        raise ValueError(
            f"pred: expected shape {form} with 2 or 3 axes in S, got {tuple(pred.shape)}{hint}"
        )
    if spacing is not None and len(spacing) != num_axes:
        hint = "" if batched or len(spacing) > num_axes else "; a batch needs batched=True"
        raise ValueError(
            f"spacing: expected {num_axes} numbers, one for each axis of S in pred {form} of shape "
            f"{tuple(pred.shape)}, got {tuple(spacing)}{hint}"
        )
    return num_axes


def paired(
    pred: Maps, ref: Maps, batched: bool, mask_names: tuple[str, ...] | None
) -> tuple[Maps, Maps]:
    """Both with a batch axis, masks as bool."""
    if ref.shape != pred.shape:
        raise ValueError(
            f"ref: expected the shape of pred, {tuple(pred.shape)}, got {tuple(ref.shape)}"
        )
    if (device := device_of(ref)) != device_of(pred):
        raise ValueError(f"ref: expected the device of pred, {device_of(pred)}, got {device}")
    if device.type == "meta":
        raise ValueError("pred: expected voxels, got a tensor on the device meta, which has none")
    if 0 in pred.shape:
        raise ValueError(f"pred: expected at least one voxel, got shape {tuple(pred.shape)}")
    if not batched:
        pred, ref = pred[None], ref[None]
    if mask_names is None:
        return pred, ref
    if pred.shape[1] != len(mask_names):
        raise ValueError(
            f"labels: expected {pred.shape[1]} names, one for each mask of pred, "
            f"got {len(mask_names)}"
        )
    is_inside = [maps if is_bool(maps) else maps != 0 for maps in (pred, ref)]
    return is_inside[0], is_inside[1]


def without(ignore_label: int, pred: Maps, ref: Maps) -> tuple[Maps, Maps, NDArray[np.int64]]:
    """Maps (B, *S) that are 0 where ref has the ignore label, and the number (B, 1) of others."""
    highest = 1 if is_bool(ref) else _highest(ref)
    if ignore_label > highest:  # torch would wrap a value that the dtype cannot hold
        return pred, ref, np.full((len(ref), 1), math.prod(ref.shape[1:]))
    known = ref != ignore_label
    number = torch.as_tensor(known).flatten(1).sum(1, keepdim=True).cpu().numpy()
    return pred * known, ref * known, number


def _highest(maps: Maps) -> int:
    """The largest value that the dtype of integers can hold."""
    if isinstance(maps, np.ndarray):
        return int(np.iinfo(maps.dtype).max)
    return torch.iinfo(maps.dtype).max


def in_memory_order(
    pred: Maps, ref: Maps, spacing: tuple[float, ...]
) -> tuple[Maps, Maps, tuple[float, ...]]:
    """The same maps with the axes of S in pred's order in memory, and the spacing so too.

    Files of medical images are read with the first axis fastest; no metric depends on the order of
    the axes, and so no copy in another order is needed.
    """
    first = pred.ndim - len(spacing)
    strides = pred.strides if isinstance(pred, np.ndarray) else pred.stride()
    order = sorted(range(len(spacing)), key=lambda axis: -strides[first + axis])
    if order == sorted(order):
        return pred, ref, spacing
    axes = [*range(first), *(first + axis for axis in order)]

    def ordered(maps: Maps) -> Maps:
        turned: Maps = maps.transpose(axes) if isinstance(maps, np.ndarray) else maps.permute(axes)
        return turned

    return ordered(pred), ordered(ref), tuple(spacing[axis] for axis in order)
