"""How the probabilities in a folder were stored, and how label maps were made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recycleseg.files import FileError, read_json_object

# nnU-Net's readers, and whether they turn an image to the axes right, anterior, superior before
# they reverse the order of its axes. Source: nnunetv2/imageio of github.com/MIC-DKFZ/nnUNet.
_READERS = {
    "SimpleITKIO": False,
    "NibabelIO": False,
    "NaturalImage2DIO": False,
    "Tiff3DIO": False,
    "NibabelIOWithReorient": True,
    "SimpleITKIOWithReorient": True,
}
# nnU-Net writes plans.json beside its predictions and takes the reader from there. The reader in
# dataset.json is the user's wish, which a plan follows.
_NAMED_IN = (
    ("plans.json", "image_reader_writer"),
    ("dataset.json", "overwrite_image_reader_writer"),
)
_THRESHOLD = 0.5
# Removing components changes no voxel that stays in a structure; what remains is rounding.
_CHANGED, _CHANGED_BY_RULES = 0.05, 0.5


@dataclass(frozen=True)
class Origin:
    """How probabilities were stored and decided.

    Attributes:
        canonical: whether the array has the axes right, anterior, superior, not those of the file.
        thresholds: of overlapping regions: one for all, or one per region.
        sums_to_one: whether the numbers of exclusive classes add up to 1.
        most_changed: the largest share of the voxels of structures in a label map that may have
            another class in the probabilities.
    """

    canonical: bool = False
    thresholds: tuple[float, ...] = (_THRESHOLD,)
    sums_to_one: bool = True
    most_changed: float = _CHANGED


def origin_of_record(record: Mapping[str, Any]) -> Origin:
    """The origin of what recycle-predict or recycle-ensemble wrote, from their record."""
    options = record.get("options")
    options = options if isinstance(options, Mapping) else {}
    method, thresholds = options.get("method"), options.get("thresholds")
    if method == "majority":  # more than half of the votes
        thresholds = [_THRESHOLD + 2**-24]  # the next float32
    rules = options.get("postprocess")
    rules = rules.values() if isinstance(rules, Mapping) else (rules,)
    return Origin(
        thresholds=tuple(thresholds or (_THRESHOLD,)),
        sums_to_one=method != "max",
        most_changed=_CHANGED_BY_RULES if any(rules) else _CHANGED,
    )


def foreign_origin(root: Path, description: Path | None = None) -> Origin:
    """The origin of what nnU-Net or another program wrote.

    Args:
        root: the folder of predictions.
        description: a dataset.json elsewhere; None takes the one in `root`.

    Raises:
        FileError: a file names a reader whose order of axes is not known.
    """
    for name, key in _NAMED_IN:
        path = description if name == "dataset.json" and description is not None else root / name
        reader = read_json_object(path).get(key) if path.is_file() else None
        if reader in (None, "None"):
            continue
        if not isinstance(reader, str) or reader not in _READERS:
            raise FileError(
                f"{path}: {key}: expected one of {', '.join(_READERS)}, whose order of axes is "
                f"known, got {reader!r}"
            )
        return Origin(canonical=_READERS[reader])
    return Origin()
