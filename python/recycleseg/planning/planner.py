"""Grid, patch, network and batch for a data set, each with the reason in plain words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recycleseg.data.intensity import normalisation_of
from recycleseg.planning.cost import NetworkShape
from recycleseg.planning.draft import USUAL_OVERLAP, Draft
from recycleseg.planning.fingerprint import Fingerprint, Floats
from recycleseg.planning.grid import Grid, at_shape, at_spacing, choose_grid, thick_axis
from recycleseg.planning.resources import Resources

GIVEN = "given"
# A patch of this share of the image or more meets the structures wherever it lies.
_WHOLE = 0.7
# Why a channel is normalised as it is.
_INTENSITIES = {
    "ct": "Hounsfield units mean the same in every scan, so one window for all",
    "percentile": "its scale differs between scans, so each by its own percentiles",
    "none": "its name asks for no change",
}
# Options with one value per axis.
_PER_AXIS = (
    *("preprocess.spacing", "preprocess.shape", "patch.size"),
    *("augment.zoom", "augment.shift", "augment.flip"),
)
# In names of classes that a mirrored image would make wrong.
_SIDES = re.compile(r"left|right|(?<![a-z])[lr](?![a-z])", re.IGNORECASE)

# Options that a plan decides, if they are not given.
PLANNED = frozenset(
    (
        *("preprocess.shape", "preprocess.spacing", "preprocess.intensity"),
        *("patch.size", "patch.foreground_probability", "patch.overlap"),
        *("model.channels", "model.num_res_blocks", "model.scales", "model.kernels"),
        *("optim.batch_size", "optim.steps", "optim.lr_peak", "optim.lr_end", "optim.ema_decay"),
        *("loss.dice", "loss.cross_entropy", "loss.focal", "validation.every"),
        *("augment.rotation", "augment.flip", "augment.zoom"),
    )
)


@dataclass(frozen=True)
class Choice:
    """One planned option.

    Attributes:
        option: its name in `TrainConfig`, with dots between the levels.
        value: plain values, as in YAML.
        reason: why, in words; `GIVEN` if the user decided.
    """

    option: str
    value: Any
    reason: str


@dataclass(frozen=True)
class TrainingPlan:
    """All planned options of a run, and what it will take.

    Attributes:
        choices: the options, in the order in which they were decided.
        shape: the network on its patch.
        batch_size: patches per pass.
        peak_bytes: expected memory of the run, with its process on a CPU.
    """

    choices: tuple[Choice, ...]
    shape: NetworkShape
    batch_size: int
    peak_bytes: int


def make_training_plan(
    fingerprint: Fingerprint, resources: Resources, given: Mapping[str, Any]
) -> TrainingPlan:
    """Plan a run.

    Args:
        fingerprint: of the training cases.
        resources: what the run may use.
        given: options that are decided already, by their dotted names; the plan fits the others to
            them.

    Raises:
        ValueError: an option is for data of another number of axes, or not even the smallest patch
            fits into the memory.
    """
    _check_axes(given, fingerprint.spatial_dims)
    grid = _grid(fingerprint, given)
    draft = Draft.of(fingerprint, resources, given, grid)
    width, blocks = draft.widest_that_trains()
    shape, limited_by = draft.largest_patch(width, blocks)
    if fingerprint.unit == "pixels" and draft.sees_too_little(shape):
        # No voxel size that could become coarser: whole images become smaller.
        reason = "whole images must become smaller, so that a patch shows the structures"
        draft = replace(draft, grid=at_shape(fingerprint, grid.shape, reason))
    if draft.grid.resized and not {"patch.size", "preprocess.shape"} & set(given):
        draft = draft.resized_to(width, blocks)
        shape, limited_by = draft.largest_patch(width, blocks)
    fixed = {"preprocess.spacing", "preprocess.shape"} & set(given)
    while not fixed and (
        (draft.sees_too_little(shape) and not draft.is_coarsest)
        or draft.images_are_too_large(shape)
    ):
        coarser = draft.coarser()
        if coarser is None:
            break
        draft = coarser
        shape, limited_by = draft.largest_patch(*draft.widest_that_trains())
    draft = draft.with_larger_batch(shape)
    needed = draft.bytes_of(shape)
    if needed > resources.memory:
        raise ValueError(
            f"memory: expected at least {needed / 2**30:.1f} GiB for patches of "
            f"{' x '.join(map(str, shape.topology.patch_size))} and images of "
            f"{' x '.join(f'{n:.0f}' for n in draft.grid.shape)} voxels, "
            f"got {resources.memory / 2**30:.1f} GiB"
        )
    choices = [*_data_choices(draft, shape, limited_by), *_network_choices(draft, shape)]
    choices += [*_training_choices(draft, shape.topology.patch_size)]
    return TrainingPlan(
        tuple(
            replace(choice, value=given[choice.option], reason=GIVEN)
            if choice.option in given
            else choice
            for choice in choices
        ),
        shape,
        draft.batch_size,
        needed,
    )


def _check_axes(given: Mapping[str, Any], dims: int) -> None:
    """Refuse options with one value per axis that are for data of another number of axes."""
    counts = dict.fromkeys(_PER_AXIS, dims) | {"augment.rotation": {2: 1, 3: 3}[dims]}
    problems = [
        f"{name}: expected {count} value{'s' * (count > 1)} for {dims}D data, got {list(values)}"
        for name, count in counts.items()
        if isinstance(values := given.get(name), Sequence)
        and not isinstance(values, str)
        and len(values) != count
    ]
    for name in ("model.scales", "model.kernels"):
        entries = given.get(name)
        if not isinstance(entries, Sequence) or all(
            len(entry) == dims for entry in entries if isinstance(entry, Sequence)
        ):
            continue
        if (run := given.get("init_from")) is not None:
            raise ValueError(
                f"init_from: expected a run on {dims}D images, got {run} with {name} {entries}"
            )
        problems.append(f"{name}: expected {dims} values per entry for {dims}D data, got {entries}")
    if problems:
        raise ValueError("; ".join(problems))


def _grid(fingerprint: Fingerprint, given: Mapping[str, Any]) -> Grid:
    shape, spacing = given.get("preprocess.shape"), given.get("preprocess.spacing")
    if shape is not None:
        return at_shape(fingerprint, shape, GIVEN)
    if spacing in ("median", "native"):
        return at_spacing(fingerprint, np.median(fingerprint.spacings, axis=0), GIVEN)
    if spacing is not None:
        return at_spacing(fingerprint, spacing, GIVEN)
    return choose_grid(fingerprint, may_resize="preprocess.shape" not in given)


def _data_choices(draft: Draft, shape: NetworkShape, limited_by: str) -> Iterator[Choice]:
    """Grid, intensities and patch."""
    fingerprint, grid, patch = draft.fingerprint, draft.grid, shape.topology.patch_size
    if grid.resized:
        yield Choice("preprocess.shape", [int(n) for n in grid.shape], grid.reason)
    elif fingerprint.unit == "pixels":
        yield Choice("preprocess.spacing", "native", "the files do not give a voxel size")
    else:
        rounded = [float(f"{size:.6g}") for size in grid.spacing]
        yield Choice("preprocess.spacing", rounded, grid.reason)
    methods = [normalisation_of(name) for name in fingerprint.channel_names]
    pairs = zip(fingerprint.channel_names, methods, strict=True)
    reason = "; ".join(f"{name}: {_INTENSITIES[method]}" for name, method in pairs)
    yield Choice("preprocess.intensity", methods, reason)
    unit = fingerprint.unit
    sides = " x ".join(f"{n * size:.0f}" for n, size in zip(patch, grid.spacing, strict=True))
    structures = " x ".join(f"{size:.0f}" for size in fingerprint.anatomy)
    if limited_by:
        reason = f"{sides} {unit}, structures are {structures}; {limited_by} allows no more"
    else:
        reason = f"{sides} {unit}: a whole image of median size"
    yield Choice("patch.size", list(patch), reason)
    share = math.prod(np.minimum(np.array(patch) / grid.shape, 1).tolist())
    if share >= _WHOLE:
        yield Choice("patch.foreground_probability", 0.0, "a patch is (nearly) a whole image")
    else:
        reason = f"a patch is {share:.0%} of an image: half of them must show a structure"
        yield Choice("patch.foreground_probability", 0.5, reason)
    overlap = draft.overlap(patch)
    more, fewer = (draft.num_windows(patch, share) for share in (USUAL_OVERLAP, overlap))
    if fewer < more:
        reason = f"makes {fewer} windows of an image; half would make {more}"
        yield Choice("patch.overlap", overlap, reason)


def _network_choices(draft: Draft, shape: NetworkShape) -> Iterator[Choice]:
    """Levels, kernels and width of the network, and the batch."""
    topology, used = shape.topology, draft.resources
    bottom = " x ".join(map(str, topology.sizes()[-1]))
    reason = f"{topology.num_levels} levels, the lowest has {bottom} voxels"
    yield Choice("model.channels", list(shape.channels), reason)
    blocks = "time allows more than one" if shape.num_res_blocks > 1 else "time allows no more"
    yield Choice("model.num_res_blocks", shape.num_res_blocks, blocks)
    thick = thick_axis(draft.grid.spacing)
    if thick is None and all(len(set(scale)) == 1 for scale in topology.scales):
        reason = "voxels and patch have about equal sides"
    else:
        reason = "an axis is halved while its voxels are short and the patch has 8 of them"
    yield Choice("model.scales", [list(scale) for scale in topology.scales], reason)
    flat = sum(1 in kernel for kernel in topology.kernels)
    reason = (
        "an axis of one voxel has no neighbours"
        if 1 in topology.patch_size
        else f"slices are thick: {flat} of the levels see each slice alone"
        if flat
        else "neighbours along all axes are near"
    )
    yield Choice("model.kernels", [list(kernel) for kernel in topology.kernels], reason)
    gigabytes = draft.bytes_of(shape) / 2**30
    reason = f"the run takes about {gigabytes:.1f} GiB of {used.memory / 2**30:.1f}"
    if used.processes > 1:
        reason = f"{draft.batch_size} for each of {used.processes} processes: {reason}"
    yield Choice("optim.batch_size", draft.batch_size * used.processes, reason)


def _training_choices(draft: Draft, patch: Sequence[int]) -> Iterator[Choice]:
    """Loss, augmentation and learning rate: the same for all data but for sides and slices."""
    fingerprint, grid = draft.fingerprint, draft.grid
    yield Choice("optim.steps", 0, "as many as fit into the time, measured at the start")
    yield Choice("validation.every", 0, "four validations, on as many cases as fit into the time")
    usual = "good on MR of the hippocampus and on fetal ultrasound"
    yield Choice("optim.lr_peak", 2e-3 if draft.batch_size >= 8 else 1.5e-3, usual)
    yield Choice("optim.lr_end", 1e-5, usual)
    # The average looks back about 1 / (1 - decay) steps.
    steps = draft.given.get("optim.steps") or draft.num_steps
    decay = round(min(max(1 - 4 / steps, 0.98), 0.9995), 4)
    yield Choice("optim.ema_decay", decay, f"averages a quarter of about {steps} steps")
    yield Choice("loss.dice", 1.0, usual)
    yield Choice("loss.cross_entropy", 1.0, usual)
    yield Choice("loss.focal", 0.0, "cross entropy in its place")
    across, slices = _axis_across_slices(grid.spacing, patch)
    if fingerprint.spatial_dims == 2:
        yield Choice("augment.rotation", 30.0, usual)
        sided = any(map(_SIDES.search, fingerprint.class_names))
        reason = "class names tell left and right" if sided else "no class tells left from right"
        yield Choice("augment.flip", [False, not sided], reason)
    elif across is None:
        yield Choice("augment.rotation", 20.0, usual)
    else:
        # Rotation j is in the plane across axis j.
        angles = [30.0 if axis == across else 0.0 for axis in range(3)]
        yield Choice("augment.rotation", angles, f"{slices}: rotation within them alone")
        zoom = [0.0 if axis == across else 0.2 for axis in range(3)]
        yield Choice("augment.zoom", zoom, f"{slices}: no new slices between them")
        return
    yield Choice("augment.zoom", 0.2, usual)


def _axis_across_slices(spacing: Floats, patch: Sequence[int]) -> tuple[int | None, str]:
    """The axis across slices that must not be mixed, and why not; None if there is none."""
    if (thick := thick_axis(spacing)) is not None:
        return thick, "slices are thick"
    # A rotation would turn most of a thin stack out of the patch.
    flat = thick_axis(1 / (np.array(patch) * spacing))
    return flat, "slices are few"
