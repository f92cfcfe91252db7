"""The names of the segments in DICOM-SEG masks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from recycleseg.classes import Labels
from recycleseg.data.formats.dicom_seg import segment_names
from recycleseg.data.volumes import file_ending
from recycleseg.files import FileError


def classes_of_segments(masks: Iterable[Path]) -> Labels:
    """The classes of masks, as their DICOM-SEG files name them.

    Args:
        masks: files of any format.

    Returns:
        Name -> label value, which is the number of the segment; empty if a mask is no DICOM-SEG or
        if two segments have one name.

    Raises:
        FileError: one number has different names in two files, so label values would mean
            different things in different cases.
    """
    known: dict[int, tuple[str, Path]] = {}
    all_named = True
    for path in masks:
        names = segment_names(path) if file_ending(path) == ".dcm" else {}
        all_named &= bool(names)
        for number, name in names.items():
            other, where = known.setdefault(number, (name, path))
            if other != name:
                raise FileError(
                    f'{path}: expected the name "{other}" for segment {number} as in {where}, got '
                    f'"{name}"; export all masks with the same segments in the same order'
                )
    classes: Labels = {name: number for number, (name, _) in sorted(known.items())}
    return classes if all_named and len(classes) == len(known) else {}
