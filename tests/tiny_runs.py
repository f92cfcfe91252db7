"""Run folders with random weights: what predicting needs of a training, in a moment."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from recycleseg.classes import Classes
from recycleseg.data.intensity import ChannelIntensity
from recycleseg.data.preprocess import Plan
from recycleseg.run import factory
from recycleseg.run.checkpoint import Checkpoint, save_checkpoint
from recycleseg.run.config import TrainConfig
from recycleseg.run.options import (
    ModelConfig,
    PostprocessConfig,
    RuntimeConfig,
    SamplingConfig,
)


def write_tiny_run(
    root: Path,
    *,
    seed: int = 0,
    postprocess: PostprocessConfig = PostprocessConfig(),  # noqa: B008
    **plan_fields: Any,
) -> Path:
    """A recycling run of one channel and three classes in 3D; plan_fields: of `Plan`."""
    fields: dict[str, Any] = {
        "channel_names": ("MRI",),
        "classes": Classes(("background", "a", "b")),
        "spatial_dims": 3,
        "spacing": None,
        "shape": None,
        **plan_fields,
    }
    channels = len(fields["channel_names"])
    plan = Plan(**fields, intensities=(ChannelIntensity("percentile"),) * channels)
    config = TrainConfig(
        seed=seed,
        model=ModelConfig(channels=(8, 8), num_res_blocks=1, num_heads=2),
        sampling=SamplingConfig(num_steps=2, window_batch=2),
        postprocess=postprocess,
        runtime=RuntimeConfig(device="cpu", precision="float32"),
    )
    torch.manual_seed(seed)
    weights = factory.make_network(config, plan).state_dict()
    (root / "checkpoints").mkdir(parents=True)
    (root / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(asdict(config)))))
    patch = {"patch_size": (8,) * plan.spatial_dims}
    (root / "dataset.json").write_text(json.dumps({**plan.to_dict(), **patch}))
    tensors = {f"network/{name}": tensor for name, tensor in weights.items()}
    save_checkpoint(root / "checkpoints" / "best.safetensors", Checkpoint(tensors, {"step": 1}))
    return root
