"""Label maps whose scores are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recycleseg.data.volumes import write_volume

SPACING = (1.0, 1.0, 2.0)


def cube_map(shift: int = 0, core: bool = True) -> np.ndarray:
    """A cube of label 1 (4x4x4 voxels), moved along the first axis, and label 2 (2x2x2) in it."""
    label = np.zeros((12, 8, 8), np.uint8)
    label[2 + shift : 6 + shift, 2:6, 2:6] = 1
    if core:
        label[3 + shift : 5 + shift, 3:5, 3:5] = 2
    return label


def write_map(path: Path, label: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, label, spacing=SPACING, affine=affine)
