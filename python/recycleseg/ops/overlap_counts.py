"""Voxels per class of two label maps: true positives, predicted, reference.

Dice, IoU and volumes follow from these three counts alone, centroids from the sums of the voxels'
indices.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from recycleseg import _ext
from recycleseg.classes import MAX_CLASSES
from recycleseg.ops._backend import resolve_backend
from recycleseg.ops._checks import integer, integers, refuse_label, same_map

MAX_AXES = 3


@overload
def overlap_counts(
    pred: Tensor,
    ref: Tensor,
    num_classes: int,
    *,
    coordinate_sums: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...


@overload
def overlap_counts(
    pred: Tensor,
    ref: Tensor,
    num_classes: int,
    *,
    coordinate_sums: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


def overlap_counts(
    pred: Tensor,
    ref: Tensor,
    num_classes: int,
    *,
    coordinate_sums: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Count the voxels of every class in a batch of label maps, in one pass.

    A single map (*S) is a batch of one: `overlap_counts(pred[None], ref[None], C)[0]`.

    Args:
        pred: (B, *S) class labels in [0, num_classes); bool, uint8, int16, int32 or int64.
        ref: the same, of the shape and the device of pred; its dtype may differ.
        num_classes: C, from 1 to 4096.
        coordinate_sums: whether to sum the voxels' indices too; S has D = 1 to 3 axes then.
        backend: "cpp" (threads: `torch.get_num_threads()`), "cuda", "reference" or "auto", the best
            that was built.

    Returns:
        int64 (B, C, 3) on the same device; along the last axis, with v over the voxels,

            [|{v: pred = ref = c}|, |{v: pred = c}|, |{v: ref = c}|].

        With coordinate_sums these counts and, from the same pass, int64 (B, C, 2, D): the sums of
        the indices along each axis of S over the voxels {v: pred = c} and over {v: ref = c}.
        Divided by the counts they are the centroids.

    Raises:
        ValueError: an argument does not meet its description. To find labels out of range on a GPU,
            the call waits for the counts.
        RuntimeError: the backend was not built.
    """
    integers("pred", pred)
    integers("ref", ref)
    if pred.ndim == 0:
        raise ValueError("pred: expected shape (B, *S), got a scalar")
    same_map(pred, ref)
    integer("num_classes", num_classes, 1, MAX_CLASSES)
    if coordinate_sums and not 1 <= pred.ndim - 1 <= MAX_AXES:
        raise ValueError(
            f"pred: expected shape (B, *S) with 1 to {MAX_AXES} axes in S for coordinate_sums, "
            f"got {tuple(pred.shape)}"
        )
    resolved = resolve_backend(backend, pred.device)
    if coordinate_sums:
        counts, sums = _overlap_counts_and_sums(pred, ref, num_classes, resolved)
        return counts, sums
    result: Tensor = _overlap_counts(pred, ref, num_classes, resolved)
    return result


def overlap_counts_reference(pred: Tensor, ref: Tensor, num_classes: int) -> Tensor:
    """What :func:`overlap_counts` computes, in plain torch, one class after the other."""
    for name, label in (("pred", pred), ("ref", ref)):
        wide = label.long()  # in which num_classes, unlike in a byte, has room
        outside = (wide < 0) | (wide >= num_classes) if label.dtype != torch.bool else label[:0]
        if num := int(outside.sum()):
            refuse_label(name, int(label[outside][0]), num, num_classes)
    pred, ref = pred[..., None], ref[..., None]  # an axis to sum over, where *S has none
    voxels = tuple(range(1, pred.ndim))
    per_class = []
    for c in range(num_classes):
        in_pred, in_ref = pred == c, ref == c
        per_class.append(torch.stack([m.sum(voxels) for m in (in_pred & in_ref, in_pred, in_ref)]))
    return torch.stack(per_class).permute(2, 0, 1).contiguous()


def coordinate_sums_reference(pred: Tensor, ref: Tensor, num_classes: int) -> Tensor:
    """The sums of indices of :func:`overlap_counts`, in plain torch, one class after the other."""
    size, voxels = pred.shape[1:], tuple(range(1, pred.ndim))
    indices = torch.meshgrid(*[torch.arange(n, device=pred.device) for n in size], indexing="ij")
    per_class = [
        torch.stack(
            [torch.stack([((m == c) * i).sum(voxels) for i in indices]) for m in (pred, ref)]
        )
        for c in range(num_classes)
    ]
    return torch.stack(per_class).permute(3, 0, 1, 2).contiguous()


@torch.library.custom_op("recycleseg::overlap_counts", mutates_args=())
def _overlap_counts(pred: Tensor, ref: Tensor, num_classes: int, backend: str) -> Tensor:
    if backend == "reference":
        return overlap_counts_reference(pred, ref, num_classes)
    return _count(pred, ref, num_classes, backend, None)


@_overlap_counts.register_fake
def _(pred: Tensor, ref: Tensor, num_classes: int, backend: str) -> Tensor:
    return pred.new_empty((pred.shape[0], num_classes, 3), dtype=torch.int64)


@torch.library.custom_op("recycleseg::overlap_counts_and_sums", mutates_args=())
def _overlap_counts_and_sums(
    pred: Tensor, ref: Tensor, num_classes: int, backend: str
) -> tuple[Tensor, Tensor]:
    if backend == "reference":
        return (
            overlap_counts_reference(pred, ref, num_classes),
            coordinate_sums_reference(pred, ref, num_classes),
        )
    sums = pred.new_zeros((pred.shape[0], num_classes, 2, pred.ndim - 1), dtype=torch.int64)
    return _count(pred, ref, num_classes, backend, sums), sums


@_overlap_counts_and_sums.register_fake
def _(pred: Tensor, ref: Tensor, num_classes: int, backend: str) -> tuple[Tensor, Tensor]:
    return (
        pred.new_empty((pred.shape[0], num_classes, 3), dtype=torch.int64),
        pred.new_empty((pred.shape[0], num_classes, 2, pred.ndim - 1), dtype=torch.int64),
    )


def _count(
    pred: Tensor, ref: Tensor, num_classes: int, backend: str, sums: Tensor | None
) -> Tensor:
    """Counts by the extension, which adds to `sums` where given."""
    counts = pred.new_zeros((pred.shape[0], num_classes, 3), dtype=torch.int64)
    invalid = pred.new_zeros((2, 2), dtype=torch.int64)  # per argument: how many, one such value
    sums_view = None if sums is None else _ext.capsule(sums)
    views = [_ext.capsule(t) for t in (pred.contiguous(), ref.contiguous(), counts, invalid)]
    if backend == "cuda":
        stream = torch.cuda.current_stream(pred.device).cuda_stream
        _ext.C.overlap_counts_cuda(*views, stream, sums_view)
    else:
        _ext.C.overlap_counts_cpu(*views, torch.get_num_threads(), sums_view)
    for name, (num, value) in zip(("pred", "ref"), invalid.tolist(), strict=True):
        if num:
            refuse_label(name, value, num, num_classes)
    return counts
