"""Tiny data sets that the tests write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recycleseg.data.volumes import write_volume


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a sound data set (random images, a box as label); gives its folder."""

    def make(
        name: str = "dataset",
        *,
        num_cases: int = 5,
        shape: tuple[int, ...] = (6, 7, 5),
        spacing: tuple[float, ...] | None = None,
        affine: np.ndarray | None = None,
        channels: tuple[str, ...] = ("MRI",),
        labels: dict[str, Any] | None = None,
        split: Any = None,
    ) -> Path:
        root = tmp_path / name
        ending = ".nii.gz" if len(shape) == 3 else ".png"
        rng = np.random.default_rng(0)
        for folder in ("imagesTr", "labelsTr"):
            (root / folder).mkdir(parents=True)
        label = np.zeros(shape, np.uint8)
        label[1:4, 2:5] = 1
        label[2:3, 3:4] = 2
        grid = {"spacing": spacing or (1.0,) * len(shape), "affine": affine}
        for case in range(num_cases):
            for channel in range(len(channels)):
                image = rng.integers(0, 256, shape).astype(np.uint8)
                write_volume(root / f"imagesTr/c{case}_{channel:04d}{ending}", image, **grid)
            write_volume(root / f"labelsTr/c{case}{ending}", label, **grid)
        description = {
            "channel_names": {str(index): channel for index, channel in enumerate(channels)},
            "labels": labels or {"background": 0, "shell": 1, "core": 2},
            "file_ending": ending,
        }
        (root / "dataset.json").write_text(json.dumps(description))
        if split is not None:
            (root / "split.json").write_text(json.dumps(split))
        return root

    return make
