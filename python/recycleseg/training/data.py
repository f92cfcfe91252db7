"""The data of a training run: read, checked and preprocessed before anything else happens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from recycleseg import __version__
from recycleseg.config import TrainConfig
from recycleseg.data.cache import PreparedDataset, prepare_dataset
from recycleseg.data.check import Progress
from recycleseg.data.layout import read_dataset
from recycleseg.data.phantom import write_phantom
from recycleseg.factory import cache_root


def load_training_data(config: TrainConfig, console: Console) -> PreparedDataset:
    """The preprocessed data set of `config.data`, or the phantom.

    Raises DatasetError listing everything that is wrong with the data set.
    """
    cache = cache_root(config)
    if config.data is None:
        p = config.phantom
        root = cache / f"phantom-{__version__}-{p.spatial_dims}d-seed{p.seed}"
        if not (root / "dataset.json").exists():
            console.print(f"writing the phantom data set to {root}")
            write_phantom(root, spatial_dims=p.spatial_dims, seed=p.seed)
    else:
        root = Path(config.data)
    dataset = read_dataset(root, seed=config.seed)
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
    with stages(console, "checking", "preprocessing") as progress:
        folder = cache / f"{dataset.name}-{place}"
        return prepare_dataset(dataset, config.preprocess, folder, progress=progress)


@contextmanager
def stages(console: Console, *names: str) -> Iterator[Progress]:
    """A callback of the cases done and their total that draws one bar per stage.

    Nothing is drawn before it is called, so data found in the cache are read in silence.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    bars = rich.progress.Progress(*columns, console=console)
    waiting = iter(names)
    with ExitStack() as stack:

        def show(done: int, total: int) -> None:
            if not bars.task_ids:
                stack.enter_context(bars)
            if done == 1:
                bars.add_task(next(waiting), total=total)
            bars.update(bars.task_ids[-1], completed=done)

        yield show
