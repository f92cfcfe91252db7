"""The data of a training run: read, checked and preprocessed before the training starts."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from recycleseg.data.cache import PreparedDataset, prepare_dataset, read_contents
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
    with stages(console, "reading") as progress:
        contents = read_contents(dataset, cache, progress=progress)
    with stages(console, "checking", "preprocessing") as progress:
        settings = config.preprocess
        return prepare_dataset(dataset, settings, cache, contents=contents, progress=progress)
