"""Rules that clean a predicted label map: components, holes, the muscle-ultrasound rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import scipy  # loads its modules when they are used
import torch
from torch import Tensor

from recycleseg.classes import Classes, Labels
from recycleseg.ops._arrays import refuse_mask
from recycleseg.run.options import PostprocessConfig

Array = np.ndarray[Any, Any]
_Rule = Callable[[Array], Array]

_FOREGROUND = "foreground"
# Name of all classes together, because one class may have the name "foreground".
_UNION = ""
# The dilation and the opening of the muscle rule move no border farther than this many pixels.
_MUSCLE_MARGIN = 4 + 9


def postprocess(
    label: Array,
    config: PostprocessConfig,
    label_values: Labels,
) -> Array:
    """Clean a label map by the rules of `config`, on its own grid.

    First small components are removed, in all foreground together and then class by class. Then
    holes are filled. Voxels are in one component if they touch at a face, an edge or a corner (8
    neighbours in 2D, 26 in 3D). A hole of a class is a part that the class encloses: every way
    over faces from there to the border of the map goes through the class. Only the background in
    a hole gets the class; other classes stay. If one class lies in another, the holes of the
    inner class are filled first.

    Classes may overlap, as unions of label values. A voxel that leaves or enters a class gets the
    label value that keeps its other classes. If there is no such value, the voxel also leaves (or
    enters) as few other classes as possible. For example, a voxel that leaves a whole leaves its
    parts too.

    Args:
        label: (*S) uint8, 2D or 3D; not changed.
        config: the rules.
        label_values: name of every foreground class -> its label value, or its several values.

    Returns:
        (*S) uint8, a new array.

    Raises:
        ValueError: `label` has another dtype or number of axes, or a rule does not fit it; see
            `check_postprocess`.
    """
    if label.dtype != np.uint8 or label.ndim not in (2, 3):
        raise ValueError(
            f"label: expected uint8 with 2 or 3 axes, got {label.dtype} of shape {label.shape}"
        )
    refuse_mask("label", label)
    check_postprocess(config, tuple(label_values), label.ndim)
    values = {k: (v,) if isinstance(v, int) else tuple(v) for k, v in label_values.items()}
    result = np.array(label)
    margin = _MUSCLE_MARGIN if config.muscle_ultrasound else 0
    boxes = _bounding_boxes(label, values, margin)
    for name, rule in _rules(config, boxes):
        _apply(rule, result[boxes[name]], name, values)
    return result


def cleaned(label: Tensor, config: PostprocessConfig, classes: Classes) -> Tensor:
    """`postprocess` for a tensor (*S) uint8 on the CPU; without rules it stays the same."""
    if not config.has_rules:
        return label
    return torch.from_numpy(postprocess(label.numpy(), config, classes.foreground))


def check_postprocess(
    config: PostprocessConfig, class_names: Sequence[str], spatial_dims: int
) -> None:
    """Check that the rules fit the classes and axes of a data set.

    Args:
        config: the rules.
        class_names: of the foreground.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: a rule does not fit; the message names the option.
    """
    for option, special in (("keep_largest", ("all", _FOREGROUND)), ("fill_holes", ("all",))):
        for name in _as_names(getattr(config, option)):
            if name not in (*special, *class_names):
                known = ", ".join((*special, *class_names))
                raise ValueError(f"postprocess.{option}: expected some of {known}, got {name!r}")
            if name in special and name in class_names and len(class_names) > 1:
                raise ValueError(
                    f"postprocess.{option}: expected names of single classes, got {name!r}, which "
                    "is the name of a class here and of a group of classes"
                )
    if config.muscle_ultrasound and spatial_dims != 2:
        raise ValueError(
            "postprocess.muscle_ultrasound: expected 2D images, because the rule is made for "
            f"them, got {spatial_dims}D"
        )
    if config.muscle_ultrasound and len(class_names) != 1:
        raise ValueError(
            "postprocess.muscle_ultrasound: expected one foreground class, because the rule is "
            f"made for one, got {', '.join(class_names)}"
        )


def _as_names(option: str | tuple[str, ...]) -> tuple[str, ...]:
    return (option,) if isinstance(option, str) else option


def _rules(
    config: PostprocessConfig, boxes: Mapping[str, tuple[slice, ...]]
) -> Iterator[tuple[str, _Rule]]:
    """The rules in their order, each with the name of its class, for the classes in the map.

    Components are removed in outer classes (large boxes) first, so that no class keeps what went
    with a component of its outer class. Holes are filled in inner classes first.
    """
    outer_first = sorted(boxes, key=lambda name: -_volume(boxes[name]))
    chosen = _as_names(config.keep_largest)
    if _FOREGROUND in chosen and boxes:
        yield _UNION, _keep_largest
    outer_first = [name for name in outer_first if name != _UNION]
    yield from ((name, _keep_largest) for name in outer_first if name in chosen or "all" in chosen)
    chosen = _as_names(config.fill_holes)
    inner_first = reversed(outer_first)
    yield from ((name, _fill_holes) for name in inner_first if name in chosen or "all" in chosen)
    if config.muscle_ultrasound:
        yield from ((name, _muscle_ultrasound) for name in outer_first)


def _bounding_boxes(
    label: Array, values: Mapping[str, tuple[int, ...]], margin: int
) -> dict[str, tuple[slice, ...]]:
    """The box around each class and around all classes, with a margin, cut at the map's border."""
    of_value = dict(enumerate(scipy.ndimage.find_objects(label), 1))
    unions = {**values, _UNION: tuple(v for union in values.values() for v in union)}
    boxes = {}
    for name, union in unions.items():
        found = [box for value in union if (box := of_value.get(value)) is not None]
        if found:
            boxes[name] = tuple(
                slice(
                    max(0, min(s.start for s in along) - margin),
                    min(size, max(s.stop for s in along) + margin),
                )
                for size, along in zip(label.shape, zip(*found, strict=True), strict=True)
            )
    return boxes


def _volume(box: tuple[slice, ...]) -> int:
    return math.prod(along.stop - along.start for along in box)


def _apply(rule: _Rule, label: Array, name: str, values: Mapping[str, tuple[int, ...]]) -> None:
    """Apply a rule to the mask of a class, and write the change to the label map in place."""
    inside, leaving, entering = _tables(name, values)
    before = inside[label]
    after = rule(before)
    for changed, table in ((before & ~after, leaving), (after & ~before, entering)):
        label[changed] = table[label[changed]]


def _tables(name: str, values: Mapping[str, tuple[int, ...]]) -> tuple[Array, Array, Array]:
    """Three tables by label value: is it in the class; its value outside; its value inside."""
    known = {0, *(value for union in values.values() for value in union)}
    classes = {v: {n for n, union in values.items() if v in union} for v in sorted(known)}
    inside = np.zeros(256, bool)
    leaving, entering = np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8)
    for value, its in classes.items():
        inside[value] = name in its or (name == _UNION and value > 0)
        rest = its - {name} if name != _UNION else set()
        # `fewer` is never empty, because the background is in no class.
        fewer = [v for v, other in classes.items() if other <= rest]
        more = [v for v, other in classes.items() if other >= its | {name}]
        leaving[value] = max(fewer, key=lambda v: len(classes[v]))
        entering[value] = min(more, key=lambda v: len(classes[v]), default=value)
    return inside, leaving, entering


def _keep_largest(mask: Array) -> Array:
    components, _ = scipy.ndimage.label(mask, np.ones((3,) * mask.ndim))
    largest = np.bincount(components[mask], minlength=1).argmax()
    return np.asarray(mask & (components == largest))


def _fill_holes(mask: Array) -> Array:
    # Faster than scipy.ndimage.binary_fill_holes, which dilates the outside step by step.
    outside, number = scipy.ndimage.label(~mask)
    filled = np.ones(number + 1, bool)
    for axis in range(mask.ndim):
        for end in (0, -1):
            filled[outside.take(end, axis)] = False
    filled[0] = True
    return np.asarray(filled[outside])


def _muscle_ultrasound(mask: Array) -> Array:
    """The rule of the transverse musculoskeletal ultrasound data (row 0 is at the probe).

    Fill holes, erode by 5x5, dilate by disk 5, open by disk 10, and keep the largest component.
    If the second component has more than 75 % of its size, keep the one that begins nearer to the
    probe. At the end fill the holes that the dilation closed. Marzola et al., Computers in Biology
    and Medicine 135, 2021, 104623. Their code is in MATLAB, where disks 5 and 10 are octagons 9
    and 19 wide, and pixels outside of the image neither erode nor grow.
    """
    mask = scipy.ndimage.binary_erosion(_fill_holes(mask), np.ones((5, 5)), border_value=1)
    mask = scipy.ndimage.binary_dilation(mask, _octagon(4, 6))
    mask = scipy.ndimage.binary_erosion(mask, _octagon(9, 14), border_value=1)
    mask = scipy.ndimage.binary_dilation(mask, _octagon(9, 14))
    components, number = scipy.ndimage.label(mask, np.ones((3, 3)))
    if number > 1:
        sizes = np.bincount(components[mask])
        largest, second = np.argsort(-sizes, kind="stable")[:2]
        both = (largest, second) if sizes[second] > 0.75 * sizes[largest] else (largest,)
        first_row = [int(np.nonzero((components == one).any(axis=1))[0][0]) for one in both]
        mask = components == both[int(np.argmin(first_row))]
    return _fill_holes(mask)


def _octagon(radius: int, diagonal: int) -> Array:
    distance = np.abs(np.arange(-radius, radius + 1))
    return np.asarray(distance[:, None] + distance <= diagonal)
