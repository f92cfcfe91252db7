"""`recycle-data convert`: a data set from a folder of images and a folder of masks."""

from __future__ import annotations

import shlex
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from recycleseg.cli._arguments import Guide
from recycleseg.cli._common import new_parser
from recycleseg.cli._paths import check_exists
from recycleseg.data.convert import convert
from recycleseg.evaluation.labels import read_labels
from recycleseg.progress import plain_console, print_line, stages

HELP = "make a data set from images and masks"
GUIDE = Guide("recycle-data convert scans masks Dataset123_Name --channels CT")


def build_parser() -> ArgumentParser:
    """The verb's parser."""
    parser = new_parser(
        "recycle-data convert",
        "Make a data set in the nnU-Net raw layout from images and masks, paired by "
        "their names. Your files are only read.",
    )
    add = parser.add_argument
    add("images", type=str, help="folder of images")
    add("masks", type=str, help="folder of masks; it may be the same folder")
    add("out", type=str, help="new folder for the data set")
    add("--name", type=str, help="name of the data set; by default that of OUT")
    add("--labels", type=str, help='JSON text or file: name -> value in the masks, {"organ": 1}')
    add("--channels", type=str, nargs="+", help="what the channels are: CT, T1, ultrasound")
    add("--skip-unpaired", action="store_true", help="leave out files without a partner")
    add("--link", action="store_true", help="link files that need no change, do not copy them")
    return parser


def run(parsed: Namespace) -> int:
    """Convert the folders; gives the exit code."""
    if parsed.labels is not None and not parsed.labels.lstrip().startswith("{"):
        check_exists("--labels", "a JSON file or {...}", parsed.labels)
    console, out = plain_console(quiet=parsed.quiet), Path(parsed.out)
    with stages(console, "reading", "writing") as progress:
        converted = convert(
            Path(parsed.images),
            Path(parsed.masks),
            out,
            name=parsed.name,
            labels=None if parsed.labels is None else read_labels(parsed.labels),
            channel_names=parsed.channels,
            skip_unpaired=parsed.skip_unpaired,
            link=parsed.link,
            progress=progress,
        )
    for note in converted.notes:
        print_line(console, note)
    if parsed.channels is None:
        print_line(console, "no --channels, so images are not treated as CT (--channels CT)")
    classes = ", ".join(f"{name} {value}" for name, value in converted.labels.items())
    print_line(console, f"{out}: {converted.num_cases} cases, labels {classes}")
    print_line(console, f"next: recycle-data check {shlex.quote(str(out))}")
    return 0
