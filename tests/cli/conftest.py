"""A data set for the tests to break, and arguments of a short run on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from recycleseg.cli import _common
from recycleseg.data.volumes import write_volume


@pytest.fixture(autouse=True)
def own_memo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands do not write hashes to the cache of the user."""
    monkeypatch.setattr(_common, "cache_root", lambda: tmp_path / "user_cache")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A sound data set of ten small 3D images with one structure; c9 is not in its split."""
    root = tmp_path / "Dataset001_Boxes"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    label = np.zeros((8, 8, 6), np.uint8)
    label[2:5, 3:6, 2:4] = 1
    for case in range(10):
        image = (100 * label + rng.normal(0, 10, label.shape)).astype(np.float32)
        write_volume(root / f"imagesTr/c{case}_0000.nii.gz", image, spacing=(1.0, 1.0, 1.0))
        write_volume(root / f"labelsTr/c{case}.nii.gz", label, spacing=(1.0, 1.0, 1.0))
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "box": 1},
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(description))
    names = [f"c{case}" for case in range(9)]
    split = {"train": names[:7], "val": names[7:8], "test": names[8:]}
    (root / "split.json").write_text(json.dumps(split))
    return root


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Folder of the run; it does not exist yet."""
    return tmp_path / "run"


@pytest.fixture
def arguments(data: Path, run: Path, tmp_path: Path) -> list[str]:
    """Arguments that train a small network on the data set for two steps."""
    options = {
        "data": data,
        "out": run,
        "patch.size": [8, 8, 8],
        "model.channels": [8, 8],
        "model.num_heads": 2,
        "optim.steps": 2,
        "sampling.num_steps": 2,
        "validation.every": 2,
        "runtime.device": "cpu",
        "runtime.precision": "float32",
        "runtime.threads": 1,
        "runtime.cache": tmp_path / "cache",
    }
    return [f"--{name}={value}" for name, value in options.items()]
