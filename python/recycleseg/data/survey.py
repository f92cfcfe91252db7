"""What is unusual about a case can be seen only beside the other cases of its data set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from recycleseg.data.facts import CaseFacts
from recycleseg.data.findings import (
    INTENSITY,
    MIXED_SIZES,
    NO_FOREGROUND,
    RARE_CLASS,
    SAME_CHANNELS,
    SAME_SCAN,
    SHAPE,
    SPACING,
    TWO_LABELS,
    TWO_SIDES,
    Finding,
    Kind,
)
from recycleseg.data.layout import Dataset
from recycleseg.data.sizes import mixed_sizes
from recycleseg.data.splits import repeated_cases, shared_patients
from recycleseg.files import shortened

Facts = Mapping[str, CaseFacts]

# With fewer cases nothing is unusual.
_FEWEST_CASES = 4
# How many standard deviations, estimated from the middle 60 % of the cases, are still usual.
_USUAL_DEVIATIONS = 5.0
# The middle 60 % of a normal distribution are this many standard deviations wide.
_MIDDLE_WIDTH = 1.683
# Smaller differences are usual, however equal the other cases are; the last is a factor.
_USUAL_SPACING, _USUAL_SHAPE, _USUAL_CONTRAST = 1.5, 2.0, 3.0
# A class in fewer cases may be missing in a part of the split.
_FEW_CASES, _FEW_OF_ALL = 3, 0.05


def survey(dataset: Dataset, facts: Facts) -> list[Finding]:
    """Compare the sound cases of a data set with each other.

    Args:
        dataset: the data set.
        facts: case_id -> facts.
    """
    side_of = {case_id: part for part, case_ids in dataset.split.items() for case_id in case_ids}
    return [
        *_mixed_sizes(dataset, facts),
        *_repeated_scans(facts, side_of),
        *_repeated_channels(facts, dataset.channel_names),
        *_patients_on_two_sides(dataset),
        *_unusual_grids(facts),
        *_unusual_intensities(facts, dataset.channel_names),
        *_without_foreground(facts),
        *_rare_classes(facts, dataset),
    ]


def _mixed_sizes(dataset: Dataset, facts: Facts) -> Iterator[Finding]:
    first = {case_id: dataset.cases[case_id].image_paths[0].name for case_id in facts}
    for text in mixed_sizes(
        [first[case_id] for case_id, of_case in facts.items() if of_case.spacing is not None],
        [first[case_id] for case_id, of_case in facts.items() if of_case.spacing is None],
        sum(of_case.screen_spacing is not None for of_case in facts.values()),
    ):
        yield Finding(MIXED_SIZES, "", text)


def _patients_on_two_sides(dataset: Dataset) -> Iterator[Finding]:
    shared = shared_patients(dataset.split, dataset.patients)
    for text in (*shared, *repeated_cases(dataset.split)):
        yield Finding(TWO_SIDES, "", text)


def _repeated_scans(facts: Facts, side_of: Mapping[str, str]) -> Iterator[Finding]:
    """Cases that share the content of a channel; one finding for each set of such cases."""
    holders: dict[str, list[str]] = defaultdict(list)
    for case_id, of_case in facts.items():
        for digest in filter(None, dict.fromkeys(of_case.image_digests)):
            holders[digest].append(case_id)
    for case_ids in dict.fromkeys(tuple(ids) for ids in holders.values() if len(ids) > 1):
        labels = {facts[case_id].label_digest for case_id in case_ids}
        sides: dict[str, list[str]] = defaultdict(list)
        for case_id in case_ids:
            sides[side_of[case_id]].append(case_id)
        parts = ", ".join(f"{shortened(cases, 2)} in {part}" for part, cases in sides.items())
        where = f" ({parts})" if len(sides) > 1 else ""
        kind = SAME_SCAN if len(labels) == 1 else TWO_LABELS
        yield Finding(kind, case_ids[0], f"{shortened(case_ids, 4)}: equal voxels{where}")


def _repeated_channels(facts: Facts, channel_names: Sequence[str]) -> Iterator[Finding]:
    for case_id, of_case in facts.items():
        names = defaultdict(list)
        for digest, name in zip(of_case.image_digests, channel_names, strict=True):
            names[digest].append(name)
        for digest, equal in names.items():
            if digest and len(equal) > 1:
                yield Finding(SAME_CHANNELS, case_id, f"{case_id}: {' and '.join(equal)} are equal")


def _unusual_grids(facts: Facts) -> Iterator[Finding]:
    spacings = {case_id: s for case_id, f in facts.items() if (s := f.canonical_spacing)}
    shapes = {case_id: f.shape for case_id, f in facts.items()}
    yield from _unusual_sizes(SPACING, spacings, _USUAL_SPACING, "mm")
    yield from _unusual_sizes(SHAPE, shapes, _USUAL_SHAPE, "voxels")


def _unusual_sizes(
    kind: Kind, sizes: Mapping[str, Sequence[float]], usual: float, unit: str
) -> Iterator[Finding]:
    """Cases whose sizes along canonical axes differ by an unusual factor in an axis."""
    if not sizes:
        return
    values = np.array(list(sizes.values()), dtype=np.float64)
    far = _far_from_others(np.log(values), np.log(usual))
    others = _by_axis(np.median(values, axis=0))
    for case_id, is_far in zip(sizes, far, strict=True):
        if is_far.any():
            got = _by_axis(sizes[case_id])
            yield Finding(kind, case_id, f"{case_id}: {got} {unit}, median {others}")


def _by_axis(sizes: Iterable[float]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)


def _unusual_intensities(facts: Facts, channel_names: Sequence[str]) -> Iterator[Finding]:
    """Cases whose foreground has another level or another contrast, per channel."""
    samples = {case_id: f.foreground for case_id, f in facts.items() if f.foreground.shape[1]}
    if not samples:
        return
    # (cases, channels, 3)
    values = np.array([np.percentile(s, (5, 50, 95), axis=1).T for s in samples.values()])
    values = values.astype(np.float64)
    for channel, name in enumerate(channel_names):
        low, middle, high = values[:, channel].T
        contrast = high - low
        usual_step = np.median(contrast) or abs(np.median(middle)) / 2
        far = _far_from_others(middle, usual_step)
        if np.median(contrast) > 0:
            # A constant foreground gets a contrast that is far below all others.
            factor = np.log(np.maximum(contrast, np.median(contrast) * 1e-9))
            far |= _far_from_others(factor, np.log(_USUAL_CONTRAST))
        others = f"{np.median(middle):.4g} ({np.median(low):.4g} to {np.median(high):.4g})"
        for index, case_id in enumerate(samples):
            if far[index]:
                got = f"{middle[index]:.4g} ({low[index]:.4g} to {high[index]:.4g})"
                text = f"{case_id}: {name}: {got} in the foreground, others {others}"
                yield Finding(INTENSITY, case_id, text)


def _far_from_others(values: NDArray[np.float64], usual: float) -> NDArray[np.bool_]:
    """Which values (cases, ...) are far from the median of all cases.

    The spread is that of the middle 60 % of the cases, so that up to a fifth of them may be far
    away on either side and are found.

    Args:
        values: one per case.
        usual: differences up to this are never far.
    """
    if len(values) < _FEWEST_CASES:
        return np.zeros(values.shape, dtype=np.bool_)
    low = np.quantile(values, 0.2, axis=0, method="higher")
    high = np.quantile(values, 0.8, axis=0, method="lower")
    deviation = np.maximum(high - low, 0.0) / _MIDDLE_WIDTH
    reach = np.maximum(_USUAL_DEVIATIONS * deviation, usual * (1 + 1e-9))
    far: NDArray[np.bool_] = np.abs(values - np.median(values, axis=0)) > reach
    return far


def _without_foreground(facts: Facts) -> Iterator[Finding]:
    for case_id, of_case in facts.items():
        if of_case.foreground_box is None:
            yield Finding(NO_FOREGROUND, case_id, f"{case_id}: no voxel belongs to a class")


def _rare_classes(facts: Facts, dataset: Dataset) -> Iterator[Finding]:
    """Classes that no case of the training part has, or few cases of all."""
    total, training = len(facts), set(dataset.split["train"])
    few = min(max(_FEW_CASES, _FEW_OF_ALL * total), total / 2)
    for index, name in enumerate(dataset.classes.foreground):
        having = [case_id for case_id, f in facts.items() if f.class_voxels[index]]
        if total and not having:
            yield Finding(RARE_CLASS, "", f"{name}: in no case")
        elif total and not training.intersection(having):
            yield Finding(RARE_CLASS, "", f"{name}: in no training case, in {shortened(having, 2)}")
        elif len(having) < few:
            where = shortened(having, 2)
            yield Finding(RARE_CLASS, "", f"{name}: in {len(having)} of {total} cases ({where})")
