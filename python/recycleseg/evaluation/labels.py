"""What the values of label maps are called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recycleseg.classes import Labels, parse_labels
from recycleseg.files import FileError, parse_json_object, read_json_object
from recycleseg.prediction.case_records import RECORD


def read_labels(option: str) -> Labels:
    """The labels of `--labels`: a JSON file or JSON text, of labels alone or as dataset.json."""
    if option.lstrip().startswith("{"):
        return _of_description(parse_json_object(option, "--labels"), "--labels")
    path = Path(option)
    if not path.is_file():
        raise FileError(f"--labels: expected a JSON file or {{...}}, got {option}")
    return _of_description(read_json_object(path), str(path))


def find_labels(pred: Path, ref: Path) -> tuple[Labels, Path] | None:
    """The labels that a description beside the maps gives, and the file of the description.

    The order of search is: predict.json and dataset.json of the predictions, dataset.json of the
    references, dataset.json of the folder above the references.

    Returns:
        Labels, as from `parse_labels`, and file; or None if there is no description.
    """
    pred, ref = (path.parent if path.is_file() else path for path in (pred, ref))
    if predicted := predicted_labels(pred):
        path = pred / RECORD
        return parse_labels(predicted, str(path)), path
    for folder in (pred, ref, ref.resolve().parent):
        path = folder / "dataset.json"
        if path.is_file():
            content = read_json_object(path)
            return parse_labels(content.get("labels"), str(path)), path
    return None


def predicted_labels(folder: Path) -> Any:
    """The unchecked labels that predict.json in a folder of predictions gives, or None."""
    path = folder / RECORD
    dataset = read_json_object(path).get("dataset") if path.is_file() else None
    return dataset.get("labels") if isinstance(dataset, Mapping) else None


def _of_description(content: dict[str, Any], source: str) -> Labels:
    labels = content.get("labels")
    return parse_labels(labels if isinstance(labels, Mapping) else content, source)
