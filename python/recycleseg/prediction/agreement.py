"""Whether the probabilities and the label map of a case belong together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recycleseg.classes import Classes
from recycleseg.data.volumes import Volume
from recycleseg.files import FileError
from recycleseg.prediction.origin import Origin

Array = np.ndarray[Any, Any]

# Rounding to float16, and resampling, take a sum of probabilities a little away from 1.
_SUM_TOLERANCE = 0.1
# Removing components may take away this share of what the probabilities show.
_MOST_REMOVED = 0.5
_SLAB_VALUES = 1 << 24


def check_agreement(
    path: Path, probs: Array, label: Volume, classes: Classes, origin: Origin
) -> None:
    """Check that a label map was made from these probabilities.

    Post-processing may change a label map. So voxels of its structures may differ up to the share
    `origin.most_changed`, and half of what the probabilities show may be missing in it. But no
    other order of axes may fit better: then the array is mirrored or turned.

    Args:
        path: file of the probabilities.
        probs: (C, *S) float32 in the axes of the label map.
        label: the label map, uint8.
        classes: the C classes.
        origin: how the probabilities were stored and decided.

    Raises:
        FileError: they contradict each other; the message names both files.
    """
    decided = _decided(path, probs, classes, origin)
    places = np.nonzero(label.array)
    labelled = label.array[places]
    changed = int((decided[places] != labelled).sum())
    beside = f"{path}: expected the probabilities of {label.path}, got"
    if changed:
        fewest, order = min(
            (int((decided[turned] != labelled).sum()), order)
            for order, turned in _turned(places, decided.shape)
        )
        if 2 * fewest < changed:
            raise FileError(
                f"{beside} an array in another order of axes: {changed} of the {len(labelled)} "
                f"voxels of its structures have another class, but only {fewest} if {order}. For "
                "arrays of nnU-Net, plans.json or dataset.json beside them names the reader, "
                "which decides the order"
            )
    if changed > origin.most_changed * len(labelled):
        raise FileError(
            f"{beside} another class in {changed} of the {len(labelled)} voxels of its structures;"
            f" post-processing may change {origin.most_changed:.0%}"
        )
    shown = np.count_nonzero(decided)
    removed = int(shown - np.count_nonzero(decided[places]))
    if removed > _MOST_REMOVED * shown:
        raise FileError(
            f"{beside} structures in {shown} voxels, of which the label map lacks {removed}; "
            f"post-processing may remove {_MOST_REMOVED:.0%}"
        )


def _decided(path: Path, probs: Array, classes: Classes, origin: Origin) -> Array:
    """The label map (*S) that the probabilities give."""
    decided = np.empty(probs.shape[1:], np.uint8)
    thickness = max(1, _SLAB_VALUES // max(1, probs[..., 0].size))
    for start in range(0, probs.shape[-1], thickness):
        slab = torch.from_numpy(probs[..., start : start + thickness])
        if classes.exclusive and origin.sums_to_one:
            _check_sums(path, slab.sum(0))
        decided[..., start : start + thickness] = _label(slab, classes, origin).numpy()
    return decided


def _check_sums(path: Path, sums: Tensor) -> None:
    low, high = (float(end) for end in torch.aminmax(sums))
    if low < 1 - _SUM_TOLERANCE or high > 1 + _SUM_TOLERANCE:
        raise FileError(
            f"{path}: expected probabilities that add up to 1 in every voxel, got sums from "
            f"{low:.3g} to {high:.3g}"
        )


def _label(probs: Tensor, classes: Classes, origin: Origin) -> Tensor:
    if classes.exclusive:
        return probs.argmax(0).to(torch.uint8)
    thresholds = torch.tensor(origin.thresholds, dtype=torch.float32)
    masks = probs >= thresholds.reshape(-1, *[1] * (probs.ndim - 1))
    return classes.label_map(masks)


def _turned(
    places: tuple[Array, ...], shape: tuple[int, ...]
) -> Iterator[tuple[str, tuple[Array, ...]]]:
    """Places in an array whose axes are exchanged or reversed; how, in words, and the places."""
    axes = range(len(shape))
    for exchanged in itertools.permutations(axes):
        if any(shape[axis] != size for axis, size in zip(exchanged, shape, strict=True)):
            continue
        for reversed_axes in itertools.product((False, True), repeat=len(shape)):
            if exchanged == tuple(axes) and not any(reversed_axes):
                continue
            flipped = [
                size - 1 - place if back else place
                for place, size, back in zip(places, shape, reversed_axes, strict=True)
            ]
            yield (
                _in_words(exchanged, reversed_axes),
                tuple(flipped[exchanged.index(axis)] for axis in axes),
            )


def _in_words(exchanged: tuple[int, ...], reversed_axes: tuple[bool, ...]) -> str:
    names = "XYZ" if len(exchanged) == 3 else "YX"
    parts = []
    if exchanged != tuple(range(len(exchanged))):
        before, now = (
            ", ".join(names[axis] for axis in order) for order in (range(len(exchanged)), exchanged)
        )
        parts.append(f"its axes {before} are read as {now}")
    if any(reversed_axes):
        parts.append(
            f"{', '.join(n for n, back in zip(names, reversed_axes, strict=True) if back)} "
            f"{'is' if sum(reversed_axes) == 1 else 'are'} reversed"
        )
    return " and ".join(parts)
