"""Our plans for the data sets in `fingerprints` beside nnU-Net's, as a Markdown table.

    python benches/plans.py

docs/planning.md shows it. `rivals.nnunet` writes nnU-Net's side, results/nnunet_plans.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fingerprints import FINGERPRINTS

from recycleseg.planning.fingerprint import Fingerprint
from recycleseg.planning.planner import make_training_plan
from recycleseg.planning.resources import Resources

NNUNET_PLANS = Path(__file__).with_name("results") / "nnunet_plans.json"
# As `find_resources` describes a GPU of which 8 GiB are to be used, and two cores with AVX-512.
RESOURCES = {
    "GPU": Resources("cuda", 8 * 2**30, 12 * 3600.0, 30e12, 2),
    "CPU": Resources("cpu", 16 * 2**30, 3600.0, 220e9, 2),
}
_HEADER = ("data", "plan", "voxel", "patch", "patch, mm", "batch", "levels", "channels", "halved")


def fingerprint_of(facts: dict[str, Any]) -> Fingerprint:
    """A made-up data set as our planner takes it."""
    classes = ("background", *(f"class {n}" for n in range(1, facts["num_classes"])))
    return Fingerprint(
        spacings=np.array(facts["spacings"], dtype=np.float64),
        shapes=np.array(facts["shapes"], dtype=np.float64),
        extents=np.array(facts["extents"], dtype=np.float64),
        channel_names=tuple(facts["channels"]),
        class_names=classes,
    )


def our_row(fingerprint: Fingerprint, resources: Resources) -> list[str]:
    """Cells of our plan, from the voxel on; or why there is none."""
    try:
        plan = make_training_plan(fingerprint, resources, {})
    except ValueError as error:
        return [str(error), *[""] * (len(_HEADER) - 3)]
    chosen = {choice.option: choice.value for choice in plan.choices}
    patch, scales = chosen["patch.size"], chosen["model.scales"]
    spacing = chosen.get("preprocess.spacing")
    if spacing is None:
        voxel, size = f"all images {_sides(chosen['preprocess.shape'])}", "varies"
    else:
        voxel, size = _sides(spacing), _size(patch, spacing)
    network = f"{_range(chosen['model.channels'])}, blocks {chosen['model.num_res_blocks']}"
    levels, halved = str(plan.shape.topology.num_levels), _halved(scales, len(patch))
    return [voxel, _sides(patch), size, str(plan.batch_size), levels, network, halved]


def nnunet_row(plan: dict[str, Any]) -> list[str]:
    """Cells of a configuration of nnU-Net, from the voxel on."""
    patch, spacing = plan["patch"], plan["spacing"]
    flat = len(patch) == 2
    return [
        "1x1 (pixels)" if flat else _sides(spacing),
        _sides(patch),
        "varies" if flat else _size(patch, spacing),
        str(plan["batch"]),
        str(plan["stages"]),
        _range(plan["features"]),
        _halved(plan["strides"], len(patch)),
    ]


def rows() -> Iterator[list[str]]:
    """Rows of the table, without the header."""
    theirs = json.loads(NNUNET_PLANS.read_text(encoding="utf-8"))["plans"]
    for name, facts in FINGERPRINTS.items():
        configurations = theirs[name]["ExperimentPlanner"]
        for configuration in ("3d_fullres", "3d_lowres", "2d"):
            # nnU-Net always plans 2D too, but trains it in its place only for images.
            if configuration in configurations and (
                configuration != "2d" or len(configurations) == 1
            ):
                yield [
                    name,
                    f"nnU-Net {configuration}",
                    *nnunet_row(configurations[configuration]),
                ]
        for device, resources in RESOURCES.items():
            yield [name, f"ours, {device}", *our_row(fingerprint_of(facts), resources)]


def _range(channels: list[int]) -> str:
    return f"{min(channels)} to {max(channels)}"


def _sides(values: list[float]) -> str:
    return "x".join(f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in values)


def _size(patch: list[int], spacing: list[float]) -> str:
    return _sides([float(f"{n * mm:.3g}") for n, mm in zip(patch, spacing, strict=True)])


def _halved(scales: list[list[int]], dims: int) -> str:
    """How often each axis is halved."""
    along = zip(*scales, strict=True) if scales else [()] * dims
    return ", ".join(str(round(math.log2(math.prod(factors)))) for factors in along)


def table() -> list[str]:
    """The lines of the table."""
    return [f"| {' | '.join(row)} |" for row in (_HEADER, ["---"] * len(_HEADER), *rows())]


if __name__ == "__main__":
    print("\n".join(table()))
