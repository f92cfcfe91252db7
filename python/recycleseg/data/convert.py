"""Make a data set in the nnU-Net raw layout from a folder of images and a folder of masks."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recycleseg.classes import Labels
from recycleseg.data.check import grid_problems
from recycleseg.data.facts import value_counts
from recycleseg.data.numbering import number_classes
from recycleseg.data.pairing import Pair, Pairing, pair_by_name
from recycleseg.data.regrid import on_grid
from recycleseg.data.segments import classes_of_segments
from recycleseg.data.volumes import (
    SINGLE_FILES,
    SPATIAL_DIMS,
    Volume,
    file_ending,
    read_image,
    read_label,
    write_like,
)
from recycleseg.files import FileError, listed, one_or_listed, part_of_file, shortened, write_json
from recycleseg.names import case_problem, file_name, folded
from recycleseg.progress import Progress, followed

# DICOM can be written for labels only.
_KEPT = set(SPATIAL_DIMS) - {".dcm"}
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
    same, and files that need no change are copied; otherwise 3D becomes .nii.gz and 2D .png.

    Args:
        images: folder of images.
        masks: folder of masks; it may be the same folder.
        out: folder that does not exist or is empty.
        name: of the data set; by default that of `out`.
        labels: name -> value in the masks, or values of a region. By default every value is a
            class of its own, with the name of its segment if all masks are DICOM-SEG. If there is
            one name and one value, the value need not fit.
        channel_names: by default "image", or "image_0", "image_1", ...
        skip_unpaired: leave out files without a partner.
        link: make symbolic links instead of copies.
        progress: called with the number of cases done and of all cases; all cases count twice,
            first while they are read, then while they are written.

    Raises:
        FileError: files have no partner, cannot be read, or do not fit; or `out` is not empty.
        ValueError: labels or channel names do not fit to the files.
    """
    name = name or out.absolute().name
    out = Path(os.path.realpath(out))  # a folder cannot take the place of a link
    _check_out(out, (images, masks))
    pairing = pair_by_name(images, masks)
    pairs, notes = _chosen(pairing, images, masks, skip_unpaired)
    pairs = tuple(_named(pairs, notes))
    content = _read_all(pairs, progress)
    classes = labels or classes_of_segments(pair.mask for pair in pairs)
    if content.moved:
        notes.append(
            "put on the grid of their images, because the order of the axes differed or slices "
            f"without a segment were left out: {shortened([m.name for m in content.moved], 3)}"
        )
    names = _channel_names(content.num_channels, channel_names)
    numbering = number_classes(content.values, classes or None)
    with _folder_whole(out) as folder:
        for pair in followed(pairs, len(pairs), progress):
            _write_case(pair, folder, content, numbering.new_value, link)
        description = {
            "name": name,
            "channel_names": {str(index): channel for index, channel in enumerate(names)},
            "labels": numbering.labels,
            "numTraining": len(pairs),
            "file_ending": content.ending,
        }
        write_json(folder / "dataset.json", description)
    return Converted(len(pairs), content.ending, numbering.labels, (*notes, *numbering.notes))


def _check_out(out: Path, sources: Sequence[Path]) -> None:
    if out.is_dir() and any(out.iterdir()):
        raise FileError(f"{out}: expected an empty or new folder, got one with files")
    if out.exists() and not out.is_dir():
        raise FileError(f"{out}: expected an empty or new folder, got a file")
    if os.path.ismount(out):
        raise FileError(f"{out}: expected a new folder, got a mounted disk; choose a folder in it")
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
                f"{len(pairing.unpaired)} without a partner beside {len(pairing.pairs)} pairs "
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


def _named(pairs: Sequence[Pair], notes: list[str]) -> Iterator[Pair]:
    """The pairs with names that cases may have, and that differ on every file system.

    Raises:
        FileError: two pairs have one name.
    """
    alike = Counter(folded(pair.case_id) for pair in pairs)
    taken: dict[str, Pair] = {}
    for pair in pairs:
        name = pair.case_id
        if case_problem(name) or alike[folded(name)] > 1:
            name = file_name(name)
        if twin := taken.get(folded(name)):
            raise FileError(
                f"{pair.images[0]}: expected another case than {twin.images[0]}, got {name} twice"
            )
        if name != pair.case_id:
            notes.append(f"renamed, because of the letters of the name: {pair.case_id} to {name}")
        taken[folded(name)] = pair
        yield replace(pair, case_id=name)


@dataclass(frozen=True)
class _Content:
    """What all files together hold.

    Attributes:
        ending: for all files of the data set.
        kept: whether all files have this ending already, and all images as many files.
        num_channels: of every case.
        values: in the masks.
        moved: masks that had to be put on the grid of their image.
    """

    ending: str
    kept: bool
    num_channels: int
    values: list[int]
    moved: list[Path]


def _read_all(pairs: Sequence[Pair], progress: Progress | None) -> _Content:
    """Read every file once.

    Raises:
        FileError: files cannot be read or do not fit; the message lists all.
    """
    endings = {file_ending(path) for pair in pairs for path in (*pair.images, pair.mask)}
    alike = len(endings) == 1 and len({len(pair.images) for pair in pairs}) == 1
    kept = endings.pop() if alike and endings <= _KEPT else None
    values: set[int] = set()
    dims: dict[int, Path] = {}
    channels: dict[tuple[Path, ...], int] = {}
    moved: list[Path] = []
    problems: list[str] = []
    for pair in followed(pairs, len(pairs), progress):
        try:
            images, stored = _read_fewest(pair.images), read_label(pair.mask)
        except FileError as error:
            problems.append(str(error))
            continue
        first = images[0]
        dims.setdefault(first.array.ndim, first.path)
        channels[pair.images] = len(images)
        mask = on_grid(stored, first)
        if mask is not stored:
            moved.append(pair.mask)
        for volume in (*images[1:], mask):
            problems.extend(grid_problems(volume, first, there=str(first.path)))
        if kept is None:
            problems.extend(problem for image in images for problem in _new_format_problems(image))
        found = value_counts(mask.array)
        if negative := [value for value in found if value < 0]:
            problems.append(f"{mask.path}: expected label values from 0, got {shortened(negative)}")
        values.update(map(int, found))
    if len(set(channels.values())) > 1:
        # Images that look grey may have colours too.
        channels = {paths: len(read_image(paths)) for paths in channels}
    of_numbers = dict(sorted((number, paths[0]) for paths, number in channels.items()))
    for what, several in (("axes", dims), ("channels", of_numbers)):
        if len(several) > 1:
            got = ", ".join(f"{number} in {path}" for number, path in several.items())
            problems.append(f"expected equal numbers of {what} in all images, got {got}")
    if problems:
        raise FileError(one_or_listed("", problems))
    ending = kept or _ENDING_FOR[next(iter(dims))]
    return _Content(ending, kept is not None, next(iter(of_numbers)), sorted(values), moved)


def _read_fewest(paths: Sequence[Path]) -> list[Volume]:
    """One channel per file if that is all that the files have, such as grey stored as RGB."""
    try:
        return read_image(paths, len(paths))
    except FileError:
        return read_image(paths)


def _channel_names(number: int, given: Sequence[str] | None) -> Sequence[str]:
    if given is None:
        return ["image"] if number == 1 else [f"image_{index}" for index in range(number)]
    if len(given) != number:
        raise ValueError(f"--channels: expected {number} names, got {len(given)}")
    return given


def _new_format_problems(image: Volume) -> list[str]:
    """One line if a volume has no voxel size for NIfTI, or intensities do not fit into a PNG."""
    array = image.array
    if array.ndim == 3:
        wanted = "expected a voxel size, because the data set is written as NIfTI, got none"
        return [] if image.spacing else [f"{image.path}: {wanted}"]
    with np.errstate(invalid="ignore"):
        if np.array_equal(array, array.astype(np.uint16)):
            return []
    return [
        f"{image.path}: expected whole intensities from 0 to 65535, because the data set is "
        f"written as PNG, got {array.dtype} from {array.min():g} to {array.max():g}"
    ]


def _write_case(
    pair: Pair, folder: Path, content: _Content, new_value: Mapping[int, int], link: bool
) -> None:
    ending = content.ending
    may_copy = content.kept and ending in SINGLE_FILES
    images: Sequence[Path | Volume] = pair.images
    if not may_copy:
        images = read_image(pair.images, content.num_channels)
    for channel, image in enumerate(images):
        target = folder / "imagesTr" / f"{pair.case_id}_{channel:04d}{ending}"
        if isinstance(image, Path):
            _copy(image, target, link)
        else:
            write_like(target, _storable(image.array, ending), image)
    target = folder / "labelsTr" / f"{pair.case_id}{ending}"
    is_moved = pair.mask in content.moved
    if may_copy and not is_moved and all(old == new for old, new in new_value.items()):
        _copy(pair.mask, target, link)
        return
    mask = read_label(pair.mask)
    if is_moved:
        mask = on_grid(mask, read_image(pair.images)[0])
    label = np.zeros(mask.array.shape, np.uint8)
    for old, new in new_value.items():
        label[mask.array == old] = new
    write_like(target, label, mask)


def _storable(array: np.ndarray[Any, Any], ending: str) -> np.ndarray[Any, Any]:
    """Equal values of a dtype that the format holds."""
    if ending == ".png" and array.dtype != np.uint8:
        return array.astype(np.uint16)
    if ending in (".tif", ".tiff") and array.dtype not in (np.uint8, np.uint16, np.float32):
        return array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
    return array


def _copy(path: Path, target: Path, link: bool) -> None:
    if link:
        target.symlink_to(path.resolve())
    else:
        shutil.copyfile(path, target)


@contextmanager
def _folder_whole(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends, or is deleted if it raises."""
    temporary = part_of_file(out)
    try:
        for part in ("imagesTr", "labelsTr"):
            (temporary / part).mkdir(parents=True)
        yield temporary
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
