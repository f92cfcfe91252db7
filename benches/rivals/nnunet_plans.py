"""What nnU-Net's planners make of the data sets in `fingerprints`."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from fingerprints import FINGERPRINTS

# By their names in nnU-Net; the second is what it recommends for a GPU of 8 to 12 GB.
PLANNERS = ("ExperimentPlanner", "nnUNetPlannerResEncM")
CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")
# nnU-Net's PNG reader gives every pixel this size, whatever the file says.
_PIXEL = [999, 1, 1]


def plan_all(gpu_memory: float) -> dict[str, Any]:
    """What nnU-Net plans for a GPU with so many GB.

    Returns:
        Name -> planner -> configuration -> plan, with axes in the order of `fingerprints`.
    """
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        raw, preprocessed = Path(folder, "raw"), Path(folder, "preprocessed")
        os.environ |= {"nnUNet_raw": str(raw), "nnUNet_preprocessed": str(preprocessed)}
        found = {}
        for number, (name, facts) in enumerate(FINGERPRINTS.items(), start=1):
            dataset = f"Dataset{number:03d}_{name.replace(' ', '_')}"
            for root, file, content in (
                (raw, "dataset.json", _description(facts)),
                (preprocessed, "dataset_fingerprint.json", _fingerprint(facts)),
            ):
                (root / dataset).mkdir(parents=True)
                (root / dataset / file).write_text(json.dumps(content), encoding="utf-8")
            found[name] = {planner: _plan(number, planner, gpu_memory) for planner in PLANNERS}
        return found


def _plan(number: int, planner: str, gpu_memory: float) -> dict[str, Any]:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments

    identifier = plan_experiments([number], planner, gpu_memory_target_in_gb=gpu_memory)
    folder = next(Path(os.environ["nnUNet_preprocessed"]).glob(f"Dataset{number:03d}_*"))
    plans = json.loads((folder / f"{identifier}.json").read_text(encoding="utf-8"))
    backward = plans["transpose_backward"]
    return {
        name: _configuration(plans["configurations"][name], backward)
        for name in CONFIGURATIONS
        if name in plans["configurations"]
    }


def _configuration(plan: dict[str, Any], backward: list[int]) -> dict[str, Any]:
    """The numbers of a configuration, with axes x, y(, z); nnU-Net has z, y, x, and transposes."""

    def ours(values: list[Any]) -> list[Any]:
        upright = [values[axis] for axis in backward] if len(values) == 3 else values
        return upright[::-1]

    network = plan["architecture"]["arch_kwargs"]
    return {
        "spacing": ours(plan["spacing"]),
        "median_shape": ours(plan["median_image_size_in_voxels"]),
        "patch": ours(plan["patch_size"]),
        "batch": plan["batch_size"],
        "stages": network["n_stages"],
        "features": network["features_per_stage"],
        "kernels": [ours(kernel) for kernel in network["kernel_sizes"]],
        "strides": [ours(stride) for stride in network["strides"]],
    }


def _description(facts: dict[str, Any]) -> dict[str, Any]:
    """dataset.json; the planner opens no image, because the reader is named."""
    flat = len(facts["shapes"][0]) == 2
    ending = ".png" if flat else ".nii.gz"
    case = {"images": [f"imagesTr/case_0000{ending}"], "label": f"labelsTr/case{ending}"}
    return {
        "channel_names": {str(n): channel for n, channel in enumerate(facts["channels"])},
        "labels": {
            "background": 0,
            **{f"class {n}": n for n in range(1, facts["num_classes"])},
        },
        "numTraining": len(facts["shapes"]),
        "file_ending": ending,
        "overwrite_image_reader_writer": "NaturalImage2DIO" if flat else "SimpleITKIO",
        "dataset": {"case": case},
    }


def _fingerprint(facts: dict[str, Any]) -> dict[str, Any]:
    """dataset_fingerprint.json, with axes as nnU-Net's readers give them."""
    shapes, spacings = ([values[::-1] for values in facts[key]] for key in ("shapes", "spacings"))
    if len(shapes[0]) == 2:
        shapes, spacings = [[1, *shape] for shape in shapes], [_PIXEL] * len(shapes)
    # Of intensities, planning only copies what is here.
    intensities = {
        "mean": 0.0,
        "median": 0.0,
        "std": 1.0,
        "min": -3.0,
        "max": 3.0,
        "percentile_99_5": 2.5,
        "percentile_00_5": -2.5,
    }
    return {
        "spacings": spacings,
        "shapes_after_crop": shapes,
        "foreground_intensity_properties_per_channel": {
            str(n): intensities for n in range(len(facts["channels"]))
        },
        "median_relative_size_after_cropping": 1.0,
    }
