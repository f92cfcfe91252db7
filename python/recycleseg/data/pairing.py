"""Which mask belongs to which image, by their names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recycleseg.data.volumes import case_and_channel, case_name, file_ending
from recycleseg.files import FileError

_IMAGE_WORDS = ("images?", "imgs?", "im", "scans?", "volumes?", "vol", "orig", "raw")
_MASK_WORDS = (
    *("masks?", "seg", "segm", "segmentations?", "labels?", "labelmap", "lbl", "gt"),
    *("ground[-_ ]?truth", "truth", "annotations?", "manual", "roi"),
)
_SEPARATOR = r"[-_. ]+"
# Files that go with an image of the same name.
_COMPANIONS = (".json", ".raw", ".zraw")


@dataclass(frozen=True)
class Pair:
    """An image with its mask.

    Attributes:
        case_id: the name of the image without ending and channel number.
        images: one file, or folder with a DICOM series, per channel.
        mask: the file of the mask, or folder.
    """

    case_id: str
    images: tuple[Path, ...]
    mask: Path


@dataclass(frozen=True)
class Pairing:
    """The result of `pair_by_name`.

    Attributes:
        pairs: sorted by case_id.
        unpaired: images without mask and masks without image; a file that fits to several others
            counts too.
        ignored: files of other kinds.
    """

    pairs: tuple[Pair, ...]
    unpaired: tuple[Path, ...]
    ignored: tuple[Path, ...]


def pair_by_name(images: Path, masks: Path) -> Pairing:
    """Find the mask of every image.

    Names fit if they are equal without ending; or if they are equal without words such as image,
    mask, seg, label or gt at their beginning or end; or if the image has a channel number
    (CASE_0000, CASE_0001) and the rest fits. A sub-folder counts as an image or mask, because it
    may hold a DICOM series.

    Args:
        images: folder of images.
        masks: folder of masks. If it is the same folder, masks are the names with a word for masks.

    Raises:
        FileError: a folder does not exist.
    """
    image_paths, ignored = _entries(images)
    mask_paths, ignored_masks = _entries(masks)
    if images.resolve() == masks.resolve():
        mask_paths = [
            p for p in image_paths if _bare(case_name(p), _MASK_WORDS) != case_name(p).casefold()
        ]
        image_paths = [path for path in image_paths if path not in mask_paths]
        ignored_masks = []
    pairs: list[Pair] = []
    for name, key in _WAYS:
        images_by_key = _grouped(image_paths, [key(name(path)) for path in image_paths])
        masks_by_key = _grouped(mask_paths, [key(case_name(path)) for path in mask_paths])
        pairs += _pairs_of(images_by_key, masks_by_key, name)
        taken = {path for pair in pairs for path in (*pair.images, pair.mask)}
        image_paths = [path for path in image_paths if path not in taken]
        mask_paths = [path for path in mask_paths if path not in taken]
    return Pairing(
        pairs=tuple(sorted(pairs, key=lambda pair: pair.case_id)),
        unpaired=(*image_paths, *mask_paths),
        ignored=(*ignored, *ignored_masks),
    )


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files of known kinds and sub-folders; and other files."""
    if not folder.is_dir():
        got = "a file" if folder.exists() else "a path that does not exist"
        raise FileError(f"{folder}: expected a folder, got {got}")
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    known = [path for path in paths if file_ending(path) or path.is_dir()]
    names = {case_name(path) for path in known} | {_without_channel(path) for path in known}
    return known, [
        path
        for path in paths
        if path not in set(known) and not (path.suffix in _COMPANIONS and path.stem in names)
    ]


def _grouped(paths: Sequence[Path], keys: Sequence[str]) -> dict[str, list[Path]]:
    groups = defaultdict(list)
    for path, key in zip(paths, keys, strict=True):
        groups[key].append(path)
    return groups


def _pairs_of(
    images: Mapping[str, list[Path]],
    masks: Mapping[str, list[Path]],
    name: Callable[[Path], str],
) -> Iterator[Pair]:
    """The groups of images, one file or one per channel, that have the key of exactly one mask."""
    for key, paths in images.items():
        numbers = [case_and_channel(case_name(path))[1] for path in paths]
        # Sorted paths are in the order of their channels.
        if len(paths) > 1 and numbers != list(range(len(paths))):
            continue
        if len(masks.get(key, ())) == 1:
            yield Pair(name(paths[0]), tuple(paths), masks[key][0])


def _without_channel(path: Path) -> str:
    return case_and_channel(case_name(path))[0]


def _bare(stem: str, words: Sequence[str] = (*_IMAGE_WORDS, *_MASK_WORDS)) -> str:
    """The name in lower case without words at its beginning and end, but never empty."""
    word = f"(?:{'|'.join(words)})"
    # A digit may touch the word: mask001, 001mask.
    affix = re.compile(
        rf"^{word}(?:{_SEPARATOR}|(?=\d))(?=.)|(?<=.)(?:{_SEPARATOR}|(?<=\d)){word}$"
    )
    bare, count = stem.casefold(), 1
    while count:
        bare, count = affix.subn("", bare, count=1)
    return bare


# How the name of an image becomes its case_id, and how names become comparable; the surest first.
_WAYS: tuple[tuple[Callable[[Path], str], Callable[[str], str]], ...] = (
    *((case_name, str), (case_name, _bare)),
    *((_without_channel, str), (_without_channel, _bare)),
)
