"""A data set small enough to train on in a test, and a configuration for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recycleseg.data.augment import AugmentConfig
from recycleseg.data.volumes import write_volume
from recycleseg.run.config import TrainConfig
from recycleseg.run.options import (
    ModelConfig,
    OptimConfig,
    PatchConfig,
    RuntimeConfig,
    ValidationConfig,
)
from recycleseg.training.trainer import Trainer


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Sums in the order of one thread, so that runs are comparable bit by bit."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def disc_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight 2D images of a bright disc within a ring, in the nnU-Net raw layout."""
    root = tmp_path_factory.mktemp("data") / "Dataset001_Discs"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :24]
    for case in range(8):
        centre = rng.uniform(9, 15, 2)
        radius = np.hypot(y - centre[0] - 4, x - centre[1])
        label = np.where(radius < 4, 2, np.where(radius < 8, 1, 0)).astype(np.uint8)
        image = 60 + 50 * label + rng.normal(0, 12, label.shape)
        spacing = (0.5, 0.5)
        write_volume(
            root / "imagesTr" / f"disc_{case}_0000.png",
            np.clip(image, 0, 255).astype(np.uint8),
            spacing=spacing,
        )
        write_volume(root / "labelsTr" / f"disc_{case}.png", label, spacing=spacing)
    description = {
        "channel_names": {"0": "ultrasound"},
        "labels": {"background": 0, "ring": 1, "core": 2},
        "numTraining": 8,
        "file_ending": ".png",
    }
    (root / "dataset.json").write_text(json.dumps(description))
    names = [f"disc_{case}" for case in range(8)]
    split = {"train": names[:4], "val": names[4:6], "test": names[6:]}
    (root / "split.json").write_text(json.dumps(split))
    return root


def make_config(dataset: Path, folder: Path) -> TrainConfig:
    """Twelve steps of a small network, in seconds, which leave their files in a folder."""
    return TrainConfig(
        data=str(dataset),
        out=str(folder / "run"),
        patch=PatchConfig(size=(32, 24), overlap=0.25),
        augment=AugmentConfig(rotation=10.0, zoom=0.1, shift=0.05, gamma=0.2),
        model=ModelConfig(channels=(8, 16), num_res_blocks=1, num_heads=2, dropout=0.1),
        optim=OptimConfig(steps=12, batch_size=2, warmup_steps=2, ema_decay=0.9),
        validation=ValidationConfig(every=6, patch_every=4, patches=3, save_every=2),
        runtime=RuntimeConfig(
            device="cpu", precision="float32", threads=1, log_every=1, cache=str(folder / "cache")
        ),
    )


@pytest.fixture
def small_config(disc_dataset: Path, tmp_path: Path) -> TrainConfig:
    """A run that no other test sees."""
    return make_config(disc_dataset, tmp_path)


@pytest.fixture(scope="session")
def whole_run(disc_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run like `small_config`, to the end; tests read it only."""
    torch.set_num_threads(1)
    config = make_config(disc_dataset, tmp_path_factory.mktemp("whole"))
    Trainer(config).fit()
    return Path(config.out or "")
