"""Make a data set in the nnU-Net raw layout from a folder of images and a folder of masks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recycleseg.classes import Labels
from recycleseg.data.check import grid_problems
from recycleseg.data.facts import value_counts
from recycleseg.data.numbering import number_classes
from recycleseg.data.pairing import Pair, Pairing, pair_by_name
from recycleseg.data.volumes import (
    SPATIAL_DIMS,
    Volume,
    file_ending,
    read_volume,
    write_like,
)
from recycleseg.files import FileError, listed, shortened, write_json
from recycleseg.progress import Progress, followed

# Formats without a second file beside them, so that a copy is whole.
_SINGLE_FILES = (".nii.gz", ".nii", ".png", ".mha", ".nrrd")
_ENDING_FOR = {2: ".png", 3: ".nii.gz"}


@dataclass(frozen=True)
class Converted:
    """What `convert` made.

    Attributes:
        num_cases: number of cases.
        file_ending: of all files.
        labels: of dataset.json.
        notes: decisions that the user should know of.
    """

    num_cases: int
    file_ending: str
    labels: Mapping[str, Any]
    notes: tuple[str, ...]


def convert(
    images: Path,
    masks: Path,
    out: Path,
    *,
    name: str | None = None,
    labels: Labels | None = None,
    channel_names: Sequence[str] | None = None,
    skip_unpaired: bool = False,
    link: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write a data set; it appears whole or not at all, and the sources stay as they are.

    All files are read before the first is written. The files keep their format if all have the
    same; otherwise 3D becomes .nii.gz and 2D .png. A file that needs no change is copied.

    Args:
        images: folder of images.
        masks: folder of masks; it may be the same folder.
        out: folder that does not exist or is empty.
        name: of the data set; by default that of `out`.
        labels: name -> value in the masks, or values of a region. By default every value is a
            class of its own. If there is one name and one value, the value need not fit.
        channel_names: by default "image", or "image_0", "image_1", ...
        skip_unpaired: leave out files without a partner.
        link: make symbolic links instead of copies.
        progress: called with the number of cases done and of all cases; all cases count twice,
            first while they are read, then while they are written.

    Raises:
        FileError: files have no partner, cannot be read, or do not fit; or `out` is not empty.
        ValueError: labels or channel names do not fit to the files.
    """
    _check_out(out, (images, masks))
    pairing = pair_by_name(images, masks)
    pairs, notes = _chosen(pairing, images, masks, skip_unpaired)
    names = _channel_names(pairs, channel_names)
    ending, values = _read_all(pairs, progress)
    numbering = number_classes(values, labels)
    with _folder_whole(out) as folder:
        for pair in followed(pairs, len(pairs), progress):
            _write_case(pair, folder, ending, numbering.new_value, link)
        description = {
            "name": name or out.name,
            "channel_names": {str(index): channel for index, channel in enumerate(names)},
            "labels": numbering.labels,
            "numTraining": len(pairs),
            "file_ending": ending,
        }
        write_json(folder / "dataset.json", description)
    return Converted(len(pairs), ending, numbering.labels, (*notes, *numbering.notes))


def _check_out(out: Path, sources: Sequence[Path]) -> None:
    if out.is_dir() and any(out.iterdir()):
        raise FileError(f"{out}: expected an empty or new folder, got one with files")
    if out.exists() and not out.is_dir():
        raise FileError(f"{out}: expected an empty or new folder, got a file")
    for source in sources:
        if source.resolve() in (out.resolve(), *out.resolve().parents):
            raise FileError(f"{out}: expected a folder outside {source}")


def _chosen(
    pairing: Pairing, images: Path, masks: Path, skip_unpaired: bool
) -> tuple[tuple[Pair, ...], list[str]]:
    """The pairs to convert, and notes."""
    notes = []
    if pairing.ignored:
        names = shortened([path.name for path in pairing.ignored], 3)
        notes.append(f"ignored files of other kinds: {names}")
    if pairing.unpaired and not skip_unpaired:
        raise FileError(
            listed(
                f"{images}, {masks}: expected a mask for every image, got "
                f"{len(pairing.pairs)} pairs and {len(pairing.unpaired)} files without a partner "
                "(--skip-unpaired leaves them out)",
                [str(path) for path in pairing.unpaired],
            )
        )
    if not pairing.pairs:
        raise FileError(f"{images}, {masks}: expected images and masks with like names, got none")
    if pairing.unpaired:
        names = shortened([path.name for path in pairing.unpaired], 3)
        notes.append(f"left out {len(pairing.unpaired)} files without a partner: {names}")
    first = pairing.pairs[0]
    paths = ", ".join(path.name for path in first.images)
    notes.append(f"paired by name, for example {paths} with {first.mask.name}")
    return pairing.pairs, notes


def _channel_names(pairs: Sequence[Pair], given: Sequence[str] | None) -> Sequence[str]:
    number = len(pairs[0].images)
    if problems := [
        f"{pair.case_id}: expected {number} channels as {pairs[0].case_id}, got {len(pair.images)}"
        for pair in pairs
        if len(pair.images) != number
    ]:
        raise FileError(listed("images: expected equal numbers of channels", problems))
    if given is None:
        return ["image"] if number == 1 else [f"image_{index}" for index in range(number)]
    if len(given) != number:
        raise ValueError(f"--channels: expected {number} names, got {len(given)}")
    return given


def _read_all(pairs: Sequence[Pair], progress: Progress | None) -> tuple[str, list[int]]:
    """Read every file once.

    Returns:
        The ending for all files, and all values in the masks.

    Raises:
        FileError: files cannot be read or do not fit; the message lists all.
    """
    endings = {file_ending(path) for pair in pairs for path in (*pair.images, pair.mask)}
    kept = endings.pop() if len(endings) == 1 else ""
    kept = kept if kept in SPATIAL_DIMS else ""
    values: set[int] = set()
    dims: dict[int, Path] = {}
    problems: list[str] = []
    for pair in followed(pairs, len(pairs), progress):
        try:
            images, mask = [read_volume(path) for path in pair.images], read_volume(pair.mask)
        except FileError as error:
            problems.append(str(error))
            continue
        dims.setdefault(images[0].array.ndim, images[0].path)
        ending = kept or _ENDING_FOR[images[0].array.ndim]
        for volume in (*images[1:], mask):
            problems.extend(grid_problems(volume, images[0], there=str(images[0].path)))
        problems.extend(problem for image in images for problem in _format_problems(image, ending))
        found = value_counts(mask.array)
        if wrong := [v for v in found if v < 0 or not float(v).is_integer()]:
            problems.append(
                f"{mask.path}: expected whole numbers from 0 as label values, got "
                f"{shortened(wrong)}"
            )
        else:
            values.update(map(int, found))
    if len(dims) > 1:
        problems.append(f"expected 2D or 3D, got both: {shortened(list(dims.values()))}")
    if problems:
        raise FileError(listed(f"{len(problems)} problems", problems))
    return kept or _ENDING_FOR[next(iter(dims))], sorted(values)


def _format_problems(image: Volume, ending: str) -> list[str]:
    """One line if the intensities do not fit into the format."""
    if ending != ".png" or file_ending(image.path) == ".png":
        return []
    array = image.array
    with np.errstate(invalid="ignore"):
        if np.array_equal(array, array.astype(np.uint16)):
            return []
    return [
        f"{image.path}: expected whole intensities from 0 to 65535, because the data set is "
        f"written as PNG, got {array.dtype} from {array.min():g} to {array.max():g}"
    ]


def _write_case(
    pair: Pair, folder: Path, ending: str, new_value: Mapping[int, int], link: bool
) -> None:
    for channel, path in enumerate(pair.images):
        target = folder / "imagesTr" / f"{pair.case_id}_{channel:04d}{ending}"
        if _is_as_it_should(path, ending):
            _copy(path, target, link)
        else:
            image = read_volume(path)
            fits = ending != ".png" or image.array.dtype == np.uint8
            write_like(target, image.array if fits else image.array.astype(np.uint16), image)
    mask, target = read_volume(pair.mask), folder / "labelsTr" / f"{pair.case_id}{ending}"
    is_numbered = all(old == new for old, new in new_value.items())
    if is_numbered and mask.array.dtype.kind in "ui" and _is_as_it_should(pair.mask, ending):
        _copy(pair.mask, target, link)
        return
    label = np.zeros(mask.array.shape, np.uint8)
    for old, new in new_value.items():
        label[mask.array == old] = new
    write_like(target, label, mask)


def _is_as_it_should(path: Path, ending: str) -> bool:
    return file_ending(path) == ending and ending in _SINGLE_FILES


def _copy(path: Path, target: Path, link: bool) -> None:
    if link:
        target.symlink_to(path.resolve())
    else:
        shutil.copyfile(path, target)


@contextmanager
def _folder_whole(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends, or is deleted if it raises."""
    temporary = out.with_name(f".part-{os.getpid()}-{out.name}")
    try:
        for part in ("imagesTr", "labelsTr"):
            (temporary / part).mkdir(parents=True)
        yield temporary
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
