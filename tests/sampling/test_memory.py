"""How much memory a prediction holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recycleseg.data.volumes import write_volume
from recycleseg.sampling.memory import (
    SLAB_ELEMENTS,
    auto_window_batch,
    free_memory,
    peak_memory,
    slabs,
    state_dtype,
)

SHAPE, CLASSES = (128, 112, 96), 16
# It runs in a new process, because memory that earlier tests freed would hide new memory.
SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from recycleseg.classes import Classes
from recycleseg.run import factory
from recycleseg.run.config import TrainConfig
from recycleseg.run.options import (
    ModelConfig,
    PatchConfig,
    RuntimeConfig,
    SamplingConfig,
)
from recycleseg.data.intensity import ChannelIntensity
from recycleseg.data.preprocess import Plan
from recycleseg.prediction.model import Model
from recycleseg.prediction.predictor import Predictor

def resident(name):
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if name + ":" in x]
    return int(line.split()[1]) * 1024

path, fusion, classes, spacing = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
plan = Plan(
    ("CT",), Classes(tuple(map(str, range(classes)))), 3,
    tuple(map(float, spacing.split("x"))) if spacing else None, None,
    (ChannelIntensity("ct", -100.0, 100.0, 0.0, 50.0),),
)
config = TrainConfig(
    model=ModelConfig(channels=(8, 8), num_res_blocks=1, num_heads=2),
    patch=PatchConfig(overlap=0.25),
    sampling=SamplingConfig(fusion=fusion, window_batch=1),
    runtime=RuntimeConfig(device="cpu", precision="float32"),
)
model = Model(config, plan, (24, 24, 24), factory.make_network(config, plan).state_dict())
model.sampler = replace(model.sampler, network=lambda x, t: 2 * x[:, :1] * x[:, 1:])
predictor = Predictor([model])
predictor(sys.argv[5])  # loads what loads at first use
before = resident("VmRSS")
prediction = predictor(path)
print(resident("VmHWM") - before)  # not ru_maxrss, because it includes the parent's memory
print(len(prediction.label.unique()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("spacing", ["", "1.1x1.05x0.95"], ids=["native", "resampled"])
@pytest.mark.parametrize(("fusion", "volumes"), [("trajectory", 1), ("step", 1)])
def test_a_prediction_holds_few_volumes(
    tmp_path: Path, fusion: str, volumes: int, spacing: str
) -> None:
    """It holds state and probabilities of all classes, but not all steps or the file's grid."""
    image = np.random.default_rng(0).normal(0, 50, SHAPE).astype(np.int16)
    write_volume(tmp_path / "scan.nii.gz", image, spacing=(1.0, 1.0, 1.0))
    write_volume(tmp_path / "small.nii.gz", image[:24, :24, :30], spacing=(1.0, 1.0, 1.0))
    arguments = [tmp_path / "scan.nii.gz", fusion, CLASSES, spacing, tmp_path / "small.nii.gz"]
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    growth, different = map(int, done.stdout.split())
    assert different == CLASSES
    volume = 4 * image.size * CLASSES
    # Image, file, label, slabs and windows together take less than one and a half volumes.
    assert growth < (volumes + 1.5) * volume


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (300, 4000, 900), (3, 2**13, 2**13)])
def test_slabs_are_small_and_miss_nothing(shape: tuple[int, ...]) -> None:
    for channels in (1, 5):
        found = list(slabs(shape, channels))
        assert [row for rows in found for row in range(rows.start, rows.stop)] == [*range(shape[0])]
        of_row = channels * int(np.prod(shape[1:]))
        assert all(
            rows.stop - rows.start == 1 or (rows.stop - rows.start) * of_row <= SLAB_ELEMENTS
            for rows in found
        )


def test_a_large_state_in_main_memory_is_of_half_the_size() -> None:
    cpu, of_2_gib = torch.device("cpu"), 2**29
    assert state_dtype(of_2_gib, cpu) == torch.float32
    assert state_dtype(of_2_gib + 1, cpu) == torch.float16
    assert state_dtype(2**40, torch.device("cuda")) == torch.float32


def test_window_batch_goes_by_patch_channels_and_memory() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    plenty = 2**40
    assert auto_window_batch((128, 128, 128), 32, cpu, plenty) == 1
    assert auto_window_batch((32, 32, 32), 32, cpu, plenty) == 4
    assert auto_window_batch((16, 16), 32, cpu, plenty) == 32
    assert auto_window_batch((64, 64, 64), 32, gpu, plenty) == 8
    # Here a window takes 6 MB per feature.
    assert auto_window_batch((64, 64, 64), 32, gpu, 2**30) == 1
    assert auto_window_batch((64, 64, 64), 8, gpu, 2**30) == 4
    assert auto_window_batch((512, 512, 512), 64, gpu, 0) == 1
    assert 2**20 < free_memory(cpu) < 2**50


def test_peak_memory_is_of_this_process() -> None:
    before = peak_memory()
    assert 2**24 < before < 2**40  # an interpreter with torch
    size = before + 2**26
    held = np.ones(size, np.uint8)  # not zeros, because unused zeros take no memory
    assert size <= peak_memory() < 2 * size + before
    del held
    assert peak_memory() >= size
