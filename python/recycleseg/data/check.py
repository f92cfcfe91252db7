"""Check every file of a data set before training, and collect what preprocessing needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from recycleseg.classes import Classes
from recycleseg.data.layout import Case, Dataset, dataset_error
from recycleseg.data.volumes import Volume, read_volume
from recycleseg.files import FileError, shortened
from recycleseg.progress import Progress, followed

# Enough for the percentiles of a data set; a case takes only kilobytes.
_SAMPLES_PER_CASE = 10_000
_LARGEST_VALUE = 1e37


@dataclass(frozen=True)
class CaseFacts:
    """What preprocessing must know about a case before it starts.

    Attributes:
        spacing: mm along the axes of the file, as in `Volume`.
        affine: (4, 4) of the first channel; None for PNG.
        foreground: (C, N) float32 intensities at up to 10 000 foreground voxels, without ignored
            ones.
    """

    spacing: tuple[float, ...]
    affine: np.ndarray[Any, Any] | None
    foreground: np.ndarray[Any, Any]


def inspect_dataset(
    dataset: Dataset, *, workers: int = 2, progress: Progress | None = None
) -> dict[str, CaseFacts]:
    """Open every case, compare image, label and `dataset.json`, and collect facts.

    Args:
        dataset: the data set.
        workers: how many cases to open at the same time.
        progress: called with the number of cases done and of all cases.

    Returns:
        case_id -> facts.

    Raises:
        FileError: files are missing, truncated or corrupt, have another number of axes, differ
            in shape or affine, or hold NaN, Inf or label values that `dataset.json` does not
            name. The message lists all bad cases.
    """
    facts: dict[str, CaseFacts] = {}
    problems: list[str] = []
    with ThreadPoolExecutor(workers) as pool:
        inspected = pool.map(lambda case: _inspect_case(case, dataset), dataset.cases.values())
        inspected = followed(inspected, len(dataset.cases), progress)
        for case_id, found in zip(dataset.cases, inspected, strict=True):
            if isinstance(found, CaseFacts):
                facts[case_id] = found
            else:
                problems.extend(found)
    if problems:
        raise dataset_error(dataset.root, problems)
    return facts


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


def _inspect_case(case: Case, dataset: Dataset) -> CaseFacts | list[str]:
    """Facts about a sound case, or what is wrong with the case."""
    problems: list[str] = []
    volumes: list[Volume] = []
    label: Volume | None = None
    for path in case.image_paths:
        try:
            volumes.append(read_volume(path))
        except FileError as error:
            problems.append(str(error))
    try:
        label = None if case.label_path is None else read_volume(case.label_path)
    except FileError as error:
        problems.append(str(error))
    problems.extend(image_problems(volumes, dataset.spatial_dims))
    if label is not None:
        problems.extend(_label_problems(label, dataset.classes.values_in_files))
        if volumes:
            problems.extend(grid_problems(label, volumes[0]))
    if problems or label is None:
        return problems
    foreground = _foreground_samples(volumes, label, dataset.classes)
    return CaseFacts(volumes[0].spacing, volumes[0].affine, foreground)


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
    known = volume.spacing_known and reference.spacing_known
    if known and not np.allclose(volume.spacing, reference.spacing, rtol=1e-3):
        return [
            f"{volume.path}: expected pixel size {reference.spacing} mm as {there}, "
            f"got {volume.spacing}"
        ]
    return []


def _label_problems(label: Volume, known: range) -> list[str]:
    unknown = [value for value in np.unique(label.array).tolist() if value not in known]
    if not unknown:
        return []
    return [
        f"{label.path}: expected label values {list(known)} of dataset.json, got "
        f"{shortened(unknown)}"
    ]


def _foreground_samples(
    volumes: Sequence[Volume], label: Volume, classes: Classes
) -> np.ndarray[Any, Any]:
    inside = label.array != 0
    if classes.ignore_label is not None:
        inside &= label.array != classes.ignore_label
    voxels = np.flatnonzero(inside)
    step = -(-len(voxels) // _SAMPLES_PER_CASE) or 1
    return np.stack([v.array.reshape(-1)[voxels[::step]].astype(np.float32) for v in volumes])
