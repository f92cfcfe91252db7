"""Data sets in the folders that nnU-Net asks for; the standard library alone.

nnU-Net trains on all of imagesTr, so the test cases of split.json go into a folder of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def convert(source: Path, raw: Path) -> str:
    """Link a data set into `raw` so that nnU-Net trains on train, and validates on val.

    RAW/Dataset123_Name/imagesTr, labelsTr    train and val cases of SOURCE/split.json
    RAW/Dataset123_Name/imagesTs              its test cases
    RAW/Dataset123_Name/splits_final.json     one fold

    Args:
        source: a data set in nnU-Net's raw layout with its images in imagesTr, one file per
            channel, and split.json.
        raw: the folder nnUNet_raw.

    Returns:
        The name of the data set in `raw`, such as Dataset123_Name.

    Raises:
        ValueError: the split is incomplete, or files of a case are missing.
        FileExistsError: `raw` holds the data set already.
    """
    description = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    split = json.loads((source / "split.json").read_text(encoding="utf-8"))
    for part in ("train", "val", "test"):
        if not split.get(part):
            raise ValueError(f"{source / 'split.json'}: expected cases under {part!r}, got none")
    name = dataset_name(source)
    target = raw / name
    target.mkdir(parents=True)
    training = [*split["train"], *split["val"]]
    ending = description["file_ending"]
    num_channels = len(description["channel_names"])
    for folder, cases in (("imagesTr", training), ("imagesTs", split["test"])):
        names = image_names(cases, num_channels, ending)
        _link(names, source / "imagesTr", target / folder)
    _link([f"{case}{ending}" for case in training], source / "labelsTr", target / "labelsTr")
    _write(target / "dataset.json", training_description(description, len(training)))
    _write(target / "splits_final.json", folds(split))
    return name


def dataset_name(source: Path) -> str:
    """The folder's name if nnU-Net accepts it, else one with a number."""
    name = source.resolve().name
    return name if re.fullmatch(r"Dataset\d{3}_.+", name) else f"Dataset999_{name}"


def image_names(cases: Iterable[str], num_channels: int, ending: str) -> list[str]:
    """File names of the images of cases, all channels of a case in a row."""
    return [f"{case}_{channel:04d}{ending}" for case in cases for channel in range(num_channels)]


def training_description(description: Mapping[str, Any], num_training: int) -> dict[str, Any]:
    """dataset.json for the cases that nnU-Net may see: their number, no list of files."""
    kept = {key: value for key, value in description.items() if key != "dataset"}
    return {**kept, "numTraining": num_training}


def folds(split: Mapping[str, Any]) -> list[dict[str, list[str]]]:
    """splits_final.json: one fold with the parts of split.json."""
    return [{"train": sorted(split["train"]), "val": sorted(split["val"])}]


def _link(names: Iterable[str], source: Path, target: Path) -> None:
    target.mkdir()
    for name in names:
        file = (source / name).resolve()
        if not file.is_file():
            raise ValueError(f"{source / name}: expected a file, got none")
        (target / name).symlink_to(file)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
