"""The classes of a segmentation, and everything that depends on their kind.

Classes are exclusive (each voxel has one; the first is the background) or overlapping regions (a
voxel may be in several, or in none). A segmentation of C classes has four forms:

- logits or probabilities (C, *S): softmax over exclusive classes, a sigmoid for each region;
- a target: labels (*S) of exclusive classes, or masks (C, *S) of regions, both uint8;
- a label map (*S) uint8 with the values in files; for exclusive classes it equals the target.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recycleseg.files import FileError

# Foreground name -> its label value, or the values of a region.
Labels = dict[str, int | tuple[int, ...]]

# Label values must be below this number, in every operation that counts voxels.
MAX_CLASSES = 4096
# Label maps are written as uint8.
_MAX_VALUES = 256
# A voxel belongs to every region with at least this probability.
_THRESHOLD = 0.5


def probabilities(logits: Tensor, exclusive: bool, dim: int = 1) -> Tensor:
    """Probabilities (float32 at least): softmax over `dim` for exclusive classes, else sigmoid."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.softmax(dim) if exclusive else logits.sigmoid()


def parse_labels(labels: Any, source: str) -> Labels:
    """The foreground of `labels` from a dataset.json (nnU-Net's format).

    Args:
        labels: name -> value, or list of values for a region.
        source: name of their file in messages.

    Returns:
        Name -> value, or sorted values for a region with several.

    Raises:
        FileError: `labels` is not a mapping from names to values, has an "ignore" label or no
            foreground, or has two names for the same voxels.
    """
    if not isinstance(labels, Mapping) or not all(map(_is_entry, labels.values())):
        raise FileError(
            f"{source}: labels: expected name -> value, or name -> list of values for a region, "
            f"from 0 to {MAX_CLASSES - 1}, got {json.dumps(labels, default=str)}"
        )
    if "ignore" in labels:
        raise FileError(f'{source}: labels: expected no "ignore" label (unsupported), got one')
    found: Labels = {}
    for name, entry in labels.items():
        values = _values(entry)
        if values == (0,):
            continue
        value = values if len(values) > 1 else values[0]
        if value in found.values():
            twin = next(other for other, known in found.items() if known == value)
            raise FileError(
                f"{source}: labels: expected one name per structure, got {twin!r} and {name!r} "
                f"for {value}"
            )
        found[str(name)] = value
    if not found:
        raise FileError(f"{source}: labels: expected a foreground label, got only background")
    return found


def max_entropy(labels: Mapping[str, Any]) -> float:
    """Largest possible entropy of a voxel in nats: over exclusive classes, or summed over regions.

    Args:
        labels: as in dataset.json, with or without the background; a list, even of one value,
            means that classes overlap.
    """
    num_foreground = sum(_values(entry) != (0,) for entry in labels.values())
    return num_foreground * math.log(2) if _overlap(labels) else math.log(num_foreground + 1)


@dataclass(frozen=True)
class Classes:
    """The classes of a network.

    Attributes:
        names: one per channel. For exclusive classes the index is the label value, and the first
            name is "background". Regions have no background.
        regions: label values of each overlapping region; None for exclusive classes.
    """

    names: tuple[str, ...]
    regions: tuple[tuple[int, ...], ...] | None = None

    @classmethod
    def of(cls, labels: Any, source: str) -> Classes:
        """The classes of `labels` from a dataset.json; they overlap if one entry is a list.

        Args:
            labels: name -> value, or list of values for a region.
            source: name of their file in messages.

        Raises:
            FileError: an error of `parse_labels`; or "background": 0 is missing; or the values are
                not consecutive or more than 256.
        """
        foreground = {n: _values(entry) for n, entry in parse_labels(labels, source).items()}
        known = sorted({0, *(value for values in foreground.values() for value in values)})
        if labels.get("background") not in (0, [0]):
            raise FileError(
                f'{source}: labels: expected "background": 0, got '
                f"{json.dumps(labels.get('background'))}"
            )
        if known != list(range(len(known))):
            raise FileError(f"{source}: labels: expected consecutive values from 0, got {known}")
        if len(known) > _MAX_VALUES:
            raise FileError(f"{source}: labels: expected at most {_MAX_VALUES}, got {len(known)}")
        if _overlap(labels):
            return cls(tuple(foreground), tuple(foreground.values()))
        return cls(("background", *sorted(foreground, key=lambda name: foreground[name])))

    def __len__(self) -> int:
        """Number of channels C; the background of exclusive classes counts too."""
        return len(self.names)

    @property
    def exclusive(self) -> bool:
        """Whether every voxel has exactly one class."""
        return self.regions is None

    @property
    def values(self) -> range:
        """All values that a label map may hold."""
        if self.regions is None:
            return range(len(self.names))
        return range(1 + max(value for region in self.regions for value in region))

    @property
    def foreground(self) -> Labels:
        """All classes without the background, as from `parse_labels`."""
        if self.regions is None:
            return {name: value for value, name in enumerate(self.names) if value > 0}
        regions = zip(self.names, self.regions, strict=True)
        return {name: region if len(region) > 1 else region[0] for name, region in regions}

    @property
    def labels(self) -> dict[str, Any]:
        """`labels` as in dataset.json."""
        if self.regions is None:
            return {name: value for value, name in enumerate(self.names)}
        return {"background": 0, **dict(zip(self.names, map(list, self.regions), strict=True))}

    def entropy(self, probs: Tensor) -> Tensor:
        """Entropy (*S) in nats of probabilities (C, *S), summed over regions."""
        probs = probs.clamp(0, 1)
        entropy: Tensor = torch.special.entr(probs)
        if not self.exclusive:
            entropy = entropy + torch.special.entr(1 - probs)
        return entropy.sum(0)

    def decide(self, probs: Tensor) -> Tensor:
        """Target of probabilities (C, *S): the most probable class, or regions with 0.5 or more."""
        decided = probs.argmax(0) if self.exclusive else probs >= _THRESHOLD
        return decided.to(torch.uint8)

    def masks(self, label: Tensor) -> Tensor:
        """Masks (C, *S) uint8, one per class, of a label map (*S)."""
        members = self.regions or [(value,) for value in self.values]
        masks = [torch.isin(label, label.new_tensor(values)) for values in members]
        return torch.stack(masks).to(torch.uint8)

    def target(self, label: Tensor) -> Tensor:
        """Target of a label map (*S) uint8."""
        return label if self.exclusive else self.masks(label)

    def label_map(self, target: Tensor) -> Tensor:
        """Label map (*S) uint8 on the CPU, from a target.

        For overlapping regions: if a label value lies in exactly the regions that contain the
        voxel, the voxel gets this value. Then `target` of the result gives the masks back.
        Otherwise the regions are painted in order, those with more label values first, similar to
        nnU-Net's `regions_class_order`. The paint of a region is its first label value that is in
        no later region, or its first label value if there is none.
        """
        target = target.cpu()
        if self.regions is None:
            return target
        masks, regions = target.bool(), self.regions
        order = sorted(range(len(regions)), key=lambda index: -len(regions[index]))
        label = torch.zeros(masks.shape[1:], dtype=torch.uint8)
        for position, index in enumerate(order):
            painted_later = {value for other in order[position + 1 :] for value in regions[other]}
            own = [value for value in regions[index] if value not in painted_later]
            label[masks[index]] = (own or regions[index])[0]
        for value in sorted({value for region in regions for value in region}, reverse=True):
            held = torch.tensor([value in region for region in regions])
            exact = (masks == held.reshape(-1, *[1] * (masks.ndim - 1))).all(0)
            label[exact] = value
        return label


def _is_entry(entry: Any) -> bool:
    values = entry if isinstance(entry, list | tuple) else [entry]
    return bool(values) and all(type(item) is int and 0 <= item < MAX_CLASSES for item in values)


def _overlap(labels: Mapping[str, Any]) -> bool:
    return any(isinstance(entry, list | tuple) for entry in labels.values())


def _values(entry: Any) -> tuple[int, ...]:
    return tuple(sorted(set(entry))) if isinstance(entry, list | tuple) else (entry,)
