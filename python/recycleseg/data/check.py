"""Check every file of a data set before training, and collect what preprocessing needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recycleseg.data.facts import CaseFacts, facts_of, value_counts
from recycleseg.data.findings import (
    AXES,
    GRID,
    LABEL_VALUES,
    MISSING,
    MIXED_SIZES,
    UNREADABLE,
    VALUES,
    Finding,
)
from recycleseg.data.grids import offsets, same_grid, same_sizes
from recycleseg.data.layout import Case, Dataset, dataset_error
from recycleseg.data.survey import survey
from recycleseg.data.volumes import PixelSize, Volume, read_image, read_label, sized
from recycleseg.files import FileError, shortened
from recycleseg.progress import Progress, followed

_LARGEST_VALUE = 1e37
Inspect = Callable[[Case], CaseFacts | list[Finding]]


def inspect_dataset(
    dataset: Dataset,
    *,
    pixel_size: PixelSize = "auto",
    workers: int = 2,
    progress: Progress | None = None,
) -> dict[str, CaseFacts]:
    """`check_dataset` for training: it refuses a data set with errors.

    Args:
        dataset: the data set.
        pixel_size: which voxel sizes count; see `sized`.
        workers: how many cases to open at the same time.
        progress: called with the number of cases done and of all cases.

    Returns:
        case_id -> facts.

    Raises:
        FileError: `check_dataset` finds errors. The message lists all of them.
    """
    facts, findings = check_dataset(
        dataset, pixel_size=pixel_size, workers=workers, progress=progress
    )
    refuse_errors(dataset, findings)
    return facts


def refuse_errors(dataset: Dataset, findings: Iterable[Finding]) -> None:
    """Raise the FileError of `inspect_dataset` if a finding is an error."""
    if errors := [finding.text for finding in findings if finding.severity == "error"]:
        raise dataset_error(dataset.root, errors)


def check_dataset(
    dataset: Dataset,
    *,
    pixel_size: PixelSize = "auto",
    workers: int = 2,
    progress: Progress | None = None,
    inspect: Inspect | None = None,
) -> tuple[dict[str, CaseFacts], list[Finding]]:
    """Open every case, compare image, label and `dataset.json`, then compare the cases.

    Args:
        dataset: the data set.
        pixel_size: which voxel sizes count; see `sized`.
        workers: how many cases to open, and to hold in memory, at the same time.
        progress: called with the number of cases done and of all cases.
        inspect: gives the facts or findings of a case; None opens its files.

    Returns:
        case_id -> facts of each sound case; and all findings (`findings.py` lists the kinds), those
        of single cases first.
    """
    facts: dict[str, CaseFacts] = {}
    findings: list[Finding] = []
    with ThreadPoolExecutor(workers) as pool:
        look = inspect or (lambda case: _inspect_case(case, dataset, pixel_size))
        inspected = pool.map(look, dataset.cases.values())
        inspected = followed(inspected, len(dataset.cases), progress)
        for case_id, found in zip(dataset.cases, inspected, strict=True):
            if isinstance(found, CaseFacts):
                facts[case_id] = found
            else:
                findings.extend(found)
    return facts, [*findings, *survey(dataset, facts)]


def image_findings(
    volumes: Sequence[Volume], spatial_dims: int, case_id: str = ""
) -> list[Finding]:
    """What is wrong with the channels of one case."""
    findings: list[Finding] = []
    for volume in volumes:
        of_kinds = {AXES: _axis_problems(volume, spatial_dims), VALUES: _value_problems(volume)}
        if volume is not volumes[0]:
            of_kinds[GRID] = grid_problems(volume, volumes[0])
            of_kinds[MIXED_SIZES] = _size_problems(volume, volumes[0])
        for kind, problems in of_kinds.items():
            findings.extend(Finding(kind, case_id, text) for text in problems)
    return findings


def _size_problems(volume: Volume, first: Volume) -> list[str]:
    """One line if only one of two channels gives its voxel size."""
    if (volume.spacing is None) == (first.spacing is None):
        return []
    known, unknown = sorted((volume, first), key=lambda v: v.spacing is None)
    return [
        f"{unknown.path}: expected the size of its pixels, as {known.path.name} gives it, got none"
    ]


def _axis_problems(volume: Volume, spatial_dims: int) -> list[str]:
    shape, problems = volume.array.shape, []
    if len(shape) != spatial_dims:
        problems.append(f"{volume.path}: expected {spatial_dims} axes, got shape {shape}")
    if 0 in shape:
        problems.append(f"{volume.path}: expected voxels, got shape {shape}")
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
    return [
        f"{volume.path}: expected finite values, got {nan} NaN and {inf} Inf; replace them, for "
        "example by 0 where nothing was scanned"
    ]


class SoundCase(NamedTuple):
    """The files of a case without errors.

    Attributes:
        volumes: one per channel.
        label: on the same grid.
        counts: `value_counts` of the label.
    """

    volumes: list[Volume]
    label: Volume
    counts: dict[float, int]


def read_case(case: Case, dataset: Dataset, pixel_size: PixelSize) -> SoundCase | list[Finding]:
    """Read the files of a case; if something is wrong with them, its findings."""
    findings: list[Finding] = []
    volumes: list[Volume] = []
    label: Volume | None = None
    in_each = len(dataset.channel_names) if len(case.image_paths) == 1 else 1
    for path in case.image_paths:
        with _noted(path, case.case_id, findings):
            volumes.extend(sized(v, pixel_size) for v in read_image([path], in_each))
    if case.label_path is not None:
        with _noted(case.label_path, case.case_id, findings):
            label = sized(read_label(case.label_path), pixel_size)
    findings.extend(image_findings(volumes, dataset.spatial_dims, case.case_id))
    if in_each == 1 and len(case.image_paths) != len(dataset.channel_names):
        names = ", ".join(path.name for path in case.image_paths)
        text = f"{case.case_id}: expected {len(dataset.channel_names)} channels, got {names}"
        findings.append(Finding(AXES, case.case_id, text))
    if label is None:
        return findings
    counts = value_counts(label.array)
    of_kinds = {LABEL_VALUES: _label_problems(label, counts, dataset.classes.values_in_files)}
    if volumes:
        of_kinds[GRID] = grid_problems(label, volumes[0])
    for kind, problems in of_kinds.items():
        findings.extend(Finding(kind, case.case_id, text) for text in problems)
    return findings or SoundCase(volumes, label, counts)


def _inspect_case(case: Case, dataset: Dataset, pixel_size: PixelSize) -> CaseFacts | list[Finding]:
    """Facts about a sound case, or what is wrong with the case."""
    found = read_case(case, dataset, pixel_size)
    return facts_of(*found, dataset.classes) if isinstance(found, SoundCase) else found


@contextmanager
def _noted(path: Path, case_id: str, findings: list[Finding]) -> Iterator[None]:
    """If the file cannot be read in this block, one more finding."""
    try:
        yield
    except FileError as error:
        findings.append(Finding(UNREADABLE if path.exists() else MISSING, case_id, str(error)))


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
        if same_grid(reference.affine, volume.affine, volume.array.shape):
            return []
        apart = offsets(reference.affine, volume.affine, volume.array.shape)
        return [
            f"{volume.path}: expected affine {_shown(reference.affine)} as {there}, got "
            f"{_shown(volume.affine)}, so voxels lie up to "
            f"{np.linalg.norm(apart, axis=1).max():.2g} mm apart"
        ]
    if volume.spacing is None or reference.spacing is None:
        return []
    if not same_sizes(volume.spacing, reference.spacing):
        return [
            f"{volume.path}: expected pixel size {reference.spacing} mm as {there}, "
            f"got {volume.spacing}"
        ]
    return []


def _shown(affine: np.ndarray[Any, Any]) -> list[list[float]]:
    """An affine as it stands in messages, at any size of the voxels."""
    return [[float(f"{number:.6g}") for number in row] for row in affine.tolist()]


def _label_problems(label: Volume, values: Iterable[float], known: range) -> list[str]:
    unknown = [value for value in values if value not in known]
    if not unknown:
        return []
    return [
        f"{label.path}: expected label values {list(known)} of dataset.json, got "
        f"{shortened(unknown)}"
    ]
