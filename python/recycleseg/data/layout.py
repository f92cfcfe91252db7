"""Data sets in the nnU-Net raw layout: which cases there are, their classes and their split.

ROOT/dataset.json                 channel_names, labels, file_ending
ROOT/imagesTr/CASE_0000.nii.gz    one file per channel
ROOT/labelsTr/CASE.nii.gz
ROOT/split.json                   optional {"train": [...], "val": [...], "test": [...]}
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recycleseg.classes import Classes
from recycleseg.data.volumes import SPATIAL_DIMS
from recycleseg.files import FileError, listed, read_json_object

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Case:
    """The files of one case, which may be missing until `inspect_dataset` has looked for them.

    Attributes:
        case_id: name of the case.
        image_paths: one per channel, in channel order.
        label_path: None for a case without label.
    """

    case_id: str
    image_paths: tuple[Path, ...]
    label_path: Path | None


@dataclass(frozen=True)
class Dataset:
    """The description of a data set: `dataset.json`, file names and split.

    Attributes:
        root: the folder.
        name: from `dataset.json`, or the folder's name.
        channel_names: in channel order.
        file_ending: of all images and labels.
        classes: of the label files.
        cases: case_id -> files, sorted; only the cases of the split.
        split: "train" | "val" | "test" -> case_ids.
    """

    root: Path
    name: str
    channel_names: tuple[str, ...]
    file_ending: str
    classes: Classes
    cases: Mapping[str, Case]
    split: Mapping[str, tuple[str, ...]]

    @property
    def spatial_dims(self) -> int:
        """3 for NIfTI, 2 for PNG."""
        return SPATIAL_DIMS[self.file_ending]


def read_dataset(root: Path | str, *, seed: int = 0) -> Dataset:
    """Read the description of a data set, without opening an image.

    Args:
        root: the folder.
        seed: without `split.json`, it shuffles the sorted cases before they are divided 80/10/10.
            Cases that are not in `split.json` are not used.

    Raises:
        FileError: the folder, `dataset.json` or `split.json` is invalid; the message lists every
            problem.
    """
    dataset, problems = read_dataset_with_problems(root, seed=seed)
    if problems:
        raise dataset_error(dataset.root, problems)
    return dataset


def read_dataset_with_problems(root: Path | str, *, seed: int = 0) -> tuple[Dataset, list[str]]:
    """`read_dataset` that goes on, so that the files can be checked too.

    Returns:
        The data set, and one line per problem of file names and `split.json`. If `split.json` is
        useless, the split is that without it.

    Raises:
        FileError: `dataset.json` is invalid, or there are no cases.
    """
    root = Path(root)
    description = _read_description(root)
    problems: list[str] = []
    channel_names = _read_channel_names(description, problems)
    ending = description.get("file_ending")
    if ending not in SPATIAL_DIMS:
        known = ", ".join(SPATIAL_DIMS)
        problems.append(f"dataset.json: file_ending: expected one of {known}, got {ending!r}")
        raise dataset_error(root, problems)
    try:
        classes = Classes.of(description.get("labels"), "dataset.json")
    except FileError as error:
        problems.append(str(error))
    described = not problems
    cases = _find_cases(root, ending, len(channel_names), problems)
    split = _read_split(root, cases, seed, problems) if cases else {}
    if not described or not cases:
        raise dataset_error(root, problems)
    split = split or _seeded_split(tuple(cases), seed, problems=[])
    used = {case_id for case_ids in split.values() for case_id in case_ids}
    dataset = Dataset(
        root=root,
        name=str(description.get("name", root.name)),
        channel_names=channel_names,
        file_ending=ending,
        classes=classes,
        cases={case_id: case for case_id, case in cases.items() if case_id in used},
        split=split,
    )
    return dataset, problems


def dataset_error(root: Path, problems: list[str]) -> FileError:
    """One error that lists every problem, one per line."""
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return FileError(listed(f"data set {root}: {count}", problems))


def _read_description(root: Path) -> dict[str, Any]:
    path = root / "dataset.json"
    if not path.is_file():
        got = f"no dataset.json in {root}" if root.is_dir() else f"no folder {root}"
        raise FileError(
            f"{root}: expected a data set in the nnU-Net raw layout (dataset.json, "
            f"imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz), got {got}"
        )
    return read_json_object(path)


def _read_channel_names(description: dict[str, Any], problems: list[str]) -> tuple[str, ...]:
    names = description.get("channel_names")
    if not isinstance(names, dict) or sorted(names) != sorted(map(str, range(len(names or ())))):
        problems.append(
            'dataset.json: channel_names: expected {"0": name, "1": name, ...}, '
            f"got {json.dumps(names)}"
        )
        return ()
    if not names:
        problems.append("dataset.json: channel_names: expected at least one channel, got none")
    return tuple(str(names[str(channel)]) for channel in range(len(names)))


def _find_cases(root: Path, ending: str, num_channels: int, problems: list[str]) -> dict[str, Case]:
    """Every case that has an image or a label, complete or not."""
    images, labels = root / "imagesTr", root / "labelsTr"
    pattern = re.compile(rf"(.+)_(\d{{4}}){re.escape(ending)}")
    case_ids = {name.removesuffix(ending) for name in _file_names(labels) if name.endswith(ending)}
    image_names = _file_names(images)
    for name in image_names:
        match = pattern.fullmatch(name)
        if match is None or int(match[2]) >= num_channels:
            problems.append(
                f"{images / name}: expected a name CASE_0000{ending} with a channel number "
                f"below {num_channels}, got {name}"
            )
        else:
            case_ids.add(match[1])
    if not image_names:
        problems.append(f"{images}: expected images CASE_0000{ending}, got none")
        return {}
    return {
        case_id: Case(
            case_id,
            tuple(images / f"{case_id}_{channel:04d}{ending}" for channel in range(num_channels)),
            labels / f"{case_id}{ending}",
        )
        for case_id in sorted(case_ids)
    }


def _file_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def _read_split(
    root: Path, cases: Mapping[str, Case], seed: int, problems: list[str]
) -> dict[str, tuple[str, ...]]:
    path = root / "split.json"
    if not path.exists():
        return _seeded_split(tuple(cases), seed, problems)
    try:
        split = read_json_object(path)
    except FileError as error:
        problems.append(str(error))
        return {}
    if not set(split) <= set(SPLITS) or not all(isinstance(ids, list) for ids in split.values()):
        problems.append(
            f"split.json: expected lists of case names under {SPLITS}, got {sorted(split)}"
        )
        return {}
    counts = Counter(str(case_id) for case_ids in split.values() for case_id in case_ids)
    if unknown := sorted(set(counts) - set(cases)):
        problems.append(f"split.json: expected cases of imagesTr, got unknown {unknown}")
    if twice := sorted(case_id for case_id, count in counts.items() if count > 1):
        problems.append(f"split.json: expected every case once, got {twice} more than once")
    if not split.get("train"):
        problems.append("split.json: expected at least one case under train, got none")
    return {part: tuple(map(str, split.get(part, ()))) for part in SPLITS}


def _seeded_split(
    case_ids: tuple[str, ...], seed: int, problems: list[str]
) -> dict[str, tuple[str, ...]]:
    if len(case_ids) < len(SPLITS):
        problems.append(f"expected at least {len(SPLITS)} cases to split, got {len(case_ids)}")
    order = np.random.default_rng(seed).permutation(len(case_ids))
    held_out = max(1, round(0.1 * len(case_ids)))
    parts = {
        "test": order[:held_out],
        "val": order[held_out : 2 * held_out],
        "train": order[2 * held_out :],
    }
    return {part: tuple(case_ids[index] for index in sorted(parts[part])) for part in SPLITS}
