"""The expected memory of training beside the real one, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from recycleseg.planning.cost import NetworkShape
from recycleseg.planning.memory import FIRST_STEP_BYTES, peak_bytes, training_bytes
from recycleseg.run.options import ModelConfig

# Two optimiser steps, because the moments of AdamW come with the first.
_TRAIN = """
import json, sys
import torch
from recycleseg.classes import Classes
from recycleseg.data.preprocess import Plan
from recycleseg.diffusion.strategies import make_draws
from recycleseg.run import factory
from recycleseg.run.config import TrainConfig
from recycleseg.run.device import AutocastNetwork
from recycleseg.run.options import LossConfig, ModelConfig, OptimConfig
from recycleseg.sampling.memory import peak_memory, resident_memory
from recycleseg.training.optim import AveragedWeights, clip_and_step, make_optimizer
a = json.loads(sys.argv[1])
torch.set_num_threads(1)
dims, classes, device = len(a["patch"]), a["classes"], torch.device("cpu")
config = TrainConfig(
    model=ModelConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in a["model"].items()}),
    loss=LossConfig(dice=1, focal=0, cross_entropy=1),
)
names = ("background", *(f"class {c}" for c in range(1, classes)))
plan = Plan(("MR",) * a["channels"], Classes(names), dims, (1.0,) * dims, None, ())
before = resident_memory()
network = factory.make_network(config, plan)
forward = AutocastNetwork(network, device, a["precision"])
strategy = factory.make_strategy(config, factory.make_diffusion(config, True), classes)
optimizer, average = make_optimizer(network, OptimConfig()), AveragedWeights(network, 0.99)
draws = make_draws(
    strategy,
    factory.make_timesteps(config),
    torch.Generator().manual_seed(0),
    (a["batch"], classes, *a["patch"]),
)
image = torch.randn(a["batch"], a["channels"], *a["patch"])
label = torch.randint(classes, (a["batch"], *a["patch"]), dtype=torch.uint8)
network.train()
for _ in range(2):
    strategy(forward, image, label, draws).loss.backward()
    clip_and_step(optimizer, 1e-4, 1.0)
    average.update(network)
# Weights, average and moments of the best checkpoint.
loaded = [p.detach().clone() for p in network.parameters() for _ in range(4)]
print(json.dumps([before, peak_memory()]))
"""
SMALL = {"channels": [16, 32, 64, 128], "num_res_blocks": 1}
CASES: dict[str, dict[str, Any]] = {
    "volume": {"patch": [48, 48, 48], "batch": 2, "model": SMALL},
    "many classes": {"patch": [40, 40, 40], "batch": 2, "classes": 16, "model": SMALL},
    "four channels": {"patch": [56, 48, 40], "batch": 2, "channels": 4, "model": SMALL},
    "wide": {"patch": [40, 40, 40], "batch": 1, "model": {"channels": [32, 64, 128, 256]}},
    "thick slices": {
        "patch": [112, 96, 10],
        "batch": 2,
        "model": {
            **SMALL,
            "scales": [[2, 2, 1], [2, 2, 1], [2, 2, 2]],
            "kernels": [[3, 3, 1], [3, 3, 1], [3, 3, 3], [3, 3, 3]],
        },
    },
    "images": {
        "patch": [192, 256],
        "batch": 8,
        "model": {"channels": [16, 32, 64, 128, 128], "num_res_blocks": 1},
    },
}


@pytest.mark.parametrize("name", CASES)
def test_peak_of_training(name: str) -> None:
    case = {"classes": 3, "channels": 1, "precision": "float32", **CASES[name]}
    run = [sys.executable, "-c", _TRAIN, json.dumps(case)]
    told = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    before, measured = json.loads(told)
    model = ModelConfig(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in case["model"].items()}
    )
    inputs = case["channels"] + case["classes"]
    shape = NetworkShape.of_model(model, tuple(case["patch"]), inputs, case["classes"])
    expected = before + FIRST_STEP_BYTES + training_bytes(shape, case["batch"], 4)
    # What the layers' own buffers take is not known better than that.
    assert expected == pytest.approx(measured, rel=0.15)


def test_the_best_checkpoint_comes_in_beside_the_run() -> None:
    """Weights, average and moments twice, where a wide network has a small patch."""
    model = ModelConfig(channels=(64, 128, 256, 512))
    shape = NetworkShape.of_model(model, (16, 16, 16), 4, 3)
    assert peak_bytes(shape, 1, 2, [(16, 16, 16)], "cpu") >= 8 * 4 * shape.parameters()
    assert peak_bytes(shape, 1, 2, [(16, 16, 16)], "cuda") < 7 * 4 * shape.parameters()
