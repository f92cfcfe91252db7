"""Data sets in the nnU-Net raw layout: which cases there are, their classes and their split.

ROOT/dataset.json                 channel_names, labels, file_ending; regions_class_order
ROOT/imagesTr/CASE_0000.nii.gz    one file (or folder with a DICOM series) per channel, or one
                                  file with all channels
ROOT/labelsTr/CASE.nii.gz
ROOT/split.json                   optional, as is splits_final.json; see split_files.py

In place of the two folders, dataset.json may list the files of each case, also outside ROOT:
"dataset": {CASE: {"images": [...], "label": ...}}.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recycleseg.classes import Classes
from recycleseg.data.splits import Split, SplitRule, choose_split
from recycleseg.data.volumes import (
    SPATIAL_DIMS,
    case_and_channel,
    case_name,
    file_ending,
    spatial_dims_of,
)
from recycleseg.files import FileError, listed, read_json_object, shortened
from recycleseg.names import case_problem


@dataclass(frozen=True)
class Case:
    """The files of one case, which may be missing until `inspect_dataset` has looked for them.

    Attributes:
        case_id: name of the case.
        image_paths: one per channel, in channel order, or one file with all channels.
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
        patients: case_id -> patient, of all cases.
        left_out: cases whose names no case may have (see `case_problem`); they are in no part.
        split_source: where the split comes from, in words.
        notes: remarks for the user, one line each.
    """

    root: Path
    name: str
    channel_names: tuple[str, ...]
    file_ending: str
    classes: Classes
    cases: Mapping[str, Case]
    split: Mapping[str, tuple[str, ...]]
    patients: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, Case] = field(default_factory=dict)
    split_source: str = ""
    notes: tuple[str, ...] = ()

    @property
    def spatial_dims(self) -> int:
        """3 for volumes, 2 for images; the first sound TIFF tells it for all."""
        dims = SPATIAL_DIMS[self.file_ending]
        for case in self.cases.values() if len(dims) > 1 else ():
            try:
                return spatial_dims_of(case.image_paths[0])
            except FileError:
                continue  # the check of the data set names it
        return dims[0]


def read_dataset(
    root: Path | str,
    rule: SplitRule | None = SplitRule(),  # noqa: B008
) -> Dataset:
    """Read the description of a data set, without opening an image.

    Args:
        root: the folder.
        rule: how to split the cases; see `choose_split`. Cases in no part are not used. None reads
            no split file and puts every case into train.

    Raises:
        FileError: the folder, `dataset.json` or a split file is invalid; the message lists every
            problem.
        ValueError: the rule does not fit the data set.
    """
    dataset, problems = read_dataset_with_problems(root, rule)
    if problems:
        raise dataset_error(dataset.root, problems)
    return dataset


def read_dataset_with_problems(
    root: Path | str,
    rule: SplitRule | None = SplitRule(),  # noqa: B008
) -> tuple[Dataset, list[str]]:
    """`read_dataset` that goes on, so that the files can be checked too.

    Returns:
        The data set, and one line per problem of file names and split files. If a split file is
        invalid, every case is in train.

    Raises:
        FileError: `dataset.json` is invalid, or there are no cases.
        ValueError: the rule does not fit the data set.
    """
    root = Path(root)
    description = _read_description(root)
    problems: list[str] = []
    notes: list[str] = []
    channel_names = _read_channel_names(description, problems)
    given = description.get("file_ending")
    ending = str(given).lower()
    if ending not in SPATIAL_DIMS:
        known = ", ".join(SPATIAL_DIMS)
        problems.append(f"dataset.json: file_ending: expected one of {known}, got {given!r}")
        raise dataset_error(root, problems)
    try:
        order = description.get("regions_class_order")
        classes = Classes.of(description.get("labels"), "dataset.json", order)
    except FileError as error:
        problems.append(str(error))
    described = not problems
    if "dataset" in description:
        cases = _listed_cases(root, description["dataset"], problems)
    else:
        cases = _find_cases(root, ending, len(channel_names), problems, notes)
    left_out = {c: cases.pop(c) for c in tuple(cases) if case_problem(c)}
    if left_out:
        lines = [str(case_problem(case_id)) for case_id in left_out]
        if not cases:
            problems += lines
        notes.append(f"left out {len(lines)} because of the name: {shortened(lines)}")
    split: Split | None = None
    try:
        split = choose_split(root, tuple(cases), rule, left_out) if cases else None
    except FileError as error:
        problems.append(str(error))
    if not described or not cases:
        raise dataset_error(root, problems)
    split = split or choose_split(root, tuple(cases), None)
    dataset = Dataset(
        root=root,
        name=str(description.get("name") or root.resolve().name),
        channel_names=channel_names,
        file_ending=ending,
        classes=classes,
        cases={case_id: case for case_id, case in cases.items() if case_id in split.patients},
        split=split.parts,
        patients=split.patients,
        left_out=left_out,
        split_source=split.source,
        notes=(*notes, *split.notes),
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
    """Names in the order of their numbers; as in nnU-Net, these need not begin with 0."""
    names = description.get("channel_names")
    if not isinstance(names, dict):
        problems.append(
            'dataset.json: channel_names: expected {"0": name, "1": name, ...}, '
            f"got {json.dumps(names)}"
        )
        return ()
    if not names:
        problems.append("dataset.json: channel_names: expected at least one channel, got none")
    keys = sorted(names, key=int) if all(map(str.isdecimal, names)) else names
    return tuple(str(names[key]) for key in keys)


def _listed_cases(root: Path, listing: Any, problems: list[str]) -> dict[str, Case]:
    """The cases that dataset.json lists as nnU-Net allows: absolute paths, or below `root`."""
    cases = {}
    for case_id, entry in listing.items() if isinstance(listing, dict) else ():
        if not _is_files(entry):
            problems.append(
                f'dataset.json: dataset: {case_id}: expected {{"images": [path, ...], "label": '
                f"path}}, got {json.dumps(entry)}"
            )
            continue
        *images, label = (root / os.path.expandvars(p) for p in (*entry["images"], entry["label"]))
        cases[case_id] = Case(case_id, tuple(images), label)
    if not cases and not problems:
        problems.append("dataset.json: dataset: expected cases, got none")
    return dict(sorted(cases.items()))


def _is_files(entry: Any) -> bool:
    images = entry.get("images") if isinstance(entry, dict) else None
    if not isinstance(images, list) or not images:
        return False
    return all(map(_is_path, (*images, entry.get("label"))))


def _is_path(path: Any) -> bool:
    """Whether a file may have this name; if not, every function of the system raises an error."""
    if not isinstance(path, str) or not path or "\0" in path:
        return False
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def _find_cases(
    root: Path, ending: str, num_channels: int, problems: list[str], notes: list[str]
) -> dict[str, Case]:
    """Every case that has an image or a label, complete or not."""
    images, labels = root / "imagesTr", root / "labelsTr"
    found: dict[str, dict[int, Path]] = {}
    others = []
    for path in _files(images):
        if file_ending(path) != ending:
            others += [path.name] if file_ending(path) else []
            continue
        case_id, channel = case_and_channel(case_name(path))
        if channel is None or channel >= num_channels:
            problems.append(
                f"{path}: expected a name CASE_0000{ending} with a channel number "
                f"below {num_channels}, got {path.name}"
            )
        else:
            _add(found.setdefault(case_id, {}), channel, path, problems)
    if others:
        notes.append(
            f"{images}: left out, because the file_ending of dataset.json is {ending}: "
            f"{shortened(others)}"
        )
    if not found and not problems:
        got = f"{len(others)} with another ending, such as {others[0]}" if others else "none"
        problems.append(f"{images}: expected images CASE_0000{ending}, got {got}")
        return {}
    label_paths: dict[str, Path] = {}
    for path in _files(labels):
        # A DICOM series has no label map of its own kind but DICOM-SEG, which few programs write.
        if file_ending(path) == ending or (ending == ".dcm" and file_ending(path)):
            _add(label_paths, case_name(path), path, problems)
    # If no file has the number of a second channel, each file holds all channels.
    together = not any(channel for channels in found.values() for channel in channels)
    numbers = range(1 if together else num_channels)
    cases = {}
    for case_id in sorted({*found, *label_paths}):
        channels = found.get(case_id, {})
        paths = tuple(channels.get(c, images / f"{case_id}_{c:04d}{ending}") for c in numbers)
        label = label_paths.get(case_id, labels / f"{case_id}{ending}")
        cases[case_id] = Case(case_id, paths, label)
    return cases


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _add(found: dict[Any, Path], key: Any, path: Path, problems: list[str]) -> None:
    """Note a file, or the problem that another one has the same name but for upper case."""
    if key in found:
        problems.append(f"{found[key]}, {path}: expected one file, got two")
    found[key] = path
