"""Plans of data sets of many kinds."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.planning import fingerprints
from tests.planning.fingerprints import (
    ALL,
    BRAIN,
    CROPS,
    GIANT,
    HEART,
    IMAGES,
    PROSTATE,
    TINY,
    TUMOUR,
    WHOLE_BODY,
)
from torch.utils.flop_counter import FlopCounterMode

from recycleseg.models.unet import UNet
from recycleseg.planning.cost import NetworkShape
from recycleseg.planning.description import plan_yaml
from recycleseg.planning.fingerprint import Fingerprint
from recycleseg.planning.planner import GIVEN, PLANNED, TrainingPlan, make_training_plan
from recycleseg.planning.resources import Resources, find_resources, parse_memory, time_of_run
from recycleseg.run.config import load_config
from recycleseg.run.options import ModelConfig

LAPTOP = Resources("cpu", 16 * 2**30, 3600.0, 220e9, 2)
GPU = Resources("cuda", 24 * 2**30, 43200.0, 30e12, 2)


def plan(fingerprint: Fingerprint, resources: Resources = LAPTOP, **given: Any) -> TrainingPlan:
    options = {name.replace("__", "."): value for name, value in given.items()}
    return make_training_plan(fingerprint, resources, options)


def value(made: TrainingPlan, option: str) -> Any:
    (found,) = (choice.value for choice in made.choices if choice.option == option)
    return found


def seen_mm(made: TrainingPlan, fingerprint: Fingerprint) -> Any:
    spacing = value(made, "preprocess.spacing")
    return np.array(made.shape.topology.patch_size) * np.array(spacing)


@pytest.mark.parametrize("resources", [LAPTOP, GPU], ids=["laptop", "gpu"])
@pytest.mark.parametrize("name", ALL)
def test_every_plan_is_a_configuration_whose_network_exists(
    name: str, resources: Resources, tmp_path: Path
) -> None:
    made = plan(ALL[name], resources)
    file = tmp_path / "plan.yaml"
    file.write_text(plan_yaml(made, "a plan"))
    config = load_config(file)
    dims, patch = ALL[name].spatial_dims, made.shape.topology.patch_size
    assert config.patch.size == patch
    with torch.device("meta"):
        network = UNet(dims, 1, 2, **asdict(config.model))
    weights = sum(p.numel() for p in network.parameters())
    small = replace(made.shape, in_channels=3, num_classes=2)
    # Norms and biases are not counted.
    assert small.parameters() == pytest.approx(weights, rel=0.02)
    assert made.peak_bytes <= resources.memory
    assert made.shape.voxels()[-1] <= 1536


def test_what_is_planned_is_listed() -> None:
    fingerprints = [*ALL.values(), replace(WHOLE_BODY, unit="pixels")]
    made = [plan(fingerprint, r) for fingerprint in fingerprints for r in (LAPTOP, GPU)]
    assert {choice.option for one in made for choice in one.choices} == PLANNED


def test_same_input_gives_the_same_plan() -> None:
    assert plan(HEART) == plan(HEART)


def test_a_heart_fits_into_the_patch_and_all_its_slices() -> None:
    made = plan(HEART)
    assert (seen_mm(made, HEART) >= 1.0 * HEART.anatomy).all()
    assert value(made, "model.kernels")[0] == [3, 3, 1]
    assert value(made, "model.scales")[:2] == [[2, 2, 1], [2, 2, 1]]
    assert value(made, "augment.rotation") == [0.0, 0.0, 30.0]
    assert value(made, "augment.zoom") == [0.2, 0.2, 0.0]


@pytest.mark.parametrize("fingerprint", [HEART, PROSTATE, BRAIN, CROPS, TINY])
def test_structures_are_seen(fingerprint: Fingerprint) -> None:
    assert (seen_mm(plan(fingerprint), fingerprint) >= 0.4 * fingerprint.anatomy).all()


def test_voxels_grow_where_a_patch_would_see_little_but_not_without_end() -> None:
    assert value(plan(BRAIN), "preprocess.spacing")[0] > 1.1
    for fingerprint in (WHOLE_BODY, TUMOUR):
        spacing = np.array(value(plan(fingerprint), "preprocess.spacing"))
        assert (spacing <= 3.0 * fingerprint.spacings[0]).all()
    # A GPU has the time for the finest voxels.
    assert value(plan(BRAIN, GPU), "preprocess.spacing") == [1.0, 1.0, 1.0]


def test_small_images_are_taken_whole() -> None:
    made = plan(CROPS)
    assert value(made, "patch.size") == [40, 56, 40]
    assert value(made, "patch.foreground_probability") == 0.0
    assert value(plan(HEART), "patch.foreground_probability") == 0.5


def test_more_time_gives_larger_patches() -> None:
    hours = [plan(HEART, replace(LAPTOP, seconds=3600.0 * h)).shape.flops() for h in (0.25, 1, 4)]
    assert hours == sorted(hours)
    assert hours[0] < hours[2]


def test_memory_limits_the_patch_and_too_little_is_refused() -> None:
    small, large = (plan(BRAIN, replace(GPU, memory=gib * 2**30)) for gib in (4, 40))
    assert small.peak_bytes <= 4 * 2**30
    assert small.shape.voxels()[0] < large.shape.voxels()[0]
    with pytest.raises(ValueError, match=r"memory: expected at least \d+\.\d GiB .* got 0.4 GiB"):
        plan(CROPS, replace(LAPTOP, memory=4 * 2**27 * 3 // 4, process_bytes=2**28))


def test_images_beyond_the_memory_get_larger_voxels() -> None:
    made = plan(GIANT, replace(GPU, memory=3 * 2**30))
    assert value(made, "preprocess.spacing")[0] > 3.0 * 0.05
    assert made.peak_bytes <= 3 * 2**30
    (reason,) = (c.reason for c in made.choices if c.option == "preprocess.spacing")
    assert "memory and time are enough for the largest image" in reason


def test_images_that_take_long_to_sample_get_larger_voxels() -> None:
    short = plan(WHOLE_BODY, replace(LAPTOP, seconds=300.0))
    spacing = np.array(value(short, "preprocess.spacing"))
    assert (spacing > 1.1 * np.array(value(plan(WHOLE_BODY), "preprocess.spacing"))).all()


@pytest.mark.parametrize(
    "given",
    [
        {"model__kernels": ((3, 3, 1), 3, 3)},
        {"model__scales": ((2, 2, 1), 2)},
        {"model__channels": (8, 8, 16)},
    ],
)
def test_number_of_levels_follows_from_any_given_option(given: dict[str, Any]) -> None:
    assert plan(HEART, **given).shape.topology.num_levels == 3


def test_a_gpu_takes_larger_batches_where_they_fit() -> None:
    assert plan(TINY, GPU).batch_size == 8
    assert plan(TINY).batch_size == 2
    assert plan(TINY, GPU, optim__batch_size=1).batch_size == 1


def test_given_options_are_kept_and_planned_around() -> None:
    made = plan(
        HEART,
        patch__size=(64, 64, 8),
        model__channels=(8, 16, 32),
        optim__batch_size=4,
        preprocess__spacing=(2.0, 2.0, 10.0),
    )
    assert made.shape.topology.patch_size == (64, 64, 8)
    assert made.shape.channels == (8, 16, 32)
    assert len(value(made, "model.scales")) == 2
    assert made.batch_size == 4
    given = {choice.option for choice in made.choices if choice.reason == GIVEN}
    assert given == {"patch.size", "model.channels", "optim.batch_size", "preprocess.spacing"}


def test_null_takes_the_patch_of_the_options() -> None:
    made = plan(CROPS, patch__size=None, patch__max_voxels=8**3)
    assert made.shape.topology.patch_size == (8, 8, 8)
    assert value(plan(IMAGES, preprocess__shape=None), "preprocess.spacing") != "native"


def test_given_factors_and_kernels_count_in_the_costs() -> None:
    kept = plan(
        CROPS, model__channels=(8, 16, 32), model__scales=((3, 3, 1), 2), model__kernels=(1, 3, 3)
    )
    topology = kept.shape.topology
    assert topology.scales == ((3, 3, 1), (2, 2, 2))
    assert topology.kernels == ((1, 1, 1), (3, 3, 3), (3, 3, 3))
    assert all(n % f == 0 for n, f in zip(topology.patch_size, (6, 6, 2), strict=True))


@pytest.mark.parametrize(
    ("data", "given", "message"),
    [
        (CROPS, {"patch__size": (16, 16)}, r"patch\.size: expected 3 values for 3D data, got"),
        (IMAGES, {"preprocess__spacing": (1.0,) * 3}, r"preprocess\.spacing: expected 2 values"),
        (IMAGES, {"augment__rotation": (9.0,) * 3}, r"augment\.rotation: expected 1 value for 2D"),
        (CROPS, {"augment__flip": (True, False)}, r"augment\.flip: expected 3 values for 3D"),
        (CROPS, {"model__scales": ((2, 2), 2)}, r"model\.scales: expected 3 values per entry"),
        (
            IMAGES,
            {"model__kernels": ((3, 3, 1), 3), "init_from": "runs/first"},
            "init_from: expected a run on 2D images, got runs/first with model.kernels",
        ),
    ],
)
def test_options_for_data_of_other_axes_are_refused(
    data: Fingerprint, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan(data, **given)


def test_few_slices_are_not_turned_out_of_the_patch() -> None:
    stack = fingerprints.fingerprint((1, 1, 1), (32, 32, 6), (12, 12, 4))
    assert value(plan(stack), "augment.rotation") == [0.0, 0.0, 30.0]
    assert value(plan(stack), "augment.zoom") == [0.2, 0.2, 0.0]
    assert value(plan(CROPS), "augment.rotation") == 20.0


def test_the_average_looks_back_over_given_steps() -> None:
    assert value(plan(CROPS, optim__steps=100), "optim.ema_decay") == 0.98


def test_images_without_size_are_not_resampled_by_spacing() -> None:
    pixels = replace(IMAGES, spacings=np.ones_like(IMAGES.spacings), unit="pixels")
    small = replace(pixels, extents=np.full_like(IMAGES.extents, 100.0))
    assert value(plan(small), "preprocess.spacing") == "native"
    large = replace(pixels, extents=np.full_like(IMAGES.extents, 450.0))
    shape = value(short := plan(large, replace(LAPTOP, seconds=600.0)), "preprocess.shape")
    assert shape == value(short, "patch.size")
    assert shape[0] < 512


def test_images_are_mirrored_unless_a_class_has_a_side() -> None:
    assert value(plan(IMAGES), "augment.flip") == [False, True]
    for name in ("Left lung", "kidney_R", "l-atrium"):
        sided = replace(IMAGES, class_names=("background", name))
        assert value(plan(sided), "augment.flip") == [False, False]
    for name in ("label_1", "tumour_large", "small_round"):
        other = replace(IMAGES, class_names=("background", name))
        assert value(plan(other), "augment.flip") == [False, True]


def test_channels_are_normalised_by_their_names() -> None:
    names = replace(CROPS, channel_names=("CT", "PET", "noNorm"))
    assert value(plan(names), "preprocess.intensity") == ["ct", "percentile", "none"]


def test_every_choice_has_a_reason() -> None:
    assert all(choice.reason for choice in plan(HEART).choices)


def test_file_of_a_plan_can_be_read_and_shows_the_reasons() -> None:
    made = plan(HEART)
    text = plan_yaml(made, "Plan for hearts")
    assert text.startswith("# Plan for hearts\n")
    content = yaml.safe_load(text)
    for choice in made.choices:
        group, name = choice.option.split(".")
        assert content[group][name] == choice.value
        assert choice.reason in text


def test_operations_are_those_of_the_network() -> None:
    model = ModelConfig(
        channels=(8, 16, 32), num_res_blocks=1, scales=((2, 2, 1), 2), kernels=((3, 3, 1), 3, 3)
    )
    patch = (16, 24, 8)
    network = UNet(3, 1, 3, **asdict(model)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(2, 1, *patch), torch.zeros(2, 3, *patch), torch.ones(2))
    shape = NetworkShape.of_model(model, patch, 4, 3)
    # Only what is counted per voxel and token is in the estimate.
    assert shape.flops() == pytest.approx(counter.get_total_flops() / 2, rel=0.02)


def test_resources_of_this_machine() -> None:
    found = find_resources("cpu", "float32", threads=3, time="30m", memory="8G")
    assert (found.device, found.memory, found.seconds) == ("cpu", 8 * 2**30, 1800.0)
    assert found.bytes_per_value == 4
    twice = find_resources("cpu", "float32", threads=6)
    assert twice.flops == 2 * found.flops
    assert twice.seconds == 3600.0
    assert 2**28 < twice.memory < 2**50


def test_time_and_memory_as_people_write_them() -> None:
    assert time_of_run("1.5h", "cpu") == 5400.0
    assert time_of_run(None, "cuda") == 12 * 3600.0
    assert parse_memory("900M") == 900 * 2**20
    assert parse_memory("1.5 GiB") == math.floor(1.5 * 2**30)
    for wrong in ("8", "0G", "8T", "much"):
        with pytest.raises(ValueError, match="memory: expected a size such as 900M or 8G, got"):
            parse_memory(wrong)
