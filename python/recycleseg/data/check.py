"""Check every file of a data set before training, and collect what preprocessing needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from recycleseg.classes import MAX_CLASSES, Classes
from recycleseg.data.geometry import Orientation
from recycleseg.data.layout import Case, Dataset, dataset_error
from recycleseg.data.sizes import mixed_sizes
from recycleseg.data.volumes import PixelSize, Volume, read_image, read_label, sized
from recycleseg.files import FileError, shortened
from recycleseg.progress import Progress, followed

# Enough for the percentiles of a data set; a case takes only kilobytes.
_SAMPLES_PER_CASE = 10_000
_LARGEST_VALUE = 1e37
_COUNTED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class CaseFacts:
    """What preprocessing must know about a case before it starts.

    Attributes:
        spacing: mm along the axes of the file; None if unknown.
        affine: (4, 4) of the first channel; None for PNG.
        foreground: (C, N) float32 intensities at up to 10 000 foreground voxels.
        shape: number of voxels along canonical axes (see `Orientation`).
        class_voxels: (F,) int64 voxels of each foreground class, in the order of
            `Classes.foreground`; a voxel of several regions counts in each.
        foreground_box: (2, dims) int64 along canonical axes: the first voxel of all foreground,
            and the one after its last; None without foreground.
        screen_spacing: see `Volume`.

    Ignored voxels are not foreground.
    """

    spacing: tuple[float, ...] | None
    affine: np.ndarray[Any, Any] | None
    foreground: np.ndarray[Any, Any]
    shape: tuple[int, ...]
    class_voxels: np.ndarray[Any, Any]
    foreground_box: np.ndarray[Any, Any] | None
    screen_spacing: tuple[float, ...] | None = None


def inspect_dataset(
    dataset: Dataset,
    *,
    pixel_size: PixelSize = "auto",
    workers: int = 2,
    progress: Progress | None = None,
) -> dict[str, CaseFacts]:
    """Open every case, compare image, label and `dataset.json`, and collect facts.

    Args:
        dataset: the data set.
        pixel_size: which voxel sizes count; see `sized`.
        workers: how many cases to open at the same time.
        progress: called with the number of cases done and of all cases.

    Returns:
        case_id -> facts.

    Raises:
        FileError: files are missing, truncated or corrupt, have another number of axes, differ
            in shape or affine, or hold NaN, Inf or label values that `dataset.json` does not
            name; or some images give their voxel size and others do not. The message lists all
            bad cases.
    """
    facts: dict[str, CaseFacts] = {}
    problems: list[str] = []
    with ThreadPoolExecutor(workers) as pool:
        inspected = pool.map(
            lambda case: _inspect_case(case, dataset, pixel_size), dataset.cases.values()
        )
        inspected = followed(inspected, len(dataset.cases), progress)
        for case_id, found in zip(dataset.cases, inspected, strict=True):
            if isinstance(found, CaseFacts):
                facts[case_id] = found
            else:
                problems.extend(found)
    problems = problems or _mixed_sizes(dataset, facts)
    if problems:
        raise dataset_error(dataset.root, problems)
    return facts


def _mixed_sizes(dataset: Dataset, facts: Mapping[str, CaseFacts]) -> list[str]:
    first = {case_id: dataset.cases[case_id].image_paths[0].name for case_id in facts}
    return mixed_sizes(
        [first[case_id] for case_id, fact in facts.items() if fact.spacing is not None],
        [first[case_id] for case_id, fact in facts.items() if fact.spacing is None],
        sum(fact.screen_spacing is not None for fact in facts.values()),
    )


def image_problems(volumes: Sequence[Volume], spatial_dims: int) -> list[str]:
    """What is wrong with the channels of one case, one line per problem."""
    problems = []
    for volume in volumes:
        if volume.array.ndim != spatial_dims:
            problems.append(
                f"{volume.path}: expected {spatial_dims} axes, got shape {volume.array.shape}"
            )
        if 0 in volume.array.shape:
            problems.append(f"{volume.path}: expected voxels, got shape {volume.array.shape}")
        problems.extend(_value_problems(volume))
        if volume is not volumes[0]:
            problems.extend(grid_problems(volume, volumes[0]))
            if (volume.spacing is None) != (volumes[0].spacing is None):
                known, unknown = sorted((volume, volumes[0]), key=lambda v: v.spacing is None)
                problems.append(
                    f"{unknown.path}: expected the size of its pixels, as {known.path.name} gives "
                    "it, got none"
                )
    return problems


def _value_problems(volume: Volume) -> list[str]:
    """One line if a value is not finite, or too large for sums and differences in float32."""
    array = volume.array
    if array.dtype.kind != "f" or array.size == 0:
        return []
    lowest, highest = float(array.min()), float(array.max())
    if math.isfinite(lowest) and math.isfinite(highest):
        largest = max(-lowest, highest)
        if largest <= _LARGEST_VALUE:
            return []
        return [f"{volume.path}: expected values up to {_LARGEST_VALUE:g}, got {largest:g}"]
    nan, inf = int(np.isnan(array).sum()), int(np.isinf(array).sum())
    return [f"{volume.path}: expected finite values, got {nan} NaN and {inf} Inf"]


def _inspect_case(case: Case, dataset: Dataset, pixel_size: PixelSize) -> CaseFacts | list[str]:
    """Facts about a sound case, or what is wrong with the case."""
    problems: list[str] = []
    volumes: list[Volume] = []
    label: Volume | None = None
    try:
        channels = read_image(case.image_paths, len(dataset.channel_names))
        volumes = [sized(channel, pixel_size) for channel in channels]
    except FileError as error:
        problems.append(str(error))
    try:
        if case.label_path is not None:
            label = sized(read_label(case.label_path), pixel_size)
    except FileError as error:
        problems.append(str(error))
    problems.extend(image_problems(volumes, dataset.spatial_dims))
    counts: dict[float, int] = {}
    if label is not None:
        counts = value_counts(label.array)
        problems.extend(_label_problems(label, counts, dataset.classes.values_in_files))
        if volumes:
            problems.extend(grid_problems(label, volumes[0]))
    if problems or label is None:
        return problems
    orientation = Orientation.of(volumes[0].affine, dataset.spatial_dims)
    inside = label.array != 0
    if dataset.classes.ignore_label is not None:
        inside &= label.array != dataset.classes.ignore_label
    return CaseFacts(
        spacing=volumes[0].spacing,
        affine=volumes[0].affine,
        foreground=_foreground_samples(volumes, inside),
        shape=tuple(label.array.shape[axis] for axis in orientation.permutation),
        class_voxels=_class_voxels(counts, dataset.classes),
        foreground_box=_foreground_box(inside, orientation),
        screen_spacing=volumes[0].screen_spacing,
    )


def grid_problems(volume: Volume, reference: Volume, *, there: str = "") -> list[str]:
    """How shape, affine or pixel size differ from those of a reference file.

    Args:
        volume: the file to check.
        reference: the reference file.
        there: what messages call the reference; empty takes its file name.

    Returns:
        One line per problem.
    """
    there = there or reference.path.name
    if volume.array.shape != reference.array.shape:
        return [
            f"{volume.path}: expected shape {reference.array.shape} as {there}, "
            f"got {volume.array.shape}"
        ]
    if volume.affine is not None and reference.affine is not None:
        # In mm. Files of different programs differ by float32 rounding.
        if np.allclose(volume.affine, reference.affine, rtol=0, atol=1e-3):
            return []
        expected, got = (np.round(v.affine, 4).tolist() for v in (reference, volume))  # type: ignore[arg-type]
        return [f"{volume.path}: expected affine {expected} as {there}, got {got}"]
    if volume.spacing is None or reference.spacing is None:
        return []
    if not np.allclose(volume.spacing, reference.spacing, rtol=1e-3):
        return [
            f"{volume.path}: expected pixel size {reference.spacing} mm as {there}, "
            f"got {volume.spacing}"
        ]
    return []


def value_counts(array: np.ndarray[Any, Any]) -> dict[float, int]:
    """How often each value occurs in a label map (*S), by rising value."""
    flat = array.reshape(-1)
    if array.dtype.kind not in "bui" or array.size == 0 or not _are_indices(array):
        values, counts = np.unique(flat, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))
    total = np.zeros(MAX_CLASSES, np.int64)
    # bincount takes 8 bytes for every voxel, so a large map is counted in parts.
    for start in range(0, flat.size, _COUNTED_AT_ONCE):
        total += np.bincount(flat[start : start + _COUNTED_AT_ONCE], minlength=MAX_CLASSES)
    return {int(value): int(total[value]) for value in np.flatnonzero(total)}


def _are_indices(array: np.ndarray[Any, Any]) -> bool:
    return bool(array.min() >= 0 and array.max() < MAX_CLASSES)


def _label_problems(label: Volume, counts: Mapping[float, int], known: range) -> list[str]:
    unknown = [value for value in counts if value not in known]
    if not unknown:
        return []
    return [
        f"{label.path}: expected label values {list(known)} of dataset.json, got "
        f"{shortened(unknown)}"
    ]


def _class_voxels(counts: Mapping[float, int], classes: Classes) -> np.ndarray[Any, Any]:
    members = (v if isinstance(v, tuple) else (v,) for v in classes.foreground.values())
    return np.array([sum(counts.get(v, 0) for v in values) for values in members], np.int64)


def _foreground_box(
    inside: np.ndarray[Any, Any], orientation: Orientation
) -> np.ndarray[Any, Any] | None:
    """See `CaseFacts.foreground_box`."""
    ends = []
    for axis, size in enumerate(inside.shape):
        others = tuple(other for other in range(inside.ndim) if other != axis)
        places = np.flatnonzero(inside.any(axis=others))
        if len(places) == 0:
            return None
        low, high = int(places[0]), int(places[-1]) + 1
        ends.append((size - high, size - low) if axis in orientation.flipped else (low, high))
    return np.transpose(np.array([ends[axis] for axis in orientation.permutation], np.int64))


def _foreground_samples(
    volumes: Sequence[Volume], inside: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    voxels = np.flatnonzero(inside)
    step = -(-len(voxels) // _SAMPLES_PER_CASE) or 1
    return np.stack([v.array.reshape(-1)[voxels[::step]].astype(np.float32) for v in volumes])
