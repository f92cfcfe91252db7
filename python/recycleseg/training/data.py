"""The data of a training run: read, checked and preprocessed before the training starts."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from recycleseg.data.cache import PreparedDataset, prepare_dataset
from recycleseg.data.layout import read_dataset
from recycleseg.data.phantom import write_phantom
from recycleseg.progress import stages
from recycleseg.run.config import TrainConfig
from recycleseg.run.factory import cache_root


def load_training_data(config: TrainConfig, console: Console) -> PreparedDataset:
    """The preprocessed data set of `config.data`, or the phantom if there is none.

    Raises:
        FileError: the data set is invalid; the message lists every problem.
    """
    cache = cache_root(config)
    if config.data is None:
        dims = config.phantom.spatial_dims
        root = cache / f"phantom-{version('recycleseg')}-{dims}d"
        if not (root / "dataset.json").exists():
            console.print(f"writing the phantom data set to {root}")
            write_phantom(root, spatial_dims=dims)
    else:
        root = Path(config.data)
    dataset = read_dataset(root, seed=config.seed)
    for note in dataset.notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
    with stages(console, "checking", "preprocessing") as progress:
        folder = cache / f"{dataset.name}-{place}"
        return prepare_dataset(dataset, config.preprocess, folder, progress=progress)
