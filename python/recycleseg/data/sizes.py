"""What to say about images whose voxel size is unknown, or known and not used."""

from __future__ import annotations

from collections.abc import Sequence

from recycleseg.data.volumes import Volume

_SCREEN = "72 or 96 dots per inch, the resolution of a screen"
_WRITE = "write the real size into the files (PNG: chunk pHYs; TIFF: resolution)"
# The options that say which sizes count, in training and in evaluation.
TRAINING_OPTION = "--preprocess.pixel-size"
EVALUATION_OPTION = "--pixel-size"


def screen_note(number: int, total: int, what: str, option: str) -> str:
    """That files give the resolution of a screen, what follows, and how to give the real size.

    Args:
        number: of such files or cases.
        total: of all.
        what: "images" or "cases".
        option: the option that can believe the files.
    """
    return (
        f"{number} of {total} {what} give {_SCREEN}, so the size of their pixels in mm counts as "
        f"unknown; if it is the real size, use {option} file, otherwise {_WRITE}"
    )


def unused_note(number: int, num_screen: int, total: int) -> str:
    """That images give a voxel size which a model of pixels does not use.

    Args:
        number: of such images.
        num_screen: how many of these give the resolution of a screen.
        total: of all images.
    """
    screen = f" ({num_screen} of them {_SCREEN})" if num_screen else ""
    return (
        f"{number} of {total} images give the size of their pixels{screen}; it is not used, "
        "because the model was trained in pixels"
    )


def unknown_size(volume: Volume) -> str:
    """Why a model of mm cannot take this image."""
    given = "none" if volume.screen_spacing is None else _SCREEN
    return (
        f"{volume.path}: expected the size of its pixels, because the model was trained in mm, got "
        f"{given}; {_WRITE}"
    )


def mixed_sizes(
    known: Sequence[str],
    unknown: Sequence[str],
    num_screen: int,
    *,
    what: str = "images",
    option: str = TRAINING_OPTION,
) -> list[str]:
    """What is wrong if some images give their voxel size and others do not.

    Args:
        known, unknown: names of the images whose voxel size is known, and of the others.
        num_screen: how many give the resolution of a screen.
        what: "images" or "cases".
        option: the option that says which sizes count.

    Returns:
        One line, or none if all images are of one kind.
    """
    if not known or not unknown:
        return []
    screen = f" ({num_screen} give {_SCREEN})" if num_screen else ""
    all_screen = num_screen == len(unknown)
    believe = f", or believe these with {option} file" if all_screen else ""
    return [
        f"expected the size of the pixels in all {what} or in none, got {len(known)} with it, such "
        f"as {known[0]}, and {len(unknown)} without, such as {unknown[0]}{screen}; {_WRITE}"
        f"{believe}, or count in pixels with {option} ignore"
    ]
