"""What is asked of a vote, what it returns, and how the extension is called for it."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recycleseg import _ext
from recycleseg.ops._checks import refuse_label
from recycleseg.ops._layout import collapse_spatial
from recycleseg.ops.overlap_counts import overlap_counts

SOURCES = ("probs", "logits", "label")
METHODS = ("mean", "majority", "max")


class VoteSettings(NamedTuple):
    """What is asked of a vote: numbers alone, so that a registered operation takes them as a list.

    Attributes:
        source: index in SOURCES of what a member is.
        method: index in METHODS of how members are combined.
        exclusive: 1 where a voxel has one class, 0 where classes overlap.
        num_classes: C.
        probs: 1 to return the scores.
        entropy: 1 to return the entropy of the mean.
        mutual_information: 1 to return that of the members and the result.
        share: 1 to return the share of the weight that votes for the result.
        validate: 1 to refuse values that are no probabilities, logits or labels.
    """

    source: int
    method: int
    exclusive: int
    num_classes: int
    probs: int
    entropy: int
    mutual_information: int
    share: int
    validate: int

    @property
    def source_type(self) -> str:
        """The name of what a member is."""
        return SOURCES[self.source]

    def shape_of(self, member: Tensor) -> tuple[int, ...]:
        """(B, C, *S) of a member."""
        if self.source_type == "label":
            return (member.shape[0], self.num_classes, *member.shape[1:])
        return tuple(member.shape)

    def label_dtype(self) -> torch.dtype:
        """The least that holds a class, or whether a class is there."""
        return torch.int16 if self.exclusive and self.num_classes > 256 else torch.uint8


class Outputs(NamedTuple):
    """What the registered operations return; a tensor that was not asked for is empty, (0,)."""

    label: Tensor
    probs: Tensor
    entropy: Tensor
    mutual_information: Tensor
    share: Tensor
    counts: Tensor


class Sums(NamedTuple):
    """What a vote adds up to.

    Attributes:
        state: float32 sums over members that are added one by one; None where one call reads all.
        invalid: (2, 2) int64: of members and of ref how many values are invalid, and one of them.
    """

    state: Tensor | None
    invalid: Tensor


def nothing(like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What stands for a result that was not asked for."""
    return like.new_empty((0,), dtype=dtype)


def empty_outputs(
    like: Tensor, shape: Sequence[int], settings: VoteSettings, with_counts: bool
) -> Outputs:
    """Room for the results of a vote of shape (B, C, *S), on the device of `like`."""
    batch, num_classes, *spatial = shape
    own = (batch, *spatial) if settings.exclusive else (batch, num_classes, *spatial)

    def room(size: Sequence[int], asked: int) -> Tensor:
        return like.new_empty(size, dtype=torch.float32) if asked else nothing(like)

    return Outputs(
        like.new_empty(own, dtype=settings.label_dtype()),
        room(shape, settings.probs),
        room(own, settings.entropy),
        room(own, settings.mutual_information),
        room(own, settings.share),
        like.new_zeros((batch, num_classes, 3), dtype=torch.int64)
        if with_counts
        else nothing(like, torch.int64),
    )


def no_sums(like: Tensor) -> Sums:
    """Of a vote whose members are read by one call."""
    return Sums(None, like.new_zeros((2, 2), dtype=torch.int64))


def zero_sums(like: Tensor, shape: list[int], settings: list[int]) -> tuple[Tensor, Tensor]:
    """State and invalid of :class:`Sums`, before the first member of shape (B, C, *S) is added."""
    rows, length = _ext.C.vote_state_shape(VoteSettings(*settings), math.prod(shape[2:]))
    state = like.new_zeros((shape[0], rows, length), dtype=torch.float32)
    return state, no_sums(like).invalid


def run(
    settings: VoteSettings,
    thresholds: Sequence[float],
    members: Sequence[Tensor],
    weights: Sequence[float],
    sums: Sums,
    ref: Tensor | None,
    outputs: Outputs | None,
) -> None:
    """Add members to the sums and, where there are outputs, fill these; all on one device.

    Args:
        settings: what is asked for.
        thresholds: of each class; none where classes are exclusive.
        members: (B, C, *S) or labels (B, *S); none where all were added before.
        weights: of the members; where there are none, of all that were added before.
        sums: to which members are added.
        ref: the reference label, or None.
        outputs: None where more members follow.
    """
    tensors: dict[str, Tensor | None] = dict.fromkeys((*Outputs._fields, "thresholds", "ref"))
    tensors |= sums._asdict()
    device = sums.invalid.device
    if not settings.exclusive:
        tensors["thresholds"] = torch.tensor(thresholds, dtype=torch.float32, device=device)
    if outputs is not None:
        tensors |= _flat_outputs(settings, outputs)
        if ref is not None and device.type == "cpu":
            flat_ref = ref.contiguous().unsqueeze(-1).flatten(1 if settings.exclusive else 2)
            tensors |= {"ref": flat_ref, "counts": outputs.counts}
    if settings.source_type == "label":
        flat = [x.contiguous().reshape(x.shape[0], -1) for x in members]
    else:
        flat = [collapse_spatial(x.unsqueeze(-1)) for x in members]
    capsules = {k: None if x is None else _ext.capsule(x) for k, x in tensors.items()}
    arguments = (settings, [_ext.capsule(x) for x in flat], list(weights), capsules)
    if device.type == "cpu":
        _ext.C.ensemble_vote_cpu(*arguments, torch.get_num_threads())
        return
    _ext.C.ensemble_vote_cuda(*arguments, torch.cuda.current_stream(device).cuda_stream)
    if ref is not None and outputs is not None:
        outputs.counts.copy_(count(outputs.label, ref, settings))


def _flat_outputs(settings: VoteSettings, outputs: Outputs) -> dict[str, Tensor | None]:
    """The results that are asked for, with their spatial axes as one."""
    asked = settings._asdict()
    first = 1 if settings.exclusive else 2
    flat = {
        name: x.unsqueeze(-1).flatten(2 if name == "probs" else first)
        for name, x in outputs._asdict().items()
        if name == "label" or asked.get(name)
    }
    return dict(flat)


def count(label: Tensor, ref: Tensor, settings: VoteSettings) -> Tensor:
    """True positives, predicted and true voxels (B, C, 3) int64 of a label or of masks."""
    if settings.exclusive:
        return overlap_counts(label, ref, settings.num_classes)
    pred, truth = ((x != 0).unsqueeze(-1).flatten(2) for x in (label, ref))
    return torch.stack([(pred & truth).sum(2), pred.sum(2), truth.sum(2)], dim=-1)


def raise_if_invalid(invalid: Tensor, settings: VoteSettings) -> None:
    """Raise ValueError for what a call has found, where that is asked for."""
    if not settings.validate:
        return
    (found, value), (ref_found, ref_value) = invalid.tolist()
    if found and settings.source_type == "label":
        refuse_label("members", value, found, settings.num_classes)
    if found:
        raise_value(settings, struct.unpack("f", struct.pack("i", found))[0])
    if ref_found:
        refuse_label("ref", ref_value, ref_found, settings.num_classes)


def raise_value(settings: VoteSettings, value: float) -> None:
    """Raise ValueError for a value that is no probability or no logit."""
    if settings.source_type == "logits":
        raise ValueError(f"members: expected logits below inf, not all -inf, got {value:g}")
    raise ValueError(
        f"members: expected probabilities, in [0, 1], got a magnitude of {value:g} "
        "(for logits say source_type='logits')"
    )
