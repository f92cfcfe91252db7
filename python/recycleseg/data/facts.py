"""What preprocessing, planning and the check must know about a case, from one look at its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recycleseg.classes import MAX_CLASSES, Classes, values_of
from recycleseg.data.geometry import Orientation
from recycleseg.data.volumes import Volume

# Enough for the percentiles of a data set; a case takes only kilobytes.
_SAMPLES_PER_CASE = 10_000
_VOXELS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class CaseFacts:
    """What preprocessing must know about a case before it starts.

    Attributes:
        spacing: mm along the axes of the file; None if unknown.
        affine: (4, 4) of the first channel; None for PNG.
        foreground: (C, N) float32 intensities at up to 10 000 voxels of foreground classes.
        shape: number of voxels along canonical axes (see `Orientation`).
        class_voxels: (F,) int64 voxels of each foreground class, in the order of
            `Classes.foreground`; a voxel of several regions counts in each.
        foreground_box: (2, dims) int64 along canonical axes: the first voxel of all foreground,
            and the one after its last; None without foreground.
        screen_spacing: see `Volume`.
        image_digests: one hexadecimal hash per channel, equal if shape and voxels are equal;
            empty for a channel with one value everywhere.
        label_digest: the same of the label.
    """

    spacing: tuple[float, ...] | None
    affine: np.ndarray[Any, Any] | None
    foreground: np.ndarray[Any, Any]
    shape: tuple[int, ...]
    class_voxels: np.ndarray[Any, Any]
    foreground_box: np.ndarray[Any, Any] | None
    screen_spacing: tuple[float, ...] | None = None
    image_digests: tuple[str, ...] = ()
    label_digest: str = ""

    @property
    def canonical_spacing(self) -> tuple[float, ...] | None:
        """mm along canonical axes; None if unknown."""
        if self.spacing is None:
            return None
        return Orientation.of(self.affine, len(self.spacing)).sizes(self.spacing)


def facts_of(
    volumes: Sequence[Volume], label: Volume, counts: Mapping[float, int], classes: Classes
) -> CaseFacts:
    """Facts about a sound case.

    Args:
        volumes: one per channel.
        label: on the same grid.
        counts: `value_counts` of the label.
        classes: of the label.
    """
    first = volumes[0]
    orientation = Orientation.of(first.affine, first.array.ndim)
    foreground = _foreground(label.array, counts, classes)
    return CaseFacts(
        spacing=first.spacing,
        affine=first.affine,
        foreground=_samples(volumes, foreground),
        shape=tuple(label.array.shape[axis] for axis in orientation.permutation),
        class_voxels=_class_voxels(counts, classes),
        foreground_box=_box(foreground, orientation),
        screen_spacing=first.screen_spacing,
        image_digests=tuple(_digest(volume.array, orientation) for volume in volumes),
        label_digest=_digest(label.array, orientation),
    )


def value_counts(array: np.ndarray[Any, Any]) -> dict[float, int]:
    """How often each value occurs in a label map (*S), by rising value."""
    flat = array.reshape(-1)
    if array.dtype.kind not in "bui" or array.size == 0 or not _are_indices(array):
        values, counts = np.unique(flat, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))
    total = np.zeros(MAX_CLASSES, np.int64)
    # bincount takes 8 bytes for every voxel, so a large map is counted in parts.
    for start in range(0, flat.size, _VOXELS_AT_ONCE):
        total += np.bincount(flat[start : start + _VOXELS_AT_ONCE], minlength=MAX_CLASSES)
    return {int(value): int(total[value]) for value in np.flatnonzero(total)}


def _are_indices(array: np.ndarray[Any, Any]) -> bool:
    return bool(array.min() >= 0 and array.max() < MAX_CLASSES)


def _values(classes: Classes) -> list[tuple[int, ...]]:
    """The label values of each foreground class."""
    return [values_of(entry) for entry in classes.foreground.values()]


def _class_voxels(counts: Mapping[float, int], classes: Classes) -> np.ndarray[Any, Any]:
    voxels = [sum(counts.get(value, 0) for value in values) for values in _values(classes)]
    return np.array(voxels, np.int64)


def _foreground(
    label: np.ndarray[Any, Any], counts: Mapping[float, int], classes: Classes
) -> np.ndarray[Any, Any]:
    """Mask (*S) of all foreground classes."""
    members = {value for values in _values(classes) for value in values}
    foreground: np.ndarray[Any, Any] = label != 0
    for value in set(counts) - members - {0}:
        foreground &= label != value
    return foreground


def _box(mask: np.ndarray[Any, Any], orientation: Orientation) -> np.ndarray[Any, Any] | None:
    """See `CaseFacts.foreground_box`."""
    ends = []
    for axis, size in enumerate(mask.shape):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        places = np.flatnonzero(mask.any(axis=others))
        if len(places) == 0:
            return None
        low, high = int(places[0]), int(places[-1]) + 1
        ends.append((size - high, size - low) if axis in orientation.flipped else (low, high))
    return np.transpose(np.array([ends[axis] for axis in orientation.permutation], np.int64))


def _samples(volumes: Sequence[Volume], mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    voxels = np.flatnonzero(mask)
    step = -(-len(voxels) // _SAMPLES_PER_CASE) or 1
    return np.stack([v.array.reshape(-1)[voxels[::step]].astype(np.float32) for v in volumes])


def _digest(array: np.ndarray[Any, Any], orientation: Orientation) -> str:
    """Hash of the voxels as float32 along canonical axes, whatever their dtype and order are."""
    canonical = orientation.canonical(array)
    if array.size == 0 or array.min() == array.max():
        return ""
    digest = hashlib.blake2b(str(canonical.shape).encode(), digest_size=16)
    # Slice by slice, so that no second copy of a large volume is in memory.
    for part in canonical.T:
        digest.update(np.ascontiguousarray(part, np.float32).data)
    return digest.hexdigest()
