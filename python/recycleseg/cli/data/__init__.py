"""`recycle-data`: look at a data set, and make one; one file per verb."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from recycleseg.cli._common import parse, run_command
from recycleseg.cli.data import check, convert, plan, show, split

_VERBS = {"check": check, "show": show, "plan": plan, "split": split, "convert": convert}


def build_parser() -> ArgumentParser:
    """The command's parser, with one parser for each verb."""
    parser = ArgumentParser(
        prog="recycle-data",
        description="Look at a data set before you train on it, or make one from your files.",
        exit_on_error=False,
    )
    subparsers = parser.add_subcommands(dest="verb", metavar="VERB", title="verbs")
    for verb in _VERBS.values():
        verb.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `recycle-data`; gives the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return run_command("recycle-data", lambda: _run(given), "run the same command again")


def _run(arguments: Sequence[str]) -> int:
    parsed = parse(build_parser(), arguments)
    code: int = _VERBS[parsed.verb].run(parsed[parsed.verb])
    return code
