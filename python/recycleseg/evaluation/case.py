"""All metrics of one case."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recycleseg.classes import Labels, split_ignore, values_of
from recycleseg.data.check import grid_problems
from recycleseg.data.identity import content_hash
from recycleseg.data.regrid import on_grid
from recycleseg.data.volumes import PixelSize, Volume, read_label, sized
from recycleseg.errors import described, show_traceback
from recycleseg.evaluation.pairs import Pair
from recycleseg.evaluation.remarks import longest_side
from recycleseg.files import FileError, shortened
from recycleseg.metrics.evaluate import evaluate
from recycleseg.metrics.scores import Scores


@dataclass(frozen=True)
class CaseResult:
    """Scores of a case after every sampling step, and what its two files tell of the voxel size.

    Attributes:
        by_step: the scores.
        one_sized: whether only one of the files gives the voxel size.
        screen: whether a file gives the resolution of a screen instead.
        side: longest side of a voxel, in the unit of the scores.
        reference_hash: of the content of the reference.
    """

    by_step: tuple[Scores, ...]
    one_sized: bool
    screen: bool
    side: float
    reference_hash: str


def try_case(
    pair: Pair, labels: Labels, options: dict[str, Any], pixel_size: PixelSize, device: str
) -> CaseResult | str:
    """The scores of a case after every sampling step, or what is wrong with the case."""
    try:
        return _evaluate_case(pair, labels, options, pixel_size, device)
    except FileError as error:
        return str(error)
    except Exception as error:  # the other cases are still evaluated
        show_traceback(error)
        return f"{pair.case_id}: {described(error)}"


def _evaluate_case(
    pair: Pair, labels: Labels, options: dict[str, Any], pixel_size: PixelSize, device: str
) -> CaseResult:
    reference = sized(read_integers(pair.reference), pixel_size)
    reference_hash = content_hash(pair.reference)
    by_step = []
    for path in pair.predictions:
        prediction = sized(read_integers(path), pixel_size)
        reference = sized(on_grid(reference, prediction), pixel_size)
        if problems := grid_problems(prediction, reference, there=str(reference.path)):
            raise FileError("; ".join(problems))
        try:
            by_step.append(
                evaluate(
                    torch.from_numpy(prediction.array).to(device),
                    torch.from_numpy(reference.array).to(device),
                    spacing=reference.spacing or prediction.spacing,
                    labels=labels,
                    **options,
                )
            )
        except ValueError as error:
            unknown = _unknown_labels(path, prediction.array, split_ignore(labels)[0])
            unknown += _unknown_labels(pair.reference, reference.array, labels)
            raise FileError("; ".join(unknown) or f"{path}: {error}") from error
    return CaseResult(
        tuple(by_step),
        one_sized=(prediction.spacing is None) != (reference.spacing is None),
        screen=any(v.screen_spacing is not None for v in (prediction, reference)),
        side=longest_side(reference.spacing or prediction.spacing, reference.array.shape),
        reference_hash=reference_hash,
    )


def read_integers(path: Path) -> Volume:
    """A label map of writable integers.

    Raises:
        FileError: the file cannot be read, is empty, or holds values that are not whole numbers.
    """
    volume = read_label(path)
    array = volume.array
    if array.size == 0:
        raise FileError(f"{path}: expected voxels, got shape {array.shape}")
    return replace(volume, array=np.require(array, requirements="W"))


def _unknown_labels(path: Path, array: NDArray[Any], labels: Labels) -> list[str]:
    """One line if a map holds a value which no label has."""
    known = {0, *(value for entry in labels.values() for value in values_of(entry))}
    unknown = [value for value in np.unique(array).tolist() if value not in known]
    if not unknown:
        return []
    expected = ", ".join(map(str, sorted(known)))
    return [f"{path}: expected label values {expected}, got {shortened(unknown)}"]
