"""Search for the largest patch and network that memory and time allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recycleseg.models.unet import one_per_level_and_axis
from recycleseg.planning.cost import NetworkShape
from recycleseg.planning.fingerprint import Fingerprint, Floats
from recycleseg.planning.grid import Grid, at_shape, at_spacing, thick_axis
from recycleseg.planning.memory import peak_bytes, training_bytes
from recycleseg.planning.resources import Resources, time_of_run
from recycleseg.planning.topology import MAX_TOKENS, MIN_EDGE, make_topology
from recycleseg.run.factory import choose_patch_size
from recycleseg.run.options import PatchConfig
from recycleseg.sampling.windows import num_windows

# Patch and network are made for so many optimiser steps in the usual time, because fewer leave a
# network half trained. With more time both the number of steps and their size grow, as its root.
_USUAL_STEPS = {"cpu": 2000, "cuda": 20_000}
# Forward passes that one training step costs: one without gradient (recycling's first prediction),
# one with, and the backward pass, which costs two.
_PASSES_PER_STEP = 4
# The rest of the time is for validations and the table at the end.
_TRAINING_SHARE = 0.8
# Width at the first level and residual blocks per level, the best first.
_WIDTHS = {"cpu": ((32, 2), (32, 1), (16, 1)), "cuda": ((32, 2), (32, 1))}
_WIDEST = 8  # times the width of the first level
_LEVELS = range(1, 6)
_BATCH_SIZE = {2: 8, 3: 2}
# A GPU computes larger batches faster; on a CPU more steps with small batches are better.
_LARGEST_BATCH = {2: 32, 3: 8}
# A patch shows the structures and what is around them.
_MARGIN = 1.3
# If a patch shows less than this share of the structures' size along some axis, a coarser grid is
# better, up to a limit.
_SEEN_SHARE = 0.4
_COARSER = 1.15
_COARSEST = 3.0
# So much of the size across thick slices counts when a patch is cut.
_SLICES_COUNT = 0.7
USUAL_OVERLAP = 0.5
# With more windows than this, sampling an image on a CPU takes a large part of a run's time.
_MANY_WINDOWS = 12
# Images whose sampling takes more than this share of a run's time get larger voxels.
_SAMPLING_SHARE = 0.03
_SAMPLING_STEPS = 5
# Axes of images that are resized to one shape change together, in steps of this factor.
_SMALLER = 0.95


def num_levels(given: Mapping[str, Any]) -> int | None:
    """Levels of the network that given options ask for; None if they leave it open."""
    for option, more in (("channels", 0), ("kernels", 0), ("scales", 1)):
        entries = given.get(f"model.{option}")
        if isinstance(entries, Sequence):
            return len(entries) + more
    return None


@dataclass(frozen=True)
class Draft:
    """A grid, and what fits on it.

    Attributes:
        fingerprint: of the training cases.
        resources: what the run may use.
        given: options that are decided already.
        grid: the target grid.
        finest: the grid before it was made coarser.
        batch_size: patches per pass of each process.
    """

    fingerprint: Fingerprint
    resources: Resources
    given: Mapping[str, Any]
    grid: Grid
    finest: Grid
    batch_size: int

    @classmethod
    def of(
        cls, fingerprint: Fingerprint, resources: Resources, given: Mapping[str, Any], grid: Grid
    ) -> Draft:
        """The first draft on a grid."""
        whole = int(given.get("optim.batch_size", _BATCH_SIZE[fingerprint.spatial_dims]))
        batch_size = math.ceil(whole / resources.processes)
        return cls(fingerprint, resources, given, grid, grid, batch_size)

    @property
    def num_steps(self) -> int:
        """Optimiser steps for which patch and network are made."""
        used = self.resources
        usual = time_of_run(None, used.device)
        return round(_USUAL_STEPS[used.device] * math.sqrt(used.seconds / usual))

    @property
    def flops_per_pass(self) -> float:
        """Operations that one forward pass of one patch may take."""
        used = self.resources
        passes = _PASSES_PER_STEP * self.batch_size * self.num_steps
        return _TRAINING_SHARE * used.seconds * used.flops / passes

    def network(self, patch_size: Floats, width: int, blocks: int) -> NetworkShape:
        """The network of a width on a patch; its levels follow from the patch."""
        fingerprint, given = self.fingerprint, self.given
        number = num_levels(given)
        levels = _LEVELS if number is None else range(number, number + 1)
        topology = make_topology(patch_size.tolist(), self.grid.spacing.tolist(), levels)
        if given_levels := {
            option: one_per_level_and_axis(
                f"model.{option}", given[f"model.{option}"], count, len(patch_size)
            )
            for option, count in (
                ("kernels", topology.num_levels),
                ("scales", topology.num_levels - 1),
            )
            if f"model.{option}" in given
        }:
            asked = tuple(math.ceil(n) for n in patch_size)
            topology = replace(topology, patch_size=asked, **given_levels).rounded()
        channels = [width * min(2**level, _WIDEST) for level in range(topology.num_levels)]
        classes = len(fingerprint.class_names)
        return NetworkShape(
            topology,
            tuple(given.get("model.channels", channels)),
            int(given.get("model.num_res_blocks", blocks)),
            int(given.get("model.num_heads", 8)),
            len(fingerprint.channel_names) + classes,
            classes,
        )

    def bytes_of(self, shape: NetworkShape) -> int:
        """Expected peak memory of the run, with its process on a CPU."""
        used = self.resources
        images = np.ceil(self.fingerprint.sizes / self.grid.spacing)
        of_run = peak_bytes(shape, self.batch_size, used.bytes_per_value, images, used.device)
        return used.process_bytes + of_run

    def limit(self, shape: NetworkShape) -> str:
        """What a patch exceeds, "time" or "memory"; "" if it fits."""
        if shape.flops() > self.flops_per_pass or shape.voxels()[-1] > MAX_TOKENS:
            return "time"
        used = self.resources
        training = training_bytes(shape, self.batch_size, used.bytes_per_value)
        return "memory" if used.process_bytes + training > used.memory else ""

    def overlap(self, patch_size: Sequence[int]) -> float:
        """How much windows overlap: less on a CPU if an image has many of them."""
        many = self.num_windows(patch_size, USUAL_OVERLAP) > _MANY_WINDOWS
        return 0.25 if self.resources.device == "cpu" and many else USUAL_OVERLAP

    def num_windows(self, patch_size: Sequence[int], overlap: float) -> int:
        """Windows of an image of median size."""
        return num_windows(self.grid.shape.astype(int).tolist(), patch_size, overlap)

    def with_larger_batch(self, shape: NetworkShape) -> Draft:
        """The same with the largest batch that fits beside this patch, on a GPU."""
        draft = self
        if self.resources.device == "cuda" and "optim.batch_size" not in self.given:
            while draft.batch_size < _LARGEST_BATCH[self.fingerprint.spatial_dims]:
                larger = replace(draft, batch_size=2 * draft.batch_size)
                if larger.limit(shape) or larger.bytes_of(shape) > self.resources.memory:
                    break
                draft = larger
        return draft

    def widest_that_trains(self) -> tuple[int, int]:
        """Width and residual blocks with which a patch that shows the structures fits."""
        wanted = np.minimum(self.grid.shape, _MARGIN * self.fingerprint.anatomy / self.grid.spacing)
        if self.grid.resized:
            wanted = self.grid.shape / 2
        widths = _WIDTHS[self.resources.device]
        fitting = (w for w in widths if not self.limit(self.network(wanted, *w)))
        return next(fitting, widths[-1])

    def largest_patch(self, width: int, blocks: int) -> tuple[NetworkShape, str]:
        """The largest patch up to a whole image, and what limits it ("" for a whole image).

        The axis along which the patch is largest beside the structures is cut first.
        """
        if "patch.size" in self.given:
            return self.network(self._given_patch(), width, blocks), ""
        size, limited_by = self.grid.shape.copy(), ""
        while True:
            shape = self.network(size, width, blocks)
            if not (limit := self.limit(shape)):
                return shape, limited_by
            smaller = self._cut(shape)
            if smaller is None:
                return shape, limit
            size, limited_by = smaller, limit

    def _given_patch(self) -> Floats:
        """The patch that the user gives, or that of `PatchConfig` for null."""
        options = ("size", "max_voxels")
        asked = {n: self.given[f"patch.{n}"] for n in options if f"patch.{n}" in self.given}
        median = self.grid.shape.astype(int).tolist()
        return np.array(choose_patch_size(PatchConfig(**asked), median), dtype=np.float64)

    def _cut(self, shape: NetworkShape) -> Floats | None:
        """A smaller patch; None if there is none."""
        size = np.array(shape.topology.patch_size, dtype=np.float64)
        factors = np.array(shape.topology.factors)
        seen = size * self.grid.spacing / self.fingerprint.anatomy
        if (thick := thick_axis(self.grid.spacing)) is not None:
            seen[thick] *= _SLICES_COUNT  # slices are few, and one more costs little
        seen[size - factors < min(MIN_EDGE, size.min())] = 0
        if not seen.any():
            return None
        axis = int(np.argmax(seen))
        size[axis] -= factors[axis]
        return size

    def sees_too_little(self, shape: NetworkShape) -> bool:
        """Whether the patch shows only a part of the structures."""
        size = np.array(shape.topology.patch_size) * self.grid.spacing
        images = np.median(self.fingerprint.sizes, axis=0)
        wanted = _SEEN_SHARE * np.minimum(self.fingerprint.anatomy, images)
        return bool((size < wanted).any())

    def images_are_too_large(self, shape: NetworkShape) -> bool:
        """Whether sampling the largest image takes more memory than there is, or too much time."""
        used = self.resources
        images = np.ceil(self.fingerprint.sizes / self.grid.spacing).astype(int).tolist()
        patch = shape.topology.patch_size
        windows = max(num_windows(image, patch, self.overlap(patch)) for image in images)
        seconds = _SAMPLING_STEPS * windows * shape.flops() / used.flops
        if seconds > _SAMPLING_SHARE * used.seconds:
            return True
        return self.bytes_of(shape) > used.memory and not self.limit(shape)

    def coarser(self) -> Draft | None:
        """The same with larger voxels; None if there is no such grid."""
        grid, finest = self.grid, self.finest
        smallest = grid.shape.max() <= 2 * MIN_EDGE
        if grid.resized or self.fingerprint.unit == "pixels" or smallest:
            return None
        spacing = grid.spacing.copy()
        spacing[spacing < 2 * spacing.min()] *= _COARSER
        times = float((spacing / finest.spacing).max())
        reason = f"{finest.reason}, {times:.1f} times as large so that "
        if times > _COARSEST:
            reason += "memory and time are enough for the largest image"
        else:
            reason += "a patch shows more of the structures"
        return replace(self, grid=at_spacing(self.fingerprint, spacing, reason))

    @property
    def is_coarsest(self) -> bool:
        """Whether the voxels are as large as they may be to see more."""
        return bool((self.grid.spacing * _COARSER > _COARSEST * self.finest.spacing).any())

    def resized_to(self, width: int, blocks: int) -> Draft:
        """The same with the largest shape to which all images can be resized."""
        size = self.grid.shape
        while self.limit(self.network(size, width, blocks)) and size.min() > 2 * MIN_EDGE:
            size = size * _SMALLER
        shape = self.network(size, width, blocks).topology.patch_size
        return replace(self, grid=at_shape(self.fingerprint, np.array(shape), self.grid.reason))
