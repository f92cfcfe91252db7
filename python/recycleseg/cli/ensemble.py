"""`recycle-ensemble`: combine several folders of segmentations into one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from jsonargparse import ArgumentParser, Namespace

from recycleseg.cli._arguments import Guide
from recycleseg.cli._common import (
    CONTINUE,
    check_overwrite,
    exit_code_of,
    new_parser,
    parse,
    run_command,
    user_memo,
)
from recycleseg.cli._paths import check_exists
from recycleseg.cli._progress import CaseProgress, failures_of, open_folder
from recycleseg.data.identity import ContentMemo
from recycleseg.data.volumes import file_ending, map_name
from recycleseg.ops.build_info import build_info
from recycleseg.prediction.ensemble import Ensemble, EnsembleOptions, Method
from recycleseg.prediction.folder import PredictionFolder
from recycleseg.prediction.members import (
    Member,
    known_images,
    read_member,
    shared_cases,
    shared_classes,
)
from recycleseg.prediction.process import process_cases
from recycleseg.prediction.record import make_ensemble_record
from recycleseg.progress import plain_console, print_line

GUIDE = Guide(
    "recycle-ensemble -i predictions others -o ensemble",
    loose=("--input", "--out"),
)


def build_parser() -> ArgumentParser:
    """The command's parser."""
    parser = new_parser(
        "recycle-ensemble",
        "Combine the predictions of several models. Each model has a folder of label "
        "maps, with or without probabilities beside them (CASE.npz of recycle-predict or nnU-Net). "
        "Exit code 3: some cases could not be combined.",
    )
    add = parser.add_argument
    add(
        "-i",
        "--input",
        type=str,
        nargs="+",
        required=True,
        metavar="DIR",
        help="folders of predictions",
    )
    add("-o", "--out", type=str, required=True, metavar="DIR", help="folder for the result")
    add("--weights", type=float, nargs="+", help="one per folder; by default all are equal")
    add(
        "--method",
        choices=get_args(Method),
        default="mean",
        help="mean of probabilities, majority of labels, or largest probability",
    )
    add(
        "--thresholds",
        type=float,
        nargs="+",
        help="for overlapping regions: one for all, or one per region; 0.5 by default",
    )
    add("--save-probabilities", action="store_true", help="write CASE.npz as nnU-Net does")
    add("--save-uncertainty", action="store_true", help="write entropy and disagreement in nats")
    add("--labels", type=str, help="dataset.json that names the labels, if no input folder does")
    add("--allow-missing", action="store_true", help="leave out cases that some folders lack")
    add("--overwrite", action="store_true", help="combine again the cases that --out already has")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `recycle-ensemble`; gives the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return run_command("recycle-ensemble", lambda: _combine(given), CONTINUE)


def _combine(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    console = plain_console(quiet=options.quiet)
    labels = None if options.labels is None else Path(options.labels)
    members = tuple(read_member(Path(folder), labels) for folder in options.input)
    classes = shared_classes(members, labels)
    case_ids = shared_cases(members, allow_missing=options.allow_missing)
    settings = EnsembleOptions(
        method=options.method,
        weights=None if options.weights is None else tuple(options.weights),
        thresholds=None if options.thresholds is None else tuple(options.thresholds),
        save_probabilities=options.save_probabilities,
        save_uncertainty=options.save_uncertainty,
    )
    ensemble = Ensemble(members, classes, settings)
    out = Path(options.out)
    if options.overwrite:
        check_overwrite(out, {f"--input {member.root}": member.root for member in members})
    with user_memo() as memo:
        folder = _folder(out, ensemble, case_ids, memo)
        left = open_folder(folder, console, overwrite=options.overwrite)
        print_line(console, _plan(members, ensemble, len(case_ids), len(left)))
        with CaseProgress(console, "combining", len(left)) as progress:
            work = process_cases(left, ensemble, folder, progress.waiting)
            failures = failures_of(progress.follow(work))
    print_line(console, f"{len(case_ids) - len(failures)} cases are in {folder.root}")
    return exit_code_of("recycle-ensemble", "cases could not be combined", failures)


def _parse(arguments: Sequence[str]) -> Namespace:
    options = parse(build_parser(), arguments, GUIDE)
    check_exists("--input", "a folder of predictions", *options.input)
    if options.labels is not None:
        check_exists("--labels", "a dataset.json", options.labels)
    folders = [Path(folder).resolve() for folder in options.input]
    if twice := sorted({str(folder) for folder in folders if folders.count(folder) > 1}):
        raise ValueError(f"--input: expected every folder once, got {', '.join(twice)} repeatedly")
    return options


def _folder(
    root: Path, ensemble: Ensemble, case_ids: Sequence[str], memo: ContentMemo
) -> PredictionFolder:
    members = ensemble.members
    return PredictionFolder(
        root,
        make_ensemble_record(ensemble, environment=build_info()),
        endings={case_id: _ending(members[0].maps[case_id]) for case_id in case_ids},
        images=known_images(members, case_ids),
        sources=[member.root for member in members],
        inputs={case_id: [p for m in members for p in m.files(case_id)] for case_id in case_ids},
        memo=memo,
    )


def _ending(label_map: Path) -> str:
    # DICOM-SEG refers to a series, which the members' label maps do not hold.
    return file_ending(label_map.with_name(map_name(label_map.name)))


def _plan(members: Sequence[Member], ensemble: Ensemble, number: int, left: int) -> str:
    """What will be combined, for the user: `number` cases, of which `left` are not done."""
    probs = [str(m.root) for m in members if m.has_probs]
    maps = [str(m.root) for m in members if not m.has_probs]
    parts = [f"{ensemble.method} of {len(members)} members"]
    if probs:
        parts.append(f"probabilities in {', '.join(probs)}")
    if maps:
        parts.append(
            f"label maps{', as probabilities 0 and 1,' if probs else ''} in {', '.join(maps)}"
        )
    done = f", {number - left} of them already done" if left < number else ""
    return f"{'; '.join(parts)}; {number} cases{done}"
