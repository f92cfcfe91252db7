"""Folders of predictions to be combined: ours, nnU-Net's, or label maps from anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recycleseg.classes import Classes
from recycleseg.data.probabilities import read_probabilities
from recycleseg.data.volumes import Volume, file_ending, read_volume
from recycleseg.files import FileError, read_json_object, shortened

_SHOWN = 5


@dataclass(frozen=True)
class Member:
    """One folder of predictions.

    Attributes:
        maps: case_id -> label map.
        has_probs: whether there are probabilities beside the label maps, CASE.npz.
        description: labels and more as in dataset.json, None: the folder does not say.
        described_by: the file that says so.
        images: case_id -> the images that were predicted; of those that are known.
    """

    root: Path
    maps: Mapping[str, Path]
    has_probs: bool
    description: Mapping[str, Any] | None
    described_by: Path | None
    images: Mapping[str, Sequence[str]]

    def read_label(self, case_id: str, values: range) -> Volume:
        """The label map of a case, uint8, which holds some of these values from 0 on.

        Raises:
            FileError: damaged, or values that are no labels.
        """
        volume = read_volume(self.maps[case_id])
        array = volume.array
        label = array.astype(np.uint8, copy=False)
        # NaN is in no range, and what is rounded is not the same.
        if not (array.size and array.min() >= 0 and array.max() <= values[-1]) or (
            label is not array and (label != array).any()
        ):
            shown = shortened(np.unique(array).tolist())
            raise FileError(f"{volume.path}: expected labels from 0 to {values[-1]}, got {shown}")
        return replace(volume, array=label)

    def read_probs(
        self, case_id: str, shape: Sequence[int], names: Sequence[str]
    ) -> np.ndarray[Any, Any]:
        """Probabilities (C, *shape) float32 of classes of these names.

        Raises:
            FileError: missing or damaged, or of another shape or number of classes.
        """
        path = self.root / f"{case_id}.npz"
        probs = read_probabilities(path, shape)
        if len(probs) != len(names):
            raise FileError(
                f"{path}: expected {len(names)} channels, one each for {', '.join(names)}, got "
                f"{len(probs)}"
            )
        return probs


def read_member(root: Path) -> Member:
    """List a folder of predictions; opens no label map.

    Raises:
        FileError: no folder, no label map, two of one case, or probabilities without.
    """
    if not root.is_dir():
        raise FileError(f"{root}: expected a folder of predictions, got none there")
    maps: dict[str, Path] = {}
    probs = set()
    for path in sorted(root.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix == ".npz":
            probs.add(path.stem)
        elif ending := file_ending(path):
            case_id = path.name.removesuffix(ending)
            if case_id in maps:
                raise FileError(f"{path}: expected one label map a case, got {maps[case_id]} too")
            maps[case_id] = path
    if alone := sorted(probs - set(maps)):
        raise FileError(
            f"{root / alone[0]}.npz: expected a label map {alone[0]}.nii.gz, .nii or .png beside "
            "it, for the grid, got none"
        )
    if not maps:
        raise FileError(f"{root}: expected label maps CASE.nii.gz, .nii or .png, got none")
    description, described_by, images = _read_description(root)
    return Member(root, maps, bool(probs), description, described_by, images)


def shared_classes(members: Sequence[Member], labels: Path | None) -> Classes:
    """The classes that all members have, or those of the dataset.json `labels`.

    Raises:
        FileError: nobody says what they are, or two members say otherwise.
    """
    if labels is not None:
        content = read_json_object(labels)
        return Classes.of(content.get("labels", content), str(labels))
    found = {
        member.described_by: Classes.of(member.description.get("labels"), str(member.described_by))
        for member in members
        if member.description is not None and member.described_by is not None
    }
    if not found:
        raise FileError(
            "--labels: expected the data set's dataset.json, since no member has a predict.json "
            "or dataset.json that names the labels, got none"
        )
    (first, classes), *others = found.items()
    for path, other in others:
        if other != classes:
            raise FileError(
                f"{path}: expected labels {json.dumps(classes.labels)} as {first}, got "
                f"{json.dumps(other.labels)}"
            )
    return classes


def shared_cases(members: Sequence[Member], *, allow_missing: bool) -> tuple[str, ...]:
    """Cases that every member has, sorted.

    Raises:
        FileError: a member lacks one that another has, unless that is allowed; or there is none.
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
            f"--input: expected the same cases of all members, got others: {'; '.join(lacking)}. "
            "--allow-missing leaves these cases out"
        )
    return tuple(sorted(shared))


def known_images(members: Sequence[Member], case_ids: Sequence[str]) -> dict[str, Sequence[str]]:
    """The images of each case, by the first member that knows them."""
    knowing = {c: [m.images[c] for m in members if c in m.images] for c in case_ids}
    return {case_id: found[0] for case_id, found in knowing.items() if found}


def _read_description(
    root: Path,
) -> tuple[dict[str, Any] | None, Path | None, dict[str, list[str]]]:
    """Labels, where they were found, and image files, from our record or nnU-Net's dataset.json."""
    record, foreign = root / "predict.json", root / "dataset.json"
    if record.is_file():
        content = read_json_object(record)
        images = content.get("images")
        dataset = content.get("dataset")
        if not isinstance(dataset, dict):
            raise FileError(f"{record}: expected a record of predictions with dataset, got none")
        return dataset, record, _known(images)
    if foreign.is_file():
        return read_json_object(foreign), foreign, {}
    return None, None, {}


def _known(images: Any) -> dict[str, list[str]]:
    """What is a list of files for a case, of what a record says."""
    listed = images.items() if isinstance(images, dict) else ()
    return {c: list(map(str, paths)) for c, paths in listed if isinstance(paths, list) and paths}
