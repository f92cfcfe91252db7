"""What ensemble_vote hands to the extension, and what it makes of the answer."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from recycleseg import _ext
from recycleseg.ops._layout import collapse_spatial
from recycleseg.ops.overlap_counts import overlap_counts

SOURCES = ("probs", "logits", "label")
METHODS = ("mean", "majority", "max")
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
LABELS = (torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64)
LARGEST_PROB = 1.01  # half precision rounds up
MEAN, PEAK, TALLY, ENTROPY = 1, 2, 4, 8  # sums over members that are kept, as in the extension
WANTED = ("probs", "entropy", "mutual_information", "share")
MAX_FUSED_ROWS, MAX_FUSED_MEMBERS = 96, 64  # of the CUDA kernel


def run(
    members: Sequence[Tensor],
    weights: Sequence[float],
    thresholds: Sequence[float],
    settings: tuple[int, int, bool, int],
    kept: int,
    state: Tensor | None,
    invalid: Tensor,
    ref: Tensor | None,
    outputs: tuple[Tensor, ...] | None,
    backend: str,
) -> None:
    """Hand tensors to the extension, with their spatial axes as one."""
    source, _, exclusive, num_classes = settings
    if SOURCES[source] == "label":
        flat = [x.contiguous().reshape(x.shape[0], -1) for x in members]
    else:
        flat = [collapse_spatial(x.unsqueeze(-1)) for x in members]
    limits = torch.tensor(thresholds, dtype=torch.float32, device=invalid.device)
    tensors: dict[str, Tensor | None] = dict.fromkeys(("label", *WANTED, "ref", "counts"))
    if outputs is not None:
        label, *extra, counts = outputs
        flat_label = label.unsqueeze(-1).flatten(1 if exclusive else 2)
        tensors["label"] = flat_label
        batch, voxels = label.shape[0], flat_label.shape[-1]
        for name, x in zip(WANTED, extra, strict=True):
            if x.numel():
                tensors[name] = (
                    x.reshape(batch, -1, voxels) if name == "probs" else x.reshape(flat_label.shape)
                )
        if ref is not None and backend == "cpp":
            tensors |= {"ref": ref.contiguous().reshape(flat_label.shape), "counts": counts}
    else:
        batch, voxels = flat[0].shape[0], flat[0].shape[-1]
    tensors |= {"thresholds": None if exclusive else limits, "state": state, "invalid": invalid}
    capsules = {k: None if x is None else _ext.capsule(x) for k, x in tensors.items()}
    own = list(weights) if members else []
    arguments = ([_ext.capsule(x) for x in flat], own, capsules, *settings[:3], kept, num_classes)
    total = float(sum(weights))
    if backend == "cuda":
        stream = torch.cuda.current_stream(invalid.device).cuda_stream
        _ext.C.ensemble_vote_cuda(*arguments, total, batch, voxels, stream)
        if ref is not None and outputs is not None:
            outputs[-1].copy_(count(outputs[0], ref, num_classes, exclusive))
    else:
        _ext.C.ensemble_vote_cpu(*arguments, total, batch, voxels, torch.get_num_threads())


def count(label: Tensor, ref: Tensor, num_classes: int, exclusive: bool) -> Tensor:
    if exclusive:
        return overlap_counts(label, ref, num_classes)
    pred, truth = ((x != 0).unsqueeze(-1).flatten(2) for x in (label, ref))
    return torch.stack([(pred & truth).sum(2), pred.sum(2), truth.sum(2)], dim=-1)


def member_shape(member: Tensor, source: int, num_classes: int) -> tuple[int, ...]:
    """(B, C, *S) of a member."""
    if SOURCES[source] == "label":
        return (member.shape[0], num_classes, *member.shape[1:])
    return tuple(member.shape)


def label_dtype(exclusive: bool, num_classes: int) -> torch.dtype:
    return torch.int16 if exclusive and num_classes > 256 else torch.uint8


def nothing(like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return like.new_empty((0,), dtype=dtype)


def empty_outputs(
    like: Tensor,
    shape: Sequence[int],
    exclusive: bool,
    num_classes: int,
    wanted: Sequence[bool],
    ref: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, *spatial = shape
    of_class = (batch, num_classes, *spatial)
    own = (batch, *spatial) if exclusive else of_class
    label = like.new_empty(own, dtype=label_dtype(exclusive, num_classes))
    shapes = [of_class, own, own, own]
    probs, entropy, mutual, share = (
        like.new_empty(size, dtype=torch.float32) if keep else nothing(like)
        for size, keep in zip(shapes, wanted, strict=True)
    )
    if ref is None:
        return label, probs, entropy, mutual, share, nothing(like, torch.int64)
    counts = like.new_zeros((batch, num_classes, 3), dtype=torch.int64)
    return label, probs, entropy, mutual, share, counts


def kept_sums(source: int, method: int, wanted: Sequence[bool]) -> int:
    """Which sums over members the results are made of."""
    _, entropy, mutual, share = wanted
    if SOURCES[source] == "label":
        return TALLY
    kept = {"mean": MEAN, "majority": TALLY, "max": PEAK}[METHODS[method]]
    kept |= (MEAN if entropy or mutual else 0) | (TALLY if share else 0)
    return kept | (ENTROPY if mutual else 0)


def num_rows(kept: int, exclusive: bool, num_classes: int) -> int:
    per_class = (kept & (MEAN | PEAK | TALLY)).bit_count()
    entropy_rows = 1 if exclusive else num_classes
    return per_class * num_classes + (entropy_rows if kept & ENTROPY else 0)


def new_invalid(like: Tensor) -> Tensor:
    return like.new_zeros((2, 2), dtype=torch.int64)


def new_state(
    like: Tensor, shape: Sequence[int], kept: int, exclusive: bool
) -> tuple[Tensor, Tensor]:
    batch, num_classes, *spatial = shape
    padded = (math.prod(spatial) + 15) // 16 * 16
    rows = num_rows(kept, exclusive, num_classes)
    return like.new_zeros((batch, rows, padded), dtype=torch.float32), new_invalid(like)


def raise_if_invalid(
    outputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor],
    invalid: Tensor,
    ref: Tensor | None,
    settings: tuple[int, int, bool, int],
    validate: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    source, _, _, num_classes = settings
    if validate:
        (found, value), (ref_found, ref_value) = invalid.tolist()
        if found and SOURCES[source] == "label":
            raise_label("members", value, num_classes, found)
        if found:
            raise_value(source, struct.unpack("f", struct.pack("i", found))[0])
        if ref_found:
            raise_label("ref", ref_value, num_classes, ref_found)
    return outputs


def raise_label(name: str, value: int, num_classes: int, found: int) -> None:
    raise ValueError(
        f"{name}: expected class labels in [0, {num_classes}), got {value} "
        f"({found} voxels are out of range)"
    )


def raise_value(source: int, value: float) -> None:
    if SOURCES[source] == "logits":
        raise ValueError(f"members: expected logits below inf, not all -inf, got {value:g}")
    raise ValueError(
        f"members: expected probabilities, in [0, 1], got a magnitude of {value:g} "
        "(for logits say source_type='logits')"
    )
