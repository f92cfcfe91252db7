"""What the classes of a segmentation are, and every question whose answer depends on it.

Classes are exclusive (each voxel has one; the first is the background) or overlapping regions (a
voxel may be in several, or in none). A segmentation of C classes comes in four forms:

- logits, or probabilities (C, *S): softmax over exclusive classes, a sigmoid for each region;
- a target: labels (*S) of exclusive classes, masks (C, *S) of regions, both uint8;
- a label map (*S) uint8 of the values that files hold; of exclusive classes it is the target.
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

# Label values are below it, in every operation that counts voxels.
MAX_CLASSES = 4096
# Label maps are written as uint8.
_MAX_VALUES = 256
# A voxel belongs to a region of at least this probability.
_THRESHOLD = 0.5


def probabilities(logits: Tensor, exclusive: bool, dim: int = 1) -> Tensor:
    """Probabilities of logits: softmax over `dim` where classes are exclusive, else sigmoid."""
    return logits.softmax(dim) if exclusive else logits.sigmoid()


def parse_labels(labels: Any, source: str) -> Labels:
    """The foreground of `labels` as dataset.json has them (nnU-Net's format).

    Args:
        labels: name -> value, or list of values of a region.
        source: what messages call the place that they come from.

    Returns:
        Name -> value, or the sorted values of a region that has several.

    Raises:
        FileError: not a mapping from names to values, an "ignore" label, no foreground, or two
            names for the same voxels.
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
    """Greatest entropy of a voxel in nats: over exclusive classes, or summed over regions.

    Args:
        labels: as dataset.json has them, with the background or without; a list, even of one
            value, tells that classes overlap.
    """
    num_foreground = sum(_values(entry) != (0,) for entry in labels.values())
    return num_foreground * math.log(2) if _overlap(labels) else math.log(num_foreground + 1)


@dataclass(frozen=True)
class Classes:
    """The classes that a network tells apart.

    Attributes:
        names: one a channel. Exclusive classes: index = label value, the first is "background";
            regions: without background.
        regions: label values of each overlapping region; None: exclusive classes.
    """

    names: tuple[str, ...]
    regions: tuple[tuple[int, ...], ...] | None = None

    @classmethod
    def of(cls, labels: Any, source: str) -> Classes:
        """From `labels` as dataset.json has them; a list among them tells that classes overlap.

        Raises:
            FileError: as `parse_labels`; no "background": 0; values that are not consecutive, or
                more than 256.
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
        """C, the channels of a mask; with exclusive classes the background is one of them."""
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
        """What `parse_labels` gives: all classes but the background."""
        if self.regions is None:
            return {name: value for value, name in enumerate(self.names) if value > 0}
        regions = zip(self.names, self.regions, strict=True)
        return {name: region if len(region) > 1 else region[0] for name, region in regions}

    @property
    def labels(self) -> dict[str, Any]:
        """`labels` as dataset.json has them."""
        if self.regions is None:
            return {name: value for value, name in enumerate(self.names)}
        return {"background": 0, **dict(zip(self.names, map(list, self.regions), strict=True))}

    def entropy(self, probs: Tensor) -> Tensor:
        """Entropy (*S) in nats of probabilities (C, *S); of regions the sum over them."""
        probs = probs.clamp(0, 1)
        entropy: Tensor = torch.special.entr(probs)
        if not self.exclusive:
            entropy = entropy + torch.special.entr(1 - probs)
        return entropy.sum(0)

    def decide(self, probs: Tensor) -> Tensor:
        """Target of probabilities (C, *S): the most probable class, or the regions of one half."""
        decided = probs.argmax(0) if self.exclusive else probs >= _THRESHOLD
        return decided.to(torch.uint8)

    def masks(self, label: Tensor) -> Tensor:
        """One mask a class, (C, *S) uint8, of a label map (*S)."""
        members = self.regions or [(value,) for value in self.values]
        masks = [torch.isin(label, label.new_tensor(values)) for values in members]
        return torch.stack(masks).to(torch.uint8)

    def target(self, label: Tensor) -> Tensor:
        """Target of a label map (*S) uint8."""
        return label if self.exclusive else self.masks(label)

    def label_map(self, target: Tensor) -> Tensor:
        """Label map (*S) uint8 on the CPU of a target.

        A voxel of overlapping regions takes the label value that lies in just the regions that
        hold it, if there is one: then `target` of the result gives the masks back. Elsewhere
        regions of more label values are painted first and the more specific ones over them, as
        nnU-Net does by its `regions_class_order`; each with its first label value that no region
        painted later holds, or with its first one if there is none.
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
