"""ImgX-DiffSeg's own training and evaluation steps, in a process and an interpreter of their own.

Run by `imgx.py`, which sends "train" or "sample", one a line, and gets one JSON object each. Of
ImgX runs what it computes with: its configuration, experiment, network, diffusion and pmapped
steps, with its defaults but for those that `compose_config` names. Data loading and augmentation do
not run, so the libraries that only they need are stood in for.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

NUM_CLASSES = 3
DATA_LIBRARIES = (
    "cv2",
    "pandas",
    "PIL",
    "SimpleITK",
    "tensorflow",
    "tensorflow.experimental",
    "tensorflow.experimental.numpy",
    "tensorflow_datasets",
    "tqdm",
)


def compose_config(case: dict[str, Any], strategy: str) -> Any:
    """ImgX's configuration: float32, DDIM, whole images as patches, and the case's sizes."""
    import imgx
    from hydra import compose, initialize_config_dir

    dims = len(case["shape"])
    changes = {
        "half_precision": False,
        "data.name": "bench",
        "data.loader.patch_shape": case["shape"],
        "data.loader.patch_overlap": [0] * dims,
        "data.trainer.batch_size": case["batch"],
        "data.trainer.batch_size_per_replica": case["batch"],
        "task.recycling.use": strategy == "recycling",
        "task.sampler.name": "DDIM",
        "task.model.num_spatial_dims": dims,
        "task.model.patch_size": [2] * dims,
        "task.model.scale_factor": [2] * dims,
        "task.model.num_channels": case["channels"],
        "task.model.out_channels": NUM_CLASSES,
    }
    conf = Path(imgx.__file__).absolute().parent / "conf"
    with initialize_config_dir(str(conf), version_base=None):
        return compose("config", [f"{name}={value}" for name, value in changes.items()])


class ImgX:
    """One case on one device; compiled by XLA at the first call of each kind of work."""

    def __init__(self, case: dict[str, Any], strategy: str) -> None:
        import flax.training.checkpoints  # noqa: F401  (looks for tensorflow, so before it is one)
        import jax
        import numpy as np

        sys.modules.update({name: MagicMock() for name in DATA_LIBRARIES})
        from imgx.datasets import INFO_MAP
        from imgx.datasets.dataset_info import OneHotLabeledDatasetInfo
        from imgx.task.diffusion_segmentation import experiment

        self.jax = jax
        self.compile_seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        shape = tuple(case["shape"])
        INFO_MAP["bench"] = OneHotLabeledDatasetInfo(
            name="bench",
            tfds_preprocessed_dir=Path(),
            image_spacing=(1.0,) * len(shape),
            image_spatial_shape=shape,
            image_channels=1,
            class_names=("first", "second"),
            classes_are_exclusive=True,
        )
        experiment.chain_aug_fns = lambda _: lambda key, batch: batch

        rng = np.random.default_rng(0)
        voxels = (1, case["batch"], *shape)  # devices, batch, image
        self.batch = {
            "image": rng.random((*voxels, 1), dtype=np.float32),
            "label": rng.integers(NUM_CLASSES, size=voxels, dtype=np.int32),
        }
        self.key = jax.random.split(jax.random.PRNGKey(0), 1)
        self.experiment = experiment.DiffusionSegmentationExperiment(compose_config(case, strategy))
        self.state, _ = self.experiment.train_init(self.batch)

    def train(self) -> None:
        """One optimiser step, with the metrics that ImgX computes in it."""
        self.state, _ = self.experiment.train_step(self.state, self.batch, self.key)
        self.jax.block_until_ready(self.state)

    def sample(self) -> None:
        """Five DDIM steps to probabilities."""
        logits = self.experiment.p_eval_step(self.state, self.batch, self.key)
        self.jax.block_until_ready(self.jax.nn.softmax(logits[..., -1]))

    def describe(self) -> dict[str, Any]:
        """Size of the network and where it runs."""
        leaves = self.jax.tree_util.tree_leaves(self.state.params)
        platform = self.jax.local_devices()[0].platform
        return {"parameters": sum(leaf.size for leaf in leaves), "platform": platform}

    def peak_memory_mb(self) -> float:
        """Peak memory since `forget_peak`; on a GPU of its arrays, since the start."""
        device = self.jax.local_devices()[0].memory_stats()
        return device["peak_bytes_in_use"] / 1e6 if device else peak_resident_mb()

    def _on_duration(self, event: str, seconds: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            self.compile_seconds += seconds


def peak_resident_mb() -> float:
    """Peak resident memory of this process."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").open())
    return int(status["VmHWM"].split()[0]) / 1e3  # given in kB


def forget_peak() -> None:
    """Begin the peak of resident memory anew, from what is in use."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    """Do what each line of the standard input says; tell its time, compilation, peak memory."""
    case, strategy, repository = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to the standard error
    sys.path[0] = repository  # in place of this folder, whose imgx.py is not ImgX
    imgx = ImgX(case, strategy)
    for line in sys.stdin:
        compiled = imgx.compile_seconds
        started = time.perf_counter()
        getattr(imgx, line.strip())()
        reply = {
            "seconds": time.perf_counter() - started,
            "compile_seconds": imgx.compile_seconds,
            "peak_memory_mb": imgx.peak_memory_mb(),
            **imgx.describe(),
        }
        if imgx.compile_seconds > compiled:
            reply["peak_memory_compiling_mb"] = reply.pop("peak_memory_mb")
            forget_peak()
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
