"""What a plan looks at: sizes of the training images and of the structures in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recycleseg.data.facts import CaseFacts
from recycleseg.data.layout import Dataset
from recycleseg.units import Unit, steps, unit_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Fingerprint:
    """Sizes of the training cases along their canonical axes.

    Attributes:
        spacings: (N, D) voxel size in `unit`.
        shapes: (N, D) voxels.
        extents: (M, D) size in `unit` of the box around all foreground of each case that has any.
        channel_names: of an image.
        class_names: of the network, background included.
        unit: "mm", or "pixels" if the files do not give a voxel size.
    """

    spacings: Floats
    shapes: Floats
    extents: Floats
    channel_names: tuple[str, ...]
    class_names: tuple[str, ...]
    unit: Unit = "mm"

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return int(self.shapes.shape[1])

    @property
    def sizes(self) -> Floats:
        """(N, D) size of each image in `unit`."""
        return self.spacings * self.shapes

    @property
    def anatomy(self) -> Floats:
        """(D,) median size in `unit` of the structures, or of the images where no label is."""
        measured = self.extents if len(self.extents) else self.sizes
        return np.asarray(np.median(measured, axis=0))


def fingerprint_of(dataset: Dataset, facts: Mapping[str, CaseFacts]) -> Fingerprint:
    """The fingerprint of a data set's training cases.

    Args:
        dataset: the data set.
        facts: case_id -> facts, for all training cases; see `inspect_dataset`.
    """
    dims = dataset.spatial_dims
    training = [facts[case_id] for case_id in dataset.split["train"]]
    unit = unit_of(training[0].spacing)
    spacings = [steps(fact.canonical_spacing, dims) for fact in training]
    extents = [
        np.subtract(fact.foreground_box[1], fact.foreground_box[0]) * np.array(spacing)
        for fact, spacing in zip(training, spacings, strict=True)
        if fact.foreground_box is not None
    ]
    return Fingerprint(
        spacings=_rows(spacings, dims),
        shapes=_rows([fact.shape for fact in training], dims),
        extents=_rows(extents, dims),
        channel_names=dataset.channel_names,
        class_names=tuple(dataset.classes.names),
        unit=unit,
    )


def _rows(rows: Any, dims: int) -> Floats:
    return np.asarray(rows, dtype=np.float64).reshape(-1, dims)
