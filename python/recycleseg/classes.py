"""The classes of a segmentation, and everything that depends on their kind.

Classes are exclusive (each voxel has one; the first is the background) or overlapping regions (a
voxel may be in several, or in none). A segmentation of C classes has four forms:

- logits or probabilities (C, *S): softmax over exclusive classes, a sigmoid for each region;
- a target: labels (*S) of exclusive classes, or masks (C, *S) of regions, both uint8;
- a label map (*S) uint8 with the values in files; for exclusive classes it equals the target.

A data set may have an ignore label: nobody knows the class of its voxels, so they count nowhere. It
is no class. In a target these voxels have the value IGNORED; a prediction never has them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recycleseg.files import FileError, shortened

# Foreground name -> its label value, or the values of a region; IGNORE -> the ignore label.
Labels = dict[str, int | tuple[int, ...]]
# nnU-Net's name of the label whose voxels count nowhere.
IGNORE = "ignore"
# An ignored voxel of a target. No class has this value, because the ignore label is a value too.
IGNORED = 255

# Operations that count the voxels of every class take up to this many.
MAX_CLASSES = 4096
# The values of labels may be far apart, as those of an atlas; maps are read as signed 64 bits.
MAX_LABEL = 2**63 - 1
# Label maps are written as uint8.
_MAX_VALUES = 256
# A voxel belongs to every region with at least this probability.
_THRESHOLD = 0.5


def probabilities(logits: Tensor, exclusive: bool, dim: int = 1) -> Tensor:
    """Probabilities (float32 at least): softmax over `dim` for exclusive classes, else sigmoid."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.softmax(dim) if exclusive else logits.sigmoid()


def parse_labels(labels: Any, source: str) -> Labels:
    """The `labels` of a dataset.json (nnU-Net's format) without the background.

    Args:
        labels: name -> value, or list of values for a region. The name "ignore" stands for voxels
            that count nowhere.
        source: name of their file in messages.

    Returns:
        Name -> value, or sorted values for a region with several.

    Raises:
        FileError: `labels` is not a mapping from names to values, has no foreground or two names
            for the same voxels, or the ignore label is not the highest value.
    """
    if not isinstance(labels, Mapping) or not all(map(_is_entry, labels.values())):
        raise FileError(
            f"{source}: labels: expected name -> value, or name -> list of values for a region, "
            f"from 0 to {MAX_LABEL}, got {json.dumps(labels, default=str)}"
        )
    highest = max((value for entry in labels.values() for value in values_of(entry)), default=0)
    others = [value for n, entry in labels.items() if n != IGNORE for value in values_of(entry)]
    if IGNORE in labels and (labels[IGNORE] != highest or highest in others):
        raise FileError(
            f'{source}: labels: expected "ignore" as the highest value, above '
            f"{max(others, default=0)}, got {json.dumps(labels[IGNORE])}"
        )
    found: Labels = {}
    for name, entry in labels.items():
        values = values_of(entry)
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
    if not set(found) - {IGNORE}:
        raise FileError(f"{source}: labels: expected a foreground label, got only background")
    return found


def values_of(entry: Any) -> tuple[int, ...]:
    """The sorted values of an entry of `labels`: a value, or the values of a region."""
    return tuple(sorted(set(entry))) if isinstance(entry, list | tuple) else (entry,)


def split_ignore(labels: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """All labels but the ignore label, and the ignore label or None."""
    return {n: entry for n, entry in labels.items() if n != IGNORE}, labels.get(IGNORE)


def max_entropy(labels: Mapping[str, Any]) -> float:
    """Largest possible entropy of a voxel in nats: over exclusive classes, or summed over regions.

    Args:
        labels: as in dataset.json, with or without the background.
    """
    labels, _ = split_ignore(labels)
    num_foreground = sum(values_of(entry) != (0,) for entry in labels.values())
    return num_foreground * math.log(2) if _overlap(labels) else math.log(num_foreground + 1)


@dataclass(frozen=True)
class Classes:
    """The classes of a network.

    Attributes:
        names: one per channel. For exclusive classes the index is the label value, and the first
            name is "background". Regions have no background.
        regions: label values of each overlapping region; None for exclusive classes.
        regions_class_order: the label value that each region is painted with, in this order, as in
            nnU-Net; None: see `label_map`.
        ignore_label: value of the voxels in label files that count nowhere; None if there is none.
    """

    names: tuple[str, ...]
    regions: tuple[tuple[int, ...], ...] | None = None
    regions_class_order: tuple[int, ...] | None = None
    ignore_label: int | None = None

    @classmethod
    def of(cls, labels: Any, source: str, regions_class_order: Any = None) -> Classes:
        """The classes of `labels` from a dataset.json; they overlap if an entry has several values.

        Args:
            labels: name -> value, or list of values for a region.
            source: name of their file in messages.
            regions_class_order: of the same file, or None; without regions it is not used.

        Raises:
            FileError: an error of `parse_labels`; or "background": 0 is missing; or the values are
                not consecutive or more than 256; or `regions_class_order` does not fit the regions.
        """
        parsed, ignored = split_ignore(parse_labels(labels, source))
        foreground = {n: values_of(entry) for n, entry in parsed.items()}
        known = sorted({0, *(value for values in foreground.values() for value in values)})
        if labels.get("background") not in (0, [0]):
            raise FileError(
                f'{source}: labels: expected "background": 0, got '
                f"{json.dumps(labels.get('background'))}"
            )
        every = known if ignored is None else [*known, ignored]
        if every != list(range(len(every))):
            moves = [f"{old} by {new}" for new, old in enumerate(every) if old != new]
            raise FileError(
                f"{source}: labels: expected consecutive values from 0, got {every}; replace "
                f"{shortened(moves)} in {source} and in all label files"
            )
        if len(every) > _MAX_VALUES:
            raise FileError(f"{source}: labels: expected at most {_MAX_VALUES}, got {len(every)}")
        if not _overlap(labels):
            names = sorted(foreground, key=lambda name: foreground[name])
            return cls(("background", *names), ignore_label=ignored)
        order = _class_order(regions_class_order, tuple(foreground), known, source)
        return cls(tuple(foreground), tuple(foreground.values()), order, ignored)

    def __len__(self) -> int:
        """Number of channels C; the background of exclusive classes counts too."""
        return len(self.names)

    @property
    def exclusive(self) -> bool:
        """Whether every voxel has exactly one class."""
        return self.regions is None

    @property
    def values(self) -> range:
        """All values that a predicted label map may hold."""
        if self.regions is None:
            return range(len(self.names))
        return range(1 + max(value for region in self.regions for value in region))

    @property
    def values_in_files(self) -> range:
        """All values that a label file may hold: the ignore label too."""
        return self.values if self.ignore_label is None else range(self.ignore_label + 1)

    @property
    def foreground(self) -> Labels:
        """All classes without the background, as from `parse_labels`, without ignore label."""
        if self.regions is None:
            return {name: value for value, name in enumerate(self.names) if value > 0}
        regions = zip(self.names, self.regions, strict=True)
        return {name: region if len(region) > 1 else region[0] for name, region in regions}

    @property
    def labels(self) -> dict[str, Any]:
        """`labels` as in dataset.json."""
        ignore = {} if self.ignore_label is None else {IGNORE: self.ignore_label}
        if self.regions is None:
            return {name: value for value, name in enumerate(self.names)} | ignore
        regions = dict(zip(self.names, map(list, self.regions), strict=True))
        return {"background": 0, **regions, **ignore}

    @property
    def description(self) -> dict[str, Any]:
        """The entries of a dataset.json that tell these classes, from which `of` makes them."""
        order = self.regions_class_order
        entry = {} if order is None else {"regions_class_order": list(order)}
        return {"labels": self.labels, **entry}

    def joined(self, other: Classes) -> Classes | None:
        """These classes with what only `other` knows; None if they contradict each other.

        Painting order and ignore label may be unknown, because a network does not need them.
        """
        mine = replace(
            self,
            regions_class_order=self.regions_class_order or other.regions_class_order,
            ignore_label=other.ignore_label if self.ignore_label is None else self.ignore_label,
        )
        theirs = replace(
            other,
            regions_class_order=other.regions_class_order or mine.regions_class_order,
            ignore_label=mine.ignore_label if other.ignore_label is None else other.ignore_label,
        )
        return mine if mine == theirs else None

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
        """Target of a label map (*S) uint8, which may hold the ignore label."""
        target = label if self.exclusive else self.masks(label)
        if self.ignore_label is None:
            return target
        return target.masked_fill(label == self.ignore_label, IGNORED)

    def split(self, target: Tensor, dim: int = 0) -> tuple[Tensor, Tensor | None]:
        """Separate what a target says from where it says nothing.

        Args:
            target: labels, or masks with the regions along axis `dim`.
            dim: 0, or 1 for a batch.

        Returns:
            The target, in which ignored voxels are background; and the voxels that count, bool of
            the shape of labels, or None if there is no ignore label, so that all count.
        """
        if self.ignore_label is None:
            return target, None
        known = (target if self.exclusive else target.select(dim, 0)) != IGNORED
        return target * (known if self.exclusive else known.unsqueeze(dim)), known

    def label_map(self, target: Tensor) -> Tensor:
        """Label map (*S) uint8 on the CPU, from a target without ignored voxels.

        Overlapping regions are painted one over the other in `regions_class_order`, as nnU-Net
        does. Without it: if a label value lies in exactly the regions that contain the voxel, the
        voxel gets this value. Then `target` of the result gives the masks back. Otherwise the
        regions are painted in order, those with more label values first. The paint of a region is
        its first label value that is in no later region, or its first label value if there is none.
        """
        target = target.cpu()
        if self.regions is None:
            return target
        masks, regions = target.bool(), self.regions
        label = torch.zeros(masks.shape[1:], dtype=torch.uint8)
        if self.regions_class_order is not None:
            for mask, value in zip(masks, self.regions_class_order, strict=True):
                label[mask] = value
            return label
        order = sorted(range(len(regions)), key=lambda index: -len(regions[index]))
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
    return bool(values) and all(type(item) is int and 0 <= item <= MAX_LABEL for item in values)


def _overlap(labels: Mapping[str, Any]) -> bool:
    """Whether classes are regions: as in nnU-Net, a list of one value is that value."""
    return any(len(values_of(entry)) > 1 for entry in labels.values())


def _class_order(
    order: Any, regions: tuple[str, ...], known: list[int], source: str
) -> tuple[int, ...] | None:
    """A checked `regions_class_order`."""
    if order is None:
        return None
    values = order if isinstance(order, list | tuple) else []
    if len(values) != len(regions) or not all(type(v) is int and v in known for v in values):
        raise FileError(
            f"{source}: regions_class_order: expected {len(regions)} label values from 0 to "
            f"{known[-1]}, one for each of {', '.join(regions)}, got {json.dumps(order)}"
        )
    return tuple(values)
