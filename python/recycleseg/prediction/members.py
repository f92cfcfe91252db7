"""Folders of predictions to combine: ours, nnU-Net's, or label maps of any origin."""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from recycleseg.classes import Classes
from recycleseg.data.geometry import Orientation
from recycleseg.data.probabilities import read_probabilities
from recycleseg.data.volumes import SPATIAL_DIMS, Volume, case_name, file_ending, read_label
from recycleseg.files import FileError, read_json_object, shortened
from recycleseg.prediction.agreement import check_agreement
from recycleseg.prediction.case_records import RECORD, read_with_cases
from recycleseg.prediction.origin import Origin, foreign_origin, origin_of_record


@dataclass(frozen=True)
class Member:
    """One folder of predictions.

    Attributes:
        root: the folder.
        maps: case_id -> label map.
        has_probs: whether there are probabilities, CASE.npz, beside the label maps.
        description: labels and more, as in dataset.json; empty if no file gives them.
        described_by: the file that gives the description, or None.
        origin: how the probabilities were stored and decided.
        images: case_id -> its images, for the cases where they are known.
    """

    root: Path
    maps: Mapping[str, Path]
    has_probs: bool
    description: Mapping[str, Any]
    described_by: Path | None
    origin: Origin
    images: dict[str, list[str]]

    @cached_property
    def classes(self) -> Classes | None:
        """The classes that the description gives, or None without one.

        Raises:
            FileError: the description is invalid.
        """
        if self.described_by is None:
            return None
        description = self.description
        order = description.get("regions_class_order")
        return Classes.of(description.get("labels"), str(self.described_by), order)

    @property
    def valid_classes(self) -> Classes | None:
        """`classes`, or None if the description is not valid and another file names the classes."""
        try:
            return self.classes
        except FileError:
            return None

    def files(self, case_id: str) -> tuple[Path, ...]:
        """The files of a case: the label map, and the probabilities if there are any."""
        return (self.maps[case_id], *([self._probs_path(case_id)] if self.has_probs else []))

    def read_label(self, case_id: str, values: range) -> Volume:
        """Read the label map of a case as uint8.

        Args:
            case_id: the case.
            values: the allowed label values, which start at 0.

        Raises:
            FileError: the file is damaged or holds other values.
        """
        volume = read_label(self.maps[case_id])
        array = volume.array
        label = array.astype(np.uint8, copy=False)
        if not (array.size and array.min() >= 0 and array.max() <= values[-1]):
            shown = shortened(np.unique(array).tolist())
            raise FileError(f"{volume.path}: expected labels from 0 to {values[-1]}, got {shown}")
        return replace(volume, array=label)

    def read_probs(self, case_id: str, label: Volume, classes: Classes) -> np.ndarray[Any, Any]:
        """Read the probabilities of a case, (C, *S) float32, and compare them with its label map.

        Args:
            case_id: the case.
            label: its label map (*S), from `read_label`.
            classes: the C classes.

        Raises:
            FileError: the file is missing or damaged, has another shape or number of classes, or
                contradicts the label map.
        """
        path, names = self._probs_path(case_id), classes.names
        shape = label.array.shape
        turned = self.origin.canonical and len(shape) == 3
        orientation = Orientation.of(label.affine, len(shape)) if turned else None
        # A few channels too many are told by name below.
        probs = read_probabilities(path, shape, orientation, most_channels=2 * len(names))
        if len(probs) != len(names):
            raise FileError(
                f"{path}: expected {len(names)} channels, one each for {', '.join(names)}, got "
                f"{len(probs)}"
            )
        own = self.valid_classes
        # The painting order of regions is that of the folder, which other members may not share.
        painted = classes if own is None or len(own) != len(classes) else own
        check_agreement(path, probs, label, painted, self.origin)
        return probs

    def _probs_path(self, case_id: str) -> Path:
        usual = self.root / f"{case_id}.npz"
        return usual if usual.exists() else self.root / f"{case_id}.NPZ"


def read_member(root: Path, labels: Path | None = None) -> Member:
    """List a folder of predictions, without opening a label map.

    Args:
        root: the folder.
        labels: a dataset.json that describes the folder if it has no such file.

    Raises:
        FileError: there is no folder or no label map, a case has two label maps, a case has
            probabilities but no label map, or the order of their axes is not known.
    """
    if not root.is_dir():
        raise FileError(f"{root}: expected a folder of predictions, got no such folder")
    maps: dict[str, Path] = {}
    probs = set()
    for path in sorted(root.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix.lower() == ".npz":
            probs.add(path.stem)
        elif file_ending(path):
            case_id = case_name(path)
            if case_id in maps:
                raise FileError(f"{path}: expected one label map per case, got {maps[case_id]} too")
            maps[case_id] = path
    if alone := sorted(probs - set(maps)):
        raise FileError(
            f"{root / alone[0]}.npz: expected a label map beside it ({alone[0]} and one of "
            f"{', '.join(SPATIAL_DIMS)}), which tells the grid, got none"
        )
    if not maps:
        raise FileError(f"{root}: expected label maps ({', '.join(SPATIAL_DIMS)}), got none")
    description, described_by, images = _read_description(root)
    origin = Origin()
    if described_by == root / RECORD:
        origin = origin_of_record(read_json_object(described_by))
    elif probs:
        origin = foreign_origin(root, None if described_by else labels)
    return Member(root, maps, bool(probs), description, described_by, origin, images)


def shared_classes(members: Sequence[Member], labels: Path | None) -> Classes:
    """The classes that all members have.

    Args:
        members: the folders of predictions.
        labels: a dataset.json that names the classes, in place of the members' own files.

    Raises:
        FileError: no file names the classes, two members have different ones, or a member has
            another value for a name of `labels`.
    """
    if labels is not None:
        content = read_json_object(labels)
        order = content.get("regions_class_order")
        classes = Classes.of(content.get("labels", content), str(labels), order)
        _check_values(members, classes, labels)
        return classes
    found = [(m.described_by, m.classes) for m in members if m.classes is not None]
    if not found:
        raise FileError(
            "--labels: expected the data set's dataset.json, because no member has a predict.json "
            "or dataset.json that names the labels, got none"
        )
    (first, classes), *others = found
    for path, other in others:
        joined = classes.joined(other)
        if joined is None:
            raise FileError(
                f"{path}: expected {_described(classes)} as {first}, got {_described(other)}"
            )
        classes = joined
    return classes


def _check_values(members: Sequence[Member], classes: Classes, source: Path) -> None:
    """Check that no member gives a name of `classes` to another channel."""
    for member in members:
        own = member.valid_classes
        if own is None:
            continue
        moved = [
            name
            for index, name in enumerate(own.names)
            if name in classes.names
            and (
                classes.names.index(name) != index
                or classes.foreground.get(name) != own.foreground.get(name)
            )
        ]
        if moved:
            raise FileError(
                f"{member.described_by}: expected {shortened(moved)} as in {source}, "
                f"{_described(classes)}, got {_described(own)}"
            )


def _described(classes: Classes) -> str:
    return ", ".join(f"{key} {json.dumps(entry)}" for key, entry in classes.description.items())


def shared_cases(members: Sequence[Member], *, allow_missing: bool) -> tuple[str, ...]:
    """Cases that every member has, sorted.

    Args:
        members: the folders of predictions.
        allow_missing: leave out the cases that some members lack, instead of an error.

    Raises:
        FileError: a member lacks a case and this is not allowed, or no case is shared.
    """
    of_each = [set(member.maps) for member in members]
    shared, all_cases = set.intersection(*of_each), set.union(*of_each)
    if not shared:
        raise FileError("--input: expected cases that all members have, got none")
    lacking = [
        f"{member.root} lacks {shortened(sorted(all_cases - cases))}"
        for member, cases in zip(members, of_each, strict=True)
        if all_cases - cases
    ]
    if lacking and not allow_missing:
        raise FileError(
            f"--input: expected the same cases in all members, got others: {'; '.join(lacking)}. "
            "--allow-missing leaves these cases out"
        )
    return tuple(sorted(shared))


def known_images(members: Sequence[Member], case_ids: Sequence[str]) -> dict[str, Sequence[str]]:
    """The images of each case, from the first member that knows them."""
    images = ChainMap(*(member.images for member in members))
    return {case_id: images[case_id] for case_id in case_ids if case_id in images}


def _read_description(root: Path) -> tuple[dict[str, Any], Path | None, dict[str, list[str]]]:
    """`description`, `described_by` and `images` of a member, from predict.json or dataset.json."""
    record, foreign = root / RECORD, root / "dataset.json"
    if record.is_file():
        content = read_with_cases(record)
        dataset, images = content.get("dataset"), content.get("images")
        if not isinstance(dataset, dict):
            raise FileError(f"{record}: expected a record of predictions with dataset, got none")
        listed = images.items() if isinstance(images, dict) else ()
        known = {c: list(map(str, files)) for c, files in listed if isinstance(files, list)}
        return dataset, record, {c: files for c, files in known.items() if files}
    if foreign.is_file():
        return read_json_object(foreign), foreign, {}
    return {}, None, {}
