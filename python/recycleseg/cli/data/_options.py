"""Options that several verbs share."""

from __future__ import annotations

from jsonargparse import ArgumentParser

from recycleseg.data.volumes import PixelSize


def add_pixel_size(parser: ArgumentParser) -> None:
    """Add `--pixel-size`, which must be as in training for the same answer."""
    parser.add_argument(
        "--pixel-size",
        type=PixelSize,
        default="auto",
        help="which pixel sizes of files count: auto (not a screen's), file (all) or ignore (none)",
    )
