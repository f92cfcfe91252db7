"""`recycleseg`: one entry to all commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from recycleseg.cli import data, ensemble, evaluate, predict, study, train
from recycleseg.cli._common import run_command
from recycleseg.cli._verbs import Verbs

_MAIN = {
    "train": train.main,
    "predict": predict.main,
    "ensemble": ensemble.main,
    "evaluate": evaluate.main,
    "study": study.main,
    "data": data.main,
}
VERBS = Verbs(
    "recycleseg",
    "Train diffusion models that segment medical images, and use them. Each verb is also a command "
    "of its own: recycleseg train is recycle-train.",
    {
        "train": "train a model on a data set, or on built-in images",
        "predict": "segment images with trained models",
        "ensemble": "combine predictions of several models",
        "evaluate": "compare predictions with references",
        "study": "compare all strategies on a data set",
        "data": "check, show, plan, split and convert data sets",
    },
    {
        "train": train.build_parser,
        "predict": predict.build_parser,
        "ensemble": ensemble.build_parser,
        "evaluate": evaluate.build_parser,
        "study": study.build_parser,
        "data": data.VERBS,
    },
    "recycleseg train --data Dataset123_Name",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `recycleseg`; gives the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return run_command("recycleseg", lambda: _run(given), "run the same command again")


def _run(arguments: Sequence[str]) -> int:
    verb, rest = VERBS.choose(arguments)
    return _MAIN[verb](rest)
