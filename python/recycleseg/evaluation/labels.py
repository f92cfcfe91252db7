"""What the values of label maps are called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recycleseg.files import FileError, parse_json_object, read_json_object
from recycleseg.ops.overlap_counts import MAX_CLASSES

Labels = dict[str, int | tuple[int, ...]]


def parse_labels(labels: Any, source: str) -> Labels:
    """Foreground of nnU-Net's labels: name -> value, or the sorted values of a region.

    source: what messages call the place that they come from.

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
        values = tuple(sorted(set(entry))) if isinstance(entry, list | tuple) else (entry,)
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


def read_labels(option: str) -> Labels:
    """`--labels`: a JSON file, or JSON, of labels or of a data set's description."""
    if option.lstrip().startswith("{"):
        return _of_description(parse_json_object(option, "--labels"), "--labels")
    path = Path(option)
    if not path.is_file():
        raise FileError(f"--labels: expected a JSON file or {{...}}, got {option}")
    return _of_description(read_json_object(path), str(path))


def find_labels(pred: Path, ref: Path) -> tuple[Labels, Path] | None:
    """The labels that a description beside the maps gives, and its file; None: there is none.

    Looked for in this order: predict.json and dataset.json of the predictions, dataset.json of the
    references and of the folder above them.
    """
    pred, ref = (path.parent if path.is_file() else path for path in (pred, ref))
    if predicted := predicted_labels(pred):
        path = pred / "predict.json"
        return parse_labels(predicted, str(path)), path
    for folder in (pred, ref, ref.resolve().parent):
        path = folder / "dataset.json"
        if path.is_file():
            content = read_json_object(path)
            return parse_labels(content.get("labels"), str(path)), path
    return None


def predicted_labels(folder: Path) -> Any:
    """The labels that predict.json of a folder of predictions gives, as they stand; None: none."""
    path = folder / "predict.json"
    dataset = read_json_object(path).get("dataset") if path.is_file() else None
    return dataset.get("labels") if isinstance(dataset, Mapping) else None


def _of_description(content: dict[str, Any], source: str) -> Labels:
    labels = content.get("labels")
    return parse_labels(labels if isinstance(labels, Mapping) else content, source)


def _is_entry(value: Any) -> bool:
    values = value if isinstance(value, list | tuple) else [value]
    return bool(values) and all(type(item) is int and 0 <= item < MAX_CLASSES for item in values)
