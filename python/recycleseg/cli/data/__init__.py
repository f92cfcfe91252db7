"""`recycle-data`: look at a data set, and make one; one file per verb."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from recycleseg.cli._common import parse, run_command
from recycleseg.cli._paths import check_exists
from recycleseg.cli._verbs import Verbs
from recycleseg.cli.data import cache, check, convert, plan, show, split

_MODULES = {
    "check": check,
    "show": show,
    "plan": plan,
    "split": split,
    "convert": convert,
    "cache": cache,
}
VERBS = Verbs(
    "recycle-data",
    "Look at a data set before you train on it, or make one from your files.",
    {verb: module.HELP for verb, module in _MODULES.items()},
    {verb: module.build_parser for verb, module in _MODULES.items()},
    check.GUIDE.example,
)
_DATA_SET = "a data set in the nnU-Net raw layout"
# Positional arguments that are read -> what they should be.
_READ = {"dir": _DATA_SET, "images": "a folder of images", "masks": "a folder of masks"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `recycle-data`; gives the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return run_command("recycle-data", lambda: _run(given), "run the same command again")


def _run(arguments: Sequence[str]) -> int:
    verb, rest = VERBS.choose(arguments)
    module = _MODULES[verb]
    parsed = parse(module.build_parser(), rest, module.GUIDE)
    for name, expected in _READ.items():
        if name in parsed:
            check_exists(name.upper(), expected, parsed[name])
    code: int = module.run(parsed)
    return code
