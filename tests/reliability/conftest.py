"""A tiny data set that a run takes a second for."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from recycleseg.data.identity import _RACY_NS
from recycleseg.data.volumes import write_volume


@pytest.fixture(scope="session")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four 2D images of a disc: two to train with, one to validate, one to test."""
    root = tmp_path_factory.mktemp("data") / "Dataset001_Discs"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for case in range(4):
        label = np.zeros((16, 16), np.uint8)
        label[4 + case : 10 + case, 4:10] = 1
        image = np.clip(60 + 80 * label + rng.normal(0, 12, label.shape), 0, 255).astype(np.uint8)
        write_volume(root / f"imagesTr/d{case}_0000.png", image, spacing=(0.5, 0.5))
        write_volume(root / f"labelsTr/d{case}.png", label, spacing=(0.5, 0.5))
    description = {
        "channel_names": {"0": "ultrasound"},
        "labels": {"background": 0, "disc": 1},
        "file_ending": ".png",
    }
    (root / "dataset.json").write_text(json.dumps(description))
    split = {"train": ["d0", "d1"], "val": ["d2"], "test": ["d3"]}
    (root / "split.json").write_text(json.dumps(split))
    # Until then their hashes would not be remembered, and runs would differ in what they do.
    time.sleep(_RACY_NS / 1e9 + 0.1)
    return root
