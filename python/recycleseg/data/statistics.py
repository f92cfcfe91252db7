"""How large and how bright each class of a data set is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recycleseg.classes import Classes
from recycleseg.data.check import SoundCase

# Enough for quartiles over many cases.
_SAMPLES_PER_CASE = 500


@dataclass(frozen=True)
class ClassStatistics:
    """Numbers of one class over the cases that have it.

    Attributes:
        name: of the class.
        num_cases: how many cases have it.
        num_voxels: in all cases together.
        sizes: (num_cases,) float64, one per case, in `unit`.
        unit: "ml" in 3D, "mm2" in 2D; "voxels" or "pixels" if a file does not give its voxel size.
        intensities: (C, 3) quartiles of each channel, with the median in the middle; NaN without
            cases.
    """

    name: str
    num_cases: int
    num_voxels: int
    sizes: NDArray[np.float64]
    unit: str
    intensities: NDArray[np.float64]


class StatisticsOfClasses:
    """Collects the statistics of a data set case by case.

    Args:
        classes: of the labels.
        num_channels: number of channels C of the images.
    """

    def __init__(self, classes: Classes, num_channels: int) -> None:
        self._labels = classes.foreground
        self._voxels: dict[str, list[int]] = {name: [] for name in self._labels}
        self._voxel_sizes: dict[str, list[float]] = {name: [] for name in self._labels}
        self._samples: dict[str, list[NDArray[np.float32]]] = {name: [] for name in self._labels}
        self._num_channels = num_channels
        self._dims = 3
        self._sized = True

    def add(self, case: SoundCase) -> None:
        """Take one more case into account."""
        first = case.volumes[0]
        self._dims = first.array.ndim
        self._sized &= first.spacing is not None
        channels = [volume.array.reshape(-1) for volume in case.volumes]
        places = np.flatnonzero(case.label.array)
        values = case.label.array.reshape(-1)[places]
        for name, entry in self._labels.items():
            of_class = places[np.isin(values, entry)]
            if len(of_class) == 0:
                continue
            taken = of_class[:: -(-len(of_class) // _SAMPLES_PER_CASE)]
            self._voxels[name].append(len(of_class))
            self._voxel_sizes[name].append(math.prod(first.spacing or ()))
            self._samples[name].append(np.stack([c[taken].astype(np.float32) for c in channels]))

    def result(self) -> list[ClassStatistics]:
        """The statistics of every foreground class, in the order of the classes."""
        return [self._of(name) for name in self._labels]

    def _of(self, name: str) -> ClassStatistics:
        voxels, samples = self._voxels[name], self._samples[name]
        sizes, unit = np.array(voxels, np.float64), "voxels" if self._dims == 3 else "pixels"
        if self._sized:
            in_ml = self._dims == 3
            sizes = sizes * np.array(self._voxel_sizes[name]) / (1000.0 if in_ml else 1.0)
            unit = "ml" if in_ml else "mm2"
        quartiles = np.full((self._num_channels, 3), np.nan)
        if samples:
            quartiles = _quartiles(samples)
        return ClassStatistics(name, len(voxels), sum(voxels), sizes, unit, quartiles)


def _quartiles(samples: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """(C, 3) quartiles of samples (C, N) of several cases."""
    pooled = np.concatenate(samples, axis=1).astype(np.float64)
    return np.asarray(np.percentile(pooled, (25, 50, 75), axis=1).T)
