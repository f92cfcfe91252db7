"""The data of a training run: prepared before the training starts, then given as batches."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Generic, TypeVar

import torch
from rich.console import Console
from torch import Tensor

from recycleseg.data.augment import augment
from recycleseg.data.cache import PreparedDataset, prepare_dataset, read_contents
from recycleseg.data.layout import read_dataset
from recycleseg.data.patches import PatchSampler
from recycleseg.data.phantom import write_phantom
from recycleseg.progress import print_line, stages
from recycleseg.rows import Rows
from recycleseg.run.config import TrainConfig
from recycleseg.run.factory import cache_root

Made = TypeVar("Made")


def load_training_data(config: TrainConfig, console: Console) -> PreparedDataset:
    """The preprocessed data set of `config.data`, or the phantom if there is none.

    Raises:
        FileError: the data set is invalid; the message lists every problem.
        ValueError: `fold` or `group_by` does not fit the data set.
    """
    cache = cache_root(config.runtime.cache)
    if config.data is None:
        dims = config.phantom.spatial_dims
        root = cache / f"phantom-{version('recycleseg')}-{dims}d"
        if not (root / "dataset.json").exists():
            console.print(f"writing the phantom data set to {root}")
            write_phantom(root, spatial_dims=dims)
    else:
        root = Path(config.data)
    dataset = read_dataset(root, config.split_rule)
    with stages(console, "reading") as progress:
        contents = read_contents(dataset, cache, progress=progress)
    with stages(console, "checking", "preprocessing") as progress:
        settings = config.preprocess
        data = prepare_dataset(
            dataset,
            settings,
            cache,
            contents=contents,
            progress=progress,
            announce=lambda line: print_line(console, line),
        )
    if data.note:
        print_line(console, data.note)
    return data


class Ahead(Generic[Made]):
    """Makes what comes next in a thread, while the device is busy.

    Args:
        make: gives what belongs to an index, and depends on nothing else.
        depth: how many are made ahead.
    """

    def __init__(self, make: Callable[[int], Made], depth: int = 2) -> None:
        self._make = make
        self._depth = depth
        self._coming: dict[int, Future[Made]] = {}
        self._thread = ThreadPoolExecutor(1, "ahead")

    def __call__(self, index: int) -> Made:
        """What belongs to an index; after it, that of the next ones is made."""
        wanted = range(index, index + 1 + self._depth)
        for old in [i for i in self._coming if i not in wanted]:
            self._coming.pop(old).cancel()
        for i in wanted:
            if i not in self._coming:
                self._coming[i] = self._thread.submit(self._make, i)
        return self._coming.pop(index).result()


class TrainingBatches:
    """Augmented batches of training patches.

    Args:
        config: of the run.
        data: the preprocessed data set.
        patch_size: voxels along each axis.
        device: where the batches go.
        rows: which rows of each batch this process has.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: PreparedDataset,
        patch_size: tuple[int, ...],
        device: torch.device,
        rows: Rows,
    ) -> None:
        self._rows = rows
        self._augment = config.augment
        self._spacing = data.spacing
        self._device = device
        # On the CPU, because an augmentation has few parameters and each draw would cost a kernel.
        self._generator = torch.Generator()
        patches = PatchSampler(
            data.training_cases(),
            patch_size,
            config.optim.batch_size,
            rows=rows,
            foreground_probability=config.patch.foreground_probability,
            seed=config.seed,
            imgx_compat=config.imgx_compat,
        )
        self._patches = Ahead(patches.batch)

    def __call__(self, index: int, *, augment_seed: int) -> tuple[Tensor, Tensor]:
        """Images (B, C_img, *P) and targets of the rows of batch `index`, on the device."""
        image, label = self._patches(index)
        if self._device.type == "cuda":
            # Without pinned memory the host would wait for the copy.
            image, label = image.pin_memory(), label.pin_memory()
        image, label = (x.to(self._device, non_blocking=True) for x in (image, label))
        self._generator.manual_seed(augment_seed)
        return augment(
            image,
            label,
            self._augment,
            spacing=self._spacing,
            generator=self._generator,
            rows=self._rows,
        )
