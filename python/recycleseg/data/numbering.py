"""Which label value each value of a mask becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recycleseg.classes import Labels, values_of
from recycleseg.files import shortened

# More values are rather the grey levels of an image, or of smoothed edges.
_MOST_VALUES = 32
_MOST_CLASSES = 255


@dataclass(frozen=True)
class Numbering:
    """How the values of the masks become those of the labels.

    Attributes:
        labels: for dataset.json.
        new_value: value in the masks -> value in the labels; without 0.
        notes: what to tell the user.
    """

    labels: Mapping[str, Any]
    new_value: Mapping[int, int]
    notes: tuple[str, ...]


def number_classes(values: Sequence[int], given: Labels | None) -> Numbering:
    """Give the values of masks the numbers 1, 2, ... in their order.

    Args:
        values: all values in the masks, sorted.
        given: name -> value or values of a region; None makes up names.

    Raises:
        ValueError: there is no foreground, there are too many values, or `given` lacks some.
    """
    found = [value for value in values if value != 0]
    if not found:
        raise ValueError("masks: expected foreground, got 0 everywhere")
    notes = []
    if given is None:
        if len(found) > _MOST_VALUES:
            raise ValueError(
                f"masks: expected at most {_MOST_VALUES} label values, got {len(found)} "
                f"({shortened(found)}). If these are classes, name them with --labels. If they are "
                "grey levels, for example of smoothed edges, save the masks with one value per "
                "class"
            )
        given = {f"label_{index}": value for index, value in enumerate(found, 1)}
        called = ", ".join(f"{class_name} (mask value {v})" for class_name, v in given.items())
        notes.append(f"no --labels, so the classes are called {called}")
    elif len(found) == len(given) == 1 and isinstance(value := next(iter(given.values())), int):
        if value != found[0]:
            given = dict.fromkeys(given, found[0])
    named = sorted({value for entry in given.values() for value in values_of(entry)} - {0})
    if unnamed := sorted(set(found) - set(named)):
        raise ValueError(
            f"--labels: expected a name for every value in the masks, got none for "
            f"{shortened(unnamed)}; named are {shortened(named)}"
        )
    if len(named) > _MOST_CLASSES:
        raise ValueError(f"--labels: expected at most {_MOST_CLASSES} values, got {len(named)}")
    new_value = {value: index for index, value in enumerate(named, 1)}
    changed = [f"{old} becomes {new}" for old, new in new_value.items() if old != new]
    if changed:
        notes.append(f"mask value {shortened(changed)}, because labels are numbered from 1")
    labels = {
        class_name: new_value[value] if isinstance(value, int) else [new_value[v] for v in value]
        for class_name, value in given.items()
    }
    return Numbering({"background": 0, **labels}, new_value, tuple(notes))
