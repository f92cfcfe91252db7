"""Find the cases to predict in image files, in folders of images, or in a data set."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Literal

from recycleseg.data.layout import Case, read_dataset
from recycleseg.data.split_files import SPLITS
from recycleseg.data.splits import SplitRule
from recycleseg.data.volumes import (
    SPATIAL_DIMS,
    case_and_channel,
    case_name,
    file_ending,
    is_series,
)
from recycleseg.files import FileError, one_or_listed

SplitName = Literal["train", "val", "test", "all"]


def find_cases(
    sources: Sequence[Path], channel_names: Sequence[str], spatial_dims: int
) -> tuple[Case, ...]:
    """Find cases in image files and folders of images, without opening an image.

    In a folder, only files with an ending that fits the number of axes count, and folders with a
    DICOM series; beside those every DICOM file counts, and every folder with folders or with files
    that may be DICOM by their names, so that a damaged series is seen. A folder that has only DICOM
    files is a case itself. If a case has several channels, its files are CASE_0000, CASE_0001, ...,
    and one of them stands for all of them in its folder. If a case has one channel, or no file is
    named CASE_0001, its file is CASE or CASE_0000.

    Args:
        sources: files and folders.
        channel_names: one per channel.
        spatial_dims: 2 or 3.

    Returns:
        The cases, sorted by id.

    Raises:
        FileError: a source does not exist or holds no image, a name has no channel number, a
            channel is missing, or a case has two files. The message lists all problems.
    """
    endings = tuple(e for e, dims in SPATIAL_DIMS.items() if spatial_dims in dims)
    problems: list[str] = []
    files: dict[Path, None] = {}  # keeps the order, and each file once
    for source in sources:
        files.update(dict.fromkeys(_files_of(source, endings, len(channel_names), problems)))
    together = not any(_channel_of(path) for path in files)
    named = channel_names[:1] if together else channel_names
    found: dict[str, dict[int, Path]] = {}
    for path in files:
        parsed = _case_and_channel(path, files, named)
        if isinstance(parsed, str):
            problems.append(parsed)
            continue
        case_id, channel = parsed
        other = found.setdefault(case_id, {}).setdefault(channel, path)
        if other != path:
            problems.append(f"{other}, {path}: expected one file for case {case_id}, got two")
    cases = []
    for case_id, by_channel in sorted(found.items()):
        paths = _all_channels(case_id, by_channel, len(named))
        cases.append(Case(case_id, paths, None))
    problems.extend(_missing(cases))
    if problems:
        raise _error(problems)
    return tuple(cases)


def find_split_cases(
    root: Path,
    split: SplitName,
    channel_names: Sequence[str],
    spatial_dims: int,
    rule: SplitRule = SplitRule(),  # noqa: B008
) -> tuple[Case, ...]:
    """Find the cases of one part of a data set in the nnU-Net raw layout, in its imagesTr.

    Args:
        root: folder of the data set.
        split: the part.
        channel_names: one per channel.
        spatial_dims: 2 or 3.
        rule: how the data set is split; see `choose_split`.

    Returns:
        The cases, sorted by id.

    Raises:
        FileError: `root` is not a data set or has other channels or axes, a channel is missing,
            or the part has no case.
        ValueError: the rule does not fit the data set.
    """
    dataset = read_dataset(root, rule)
    for name, expected, got in (
        ("channels", len(channel_names), len(dataset.channel_names)),
        ("axes", spatial_dims, dataset.spatial_dims),
    ):
        if expected != got:
            raise FileError(f"{root}: expected images with {expected} {name}, got {got}")
    parts = SPLITS if split == "all" else (split,)
    case_ids = sorted({case_id for part in parts for case_id in dataset.split[part]})
    # Whoever predicts them says what is wrong with their names.
    nameless = tuple(dataset.left_out.values()) if split == "all" else ()
    if not case_ids:
        raise FileError(f"{root}: expected cases in the {split} split, got none")
    cases = tuple(Case(name, dataset.cases[name].image_paths, None) for name in case_ids)
    if problems := _missing(cases):
        raise _error(problems)
    return (*cases, *nameless)


def _files_of(
    source: Path, endings: tuple[str, ...], num_channels: int, problems: list[str]
) -> list[Path]:
    """The image files that a file or folder stands for; adds what is wrong to `problems`."""
    expected = ", ".join(endings)
    if not source.is_dir():
        if not source.exists():
            problems.append(f"{source}: expected a file or folder, got a path that does not exist")
            return []
        if file_ending(source) not in endings:
            problems.append(f"{source}: expected a folder or a file ending in {expected}")
            return []
        return [source, *_siblings(source, num_channels)]
    if (source / "dataset.json").is_file():
        problems.append(
            f"{source}: expected a folder of images, got a data set; give its folder imagesTs, or "
            "choose the part to predict with --split train|val|test|all"
        )
        return []
    names = sorted(path.name for path in source.iterdir() if not path.name.startswith("."))
    images = [source / name for name in names if _is_image(source / name, endings)]
    if any(image.is_dir() for image in images):
        # Beside series, a folder in which none is found is a scan too: reading it says what is
        # wrong, and the other cases go on.
        images = [source / name for name in names if _is_scan(source / name, images)]
    if not images and ".dcm" in endings and is_series(source):
        return [source.absolute(), *_siblings(source.absolute(), num_channels)]
    if not images:
        got = f"{len(names)} other files such as {names[0]}" if names else "an empty folder"
        problems.append(f"{source}: expected images ending in {expected}, got {got}")
    return images


def _siblings(path: Path, num_channels: int) -> list[Path]:
    """All files of the same case that exist."""
    case_id, channel = case_and_channel(case_name(path))
    if channel is None or num_channels == 1:
        return []
    names = [f"{case_id}_{c:04d}{_ending_as_written(path)}" for c in range(num_channels)]
    return [path.with_name(name) for name in names if path.with_name(name).exists()]


def _is_image(path: Path, endings: tuple[str, ...]) -> bool:
    # A .dcm file in a folder is a slice of its series.
    ending = file_ending(path)
    return ending in endings and (ending != ".dcm" or path.is_dir())


def _is_scan(path: Path, images: Collection[Path]) -> bool:
    if path.is_dir():
        inside = path.iterdir()
        return path in images or any(p.is_dir() or p.suffix.lower() in ("", ".dcm") for p in inside)
    return path in images or file_ending(path) == ".dcm"


def _channel_of(path: Path) -> int:
    return case_and_channel(case_name(path))[1] or 0


def _ending_as_written(path: Path) -> str:
    return path.name.removeprefix(case_name(path))


def _case_and_channel(
    path: Path, files: Iterable[Path], channel_names: Sequence[str]
) -> tuple[str, int] | str:
    """Case id and channel number in the name of a file, or what is wrong with the name."""
    stem, ending = case_name(path), _ending_as_written(path)
    case_id, channel = case_and_channel(stem)
    if channel == 0:
        return case_id, 0
    if len(channel_names) == 1:
        # CASE_0001 is a channel only if CASE_0000 exists; otherwise the number is part of the id.
        if channel is None or path.with_name(f"{case_id}_0000{ending}") not in files:
            return stem, 0
        return f"{path}: expected one channel, {channel_names[0]}, got number {channel} of a case"
    if channel is None or channel >= len(channel_names):
        last = len(channel_names) - 1
        return (
            f"{path}: expected a name CASE_0000{ending} to CASE_{last:04d}{ending} for the "
            f"channels {', '.join(channel_names)}, got {path.name}"
        )
    return case_id, channel


def _all_channels(case_id: str, by_channel: dict[int, Path], num_channels: int) -> tuple[Path, ...]:
    """The file of every channel; a missing file gets the name that it should have."""
    known = next(iter(by_channel.values()))
    return tuple(
        by_channel.get(c, known.with_name(f"{case_id}_{c:04d}{_ending_as_written(known)}"))
        for c in range(num_channels)
    )


def _missing(cases: Iterable[Case]) -> list[str]:
    # A broken link counts as a file: reading it gives a clear message, and other cases go on.
    return [
        f"{path}: expected channel {channel} of case {case.case_id}, got a path that does not exist"
        for case in cases
        for channel, path in enumerate(case.image_paths)
        if not path.exists() and not path.is_symlink()
    ]


def _error(problems: list[str]) -> FileError:
    return FileError(one_or_listed("input: ", problems))
