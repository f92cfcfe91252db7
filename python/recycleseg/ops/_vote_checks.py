"""Checks of the arguments of ensemble_vote; each raises ValueError."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recycleseg.classes import MAX_CLASSES
from recycleseg.ops import _checks
from recycleseg.ops._arrays import as_tensor
from recycleseg.ops._checks import MASK_DTYPES, choice, integers, refuse_label
from recycleseg.ops._vote_run import METHODS, SOURCES, VoteSettings, raise_value

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_LARGEST_PROB = 1.01  # half precision rounds up


def unstacked(members: Any) -> tuple[Tensor, ...]:
    """The members of one array (K, ...)."""
    stacked = as_tensor("members", members)
    if stacked.ndim == 0:
        raise ValueError("members: expected (K, ...) or a sequence, got a scalar")
    return stacked.unbind(0)


def choices(source_type: str, method: str, exclusive: bool, num_classes: int | None) -> None:
    choice("source_type", source_type, SOURCES)
    choice("method", method, METHODS)
    if source_type == "label":
        if method == "max":
            raise ValueError("method: expected 'mean' or 'majority' for labels, got 'max'")
        if not exclusive:
            raise ValueError(
                "exclusive: expected True for labels, got False (masks are probabilities: give "
                "them as floating point)"
            )
        if num_classes is None:
            raise ValueError("num_classes: expected an int for labels, got None")
    if num_classes is not None:
        _checks.integer("num_classes", num_classes, 1, MAX_CLASSES)


def first(first: Tensor, source_type: str, num_classes: int | None) -> tuple[int, ...]:
    """The shape (B, C, *S) of the first member, once it is checked."""
    labels = source_type == "label"
    least, dtypes = (1, MASK_DTYPES) if labels else (2, _FLOATS)
    form = "(B, *S)" if labels else "(B, C, *S)"
    if first.ndim < least:
        raise ValueError(f"members: expected shape {form}, got {tuple(first.shape)}")
    if first.dtype not in dtypes:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ValueError(f"members: expected dtype {names}, got {first.dtype}")
    if first.numel() == 0:
        raise ValueError(f"members: expected at least one voxel, got shape {tuple(first.shape)}")
    if labels:
        assert num_classes is not None
        shape = (first.shape[0], num_classes, *first.shape[1:])
    else:
        shape = tuple(first.shape)
        if num_classes is not None and num_classes != shape[1]:
            raise ValueError(
                f"num_classes: expected {shape[1]}, that of members, got {num_classes}"
            )
    if not 1 <= shape[1] <= MAX_CLASSES:
        raise ValueError(f"num_classes: expected 1 to {MAX_CLASSES}, got {shape[1]}")
    return shape


def same(member: Tensor, first: Tensor) -> None:
    for name in ("shape", "dtype", "device"):
        got, expected = getattr(member, name), getattr(first, name)
        if got != expected:
            if name == "shape":
                got, expected = tuple(got), tuple(expected)
            raise ValueError(f"members: expected the {name} of the first, {expected}, got {got}")


def ref(ref: Any, shape: Sequence[int], exclusive: bool, device: torch.device) -> Tensor | None:
    if ref is None:
        return None
    ref_tensor = as_tensor("ref", ref)
    batch, _, *spatial = shape
    expected = (batch, *spatial) if exclusive else tuple(shape)
    integers("ref", ref_tensor)
    if tuple(ref_tensor.shape) != expected:
        raise ValueError(f"ref: expected shape {expected}, got {tuple(ref_tensor.shape)}")
    if ref_tensor.device != device:
        raise ValueError(f"ref: expected the device of members, {device}, got {ref_tensor.device}")
    return ref_tensor


def numbers(name: str, values: Any, count: int) -> list[float]:
    floats = _checks.finite_numbers(name, values)
    if isinstance(values, (int, float)) or np.ndim(values) == 0:
        floats *= count
    if len(floats) != count:
        raise ValueError(f"{name}: expected {count}, got {len(floats)}")
    return floats


def weights(weights: Any, count: int) -> list[float]:
    if weights is None:
        return [1.0] * count
    if isinstance(weights, (int, float)):
        raise ValueError(f"weights: expected {count}, one for each member, got a number")
    values = numbers("weights", weights, count)
    if min(values) < 0 or sum(values) == 0:
        raise ValueError(f"weights: expected >= 0 and not all 0, got {values}")
    return values


def values(members: Sequence[Tensor], settings: VoteSettings) -> None:
    """What members hold, as the extension checks it in its pass."""
    num_classes = settings.num_classes
    if settings.source_type == "label":
        wide = [x.long() for x in members]
        outside = [x[(x < 0) | (x >= num_classes)] for x in wide]
        if found := sum(x.numel() for x in outside):
            refuse_label("members", int(torch.cat(outside)[0]), found, num_classes)
        return
    for member in members:
        x = member.float()
        if settings.source_type == "probs":
            bad = x[~(x.abs() <= _LARGEST_PROB)].abs()
        else:
            bad = torch.cat([x[~(x < math.inf)], x.amax(1)[~(x.amax(1) > -math.inf)] * math.nan])
        if bad.numel():
            raise_value(settings, float(bad.max()))
