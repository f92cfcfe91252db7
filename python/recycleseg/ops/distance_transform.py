"""Exact Euclidean distance of each voxel inside a mask to the nearest one outside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recycleseg import _ext
from recycleseg.ops._backend import resolve_backend
from recycleseg.ops._checks import integers, numbers

MIN_SPACING, MAX_SPACING = 1e-9, 1e9  # the squares, times any length squared, are normal floats


def distance_transform(mask: Tensor, *, spacing: Sequence[float], backend: str = "auto") -> Tensor:
    """Distance in mm from each voxel inside each mask of a batch to the nearest one outside.

    The batch axis is required, because an image (B, H, W) cannot be told from a volume (D, H, W). A
    single mask is a batch of one: `distance_transform(mask[None], spacing=spacing)[0]`.

    Squared distances are taken along one axis after the other, as lower envelopes of parabolas
    (P. F. Felzenszwalb and D. P. Huttenlocher, Distance transforms of sampled functions, Theory of
    Computing 8, 2012): near ones by a search outward, and on the CPU far ones by the envelope
    itself, in time proportional to the voxels whatever the mask. On a GPU an element's search is
    as long as its distance. Memory besides the result: on the CPU some 150 bytes for each thread
    and voxel of the longest axis, on a GPU as much as the result; a mask that is not contiguous is
    copied.

    Args:
        mask: (B, *S) of bool, uint8, int16, int32 or int64, nonzero is inside; S has two or three
            axes, each shorter than 2^30.
        spacing: mm between voxel centres along each axis of S, from 1e-9 to 1e9.
        backend: "cpp" (threads: `torch.get_num_threads()`; the result does not depend on them),
            "cuda", "reference" or "auto", the best that was built.

    Returns:
        float32 (B, *S) on the same device: with u over the voxels of v's sample,

            d(v) = min over u with mask(u) = 0
                   of sqrt(sum over axes a of ((v_a - u_a) spacing_a)^2),

        so 0 outside. It is what `scipy.ndimage.distance_transform_edt(mask, sampling=spacing)`
        gives, to 2e-7 of the distance, except in a sample with no voxel outside: there it is inf,
        where SciPy's numbers mean nothing. What lies beyond the borders is neither inside nor
        outside. With spacing 1 squared distances are exact up to 2^24 (512^3 voxels), and d is
        their rounded root.

    Raises:
        ValueError: an argument does not meet its description.
        RuntimeError: the backend was not built.
    """
    integers("mask", mask)
    if mask.ndim not in (3, 4):
        raise ValueError(
            f"mask: expected shape (B, *S) with two or three axes in S, got {tuple(mask.shape)}"
        )
    steps = numbers("spacing", spacing)
    if len(steps) != mask.ndim - 1:
        raise ValueError(
            f"spacing: expected {mask.ndim - 1} values, one for each axis of S, got {len(steps)}"
        )
    if not all(MIN_SPACING <= step <= MAX_SPACING for step in steps):
        raise ValueError(
            f"spacing: expected values from {MIN_SPACING} to {MAX_SPACING} mm, got {tuple(steps)}"
        )
    resolved = resolve_backend(backend, mask.device)
    result: Tensor = _distance_transform(mask, steps, resolved)
    return result


def distance_transform_reference(mask: Tensor, spacing: Sequence[float]) -> Tensor:
    """What :func:`distance_transform` computes, in plain torch, in double precision."""
    squared = torch.zeros(mask.shape, dtype=torch.float64, device=mask.device)
    squared.masked_fill_(mask != 0, torch.inf)
    for axis, step in enumerate(spacing, start=1):
        position = torch.arange(mask.shape[axis], dtype=torch.float64, device=mask.device) * step
        position = position.reshape([-1 if a == axis else 1 for a in range(mask.ndim)])
        nearest = squared
        for origin, parabola in zip(position.unbind(axis), squared.unbind(axis), strict=True):
            distance = (position - origin.unsqueeze(axis)).square()
            nearest = torch.minimum(nearest, parabola.unsqueeze(axis) + distance)
        squared = nearest
    return squared.sqrt().float()


@torch.library.custom_op("recycleseg::distance_transform", mutates_args=())
def _distance_transform(mask: Tensor, spacing: Sequence[float], backend: str) -> Tensor:
    if backend == "reference":
        return distance_transform_reference(mask, spacing)
    distance = mask.new_empty(mask.shape, dtype=torch.float32)
    views = [_ext.capsule(mask.contiguous()), _ext.capsule(distance)]
    if backend == "cuda":
        workspace = _ext.capsule(torch.empty_like(distance))
        stream = torch.cuda.current_stream(mask.device).cuda_stream
        _ext.C.distance_transform_cuda(*views, workspace, spacing, stream)
    else:
        _ext.C.distance_transform_cpu(*views, spacing, torch.get_num_threads())
    return distance


@_distance_transform.register_fake
def _(mask: Tensor, spacing: Sequence[float], backend: str) -> Tensor:
    return mask.new_empty(mask.shape, dtype=torch.float32)
