"""`recycle-evaluate`: evaluate a folder of segmentations, and compare it with another folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from recycleseg.classes import Labels
from recycleseg.cli._arguments import Guide, named_as_options
from recycleseg.cli._common import (
    add_pixel_size,
    check_overwrite,
    exit_code_of,
    new_parser,
    parse,
    run_command,
    table_console,
)
from recycleseg.cli._paths import check_exists
from recycleseg.evaluation.case import CaseResult
from recycleseg.evaluation.compare import Comparison, compare
from recycleseg.evaluation.folder import Evaluation, FolderScores, plan_evaluation
from recycleseg.evaluation.labels import read_labels
from recycleseg.evaluation.pairs import Pair, describe_origin, find_images, find_pairs
from recycleseg.evaluation.parts import FOLDER as PARTS
from recycleseg.evaluation.parts import PATTERN, identity, missing_parts, read_parts, save_part
from recycleseg.evaluation.printing import comparison_table, scores_table, steps_table
from recycleseg.evaluation.summary import summarise_folder
from recycleseg.evaluation.table import metrics_csv, read_evaluation
from recycleseg.files import shortened, write_json, write_text
from recycleseg.folders import OwnFolder
from recycleseg.locks import locked
from recycleseg.ops.surface_distances import DEFINITIONS
from recycleseg.parts import Part, chosen_part
from recycleseg.progress import print_line, stages
from recycleseg.report.html import write_report

FILES = ("summary.json", "metrics.csv", "report.html", "comparison.json")
# Seconds to wait for another part, which may be writing the results of all.
_PATIENCE = 600.0
GUIDE = Guide(
    "recycle-evaluate -p predictions -r labelsTs -o evaluation",
    loose=("--pred", "--ref", "--out"),
)


def build_parser() -> ArgumentParser:
    """The command's parser."""
    parser = new_parser(
        "recycle-evaluate",
        "Compare label maps with references: summary.json in nnU-Net's schema, "
        "metrics.csv, report.html. Exit code 3: some cases could not be evaluated.",
    )
    add = parser.add_argument
    add(
        "-p",
        "--pred",
        type=str,
        nargs="+",
        required=True,
        metavar="DIR",
        help="folders of label maps with different cases, such as the folds of a cross-validation; "
        "or one file",
    )
    add(
        "-r",
        "--ref",
        type=str,
        required=True,
        metavar="DIR",
        help="folder of references, or one file",
    )
    add("-o", "--out", type=str, required=True, metavar="DIR", help="folder for the results")
    add("--labels", type=str, help="dataset.json, or JSON text: name -> value or list of values")
    add(
        "--tolerance-mm",
        type=float,
        nargs="+",
        default=[1.0],
        help="tolerances of surface Dice (NSD), in mm, or in pixels if the pixel size is unknown",
    )
    add_pixel_size(parser)
    add(
        "--group-by",
        type=str,
        help="patients of the cases: a regular expression that finds the patient in the name of a "
        "case, or a CSV file CASE,PATIENT; by default the names are looked at",
    )
    add(
        "--definitions",
        nargs="+",
        choices=DEFINITIONS,
        default=["voxel"],
        help="how a surface is defined: voxel, surfel or both",
    )
    add("--workers", type=int, help="cases at the same time; by default one per core")
    add("--device", type=str, default="cpu", help="cpu or cuda: where metrics are computed")
    add(
        "--compare",
        type=str,
        nargs="+",
        help="other predictions of the same cases, or their evaluation",
    )
    add("--names", type=str, nargs=2, help="what to call PRED and the predictions of --compare")
    add("--images", type=str, help="folder of the images that the report shows")
    add("--no-report", action="store_true", help="write no report.html")
    add(
        "--part",
        type=str,
        metavar="I/N",
        help="evaluate the I-th of N parts of the cases; the last part to end writes the results "
        "of all. By default the part that torchrun, a job array or step of Slurm, or an indexed "
        "job of Kubernetes gives this process, else all",
    )
    add("--overwrite", action="store_true", help="replace an evaluation in --out")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `recycle-evaluate`; gives the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return run_command(
        "recycle-evaluate", lambda: _evaluate(given), "run the command again with --overwrite"
    )


def _evaluate(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    with named_as_options({name: f"--{name.replace('_', '-')}" for name in vars(options)}):
        _check_inputs(options)
        part = chosen_part(options.part)
        out = Path(options.out)
        folder = OwnFolder(out, "an evaluation", {".": FILES, PARTS: (PATTERN,)})
        if part.of > 1:
            return _evaluate_part(folder, options, part)
        with locked(out):
            return _evaluate_all(folder, options)


def _evaluate_all(folder: OwnFolder, options: Namespace) -> int:
    _check_out(folder, options)
    console = table_console(quiet=options.quiet)
    images = {} if options.no_report else _find_images(options)
    plan = _plan(options.pred, options, _labels(options))
    scores = plan.gather(_results(plan, plan.pairs.cases, console))

    def other() -> FolderScores:
        """The scores of `--compare`: read from an evaluation, or of predictions evaluated now."""
        if _is_evaluation(options):
            return read_evaluation(Path(options.compare[0]))
        plan = _plan(options.compare, options, scores.all_labels)
        return plan.gather(_results(plan, plan.pairs.cases, console))

    return _write_all(folder, options, images, scores, other)


def _evaluate_part(folder: OwnFolder, options: Namespace, part: Part) -> int:
    """Evaluate a part; if all others are there, write the results of all."""
    with locked(folder.root, patience=_PATIENCE):
        _check_out(folder, options)
    console = table_console(quiet=options.quiet)
    images = {} if options.no_report else _find_images(options)
    plans = [_plan(options.pred, options, _labels(options))]
    if options.compare is not None and not _is_evaluation(options):
        plans.append(_plan(options.compare, options, plans[0].labels))
    print_line(console, part.described(plans[0].pairs.cases))
    known = identity(plans)
    found = [_results(plan, part.share(plan.pairs.cases), console) for plan in plans]
    with locked(folder.root, patience=_PATIENCE):
        _check_out(folder, options)
        folder.mark()
        save_part(folder.root, part, known, found)
        if missing := missing_parts(folder.root, part.of, known):
            print_line(console, f"part {part} is there, not yet {shortened(missing)}")
            failed = [r for results in found for r in results.values() if isinstance(r, str)]
            return _exit_code(failed)
        scores, *others = [
            plan.gather(results)
            for plan, results in zip(plans, read_parts(folder.root, part.of, plans), strict=True)
        ]

        def other() -> FolderScores:
            return others[0] if others else read_evaluation(Path(options.compare[0]))

        return _write_all(folder, options, images, scores, other)


def _write_all(
    folder: OwnFolder,
    options: Namespace,
    images: dict[str, tuple[Path, ...]],
    scores: FolderScores,
    find_other: Callable[[], FolderScores],
) -> int:
    out, console = folder.root, table_console(quiet=options.quiet)
    if options.overwrite:
        for note in folder.foreign_note():
            print_line(console, note)
    # Write first what took the time, because the comparison can still fail.
    _write_scores(folder, scores)
    _print_scores(console, scores)
    other = None if options.compare is None else find_other()
    comparison = None
    if other is not None:
        names = None if options.names is None else (options.names[0], options.names[1])
        comparison = compare(scores, other, names=names)
        write_json(out / "comparison.json", comparison.to_dict())
        _print_comparison(console, comparison, other)
    if not options.no_report:
        _write_report(options, scores, comparison, images)
    folder.delete(file for file in folder.files() if file.parent != out)
    written = ", ".join(name for name in FILES if (out / name).exists())
    print_line(console, f"{out}: {written}")
    return _exit_code([*scores.failed.values(), *(other.failed.values() if other else ())])


def _exit_code(failed: Sequence[str]) -> int:
    return exit_code_of("recycle-evaluate", "cases could not be evaluated", failed)


def _parse(arguments: Sequence[str]) -> Namespace:
    options = parse(build_parser(), arguments, GUIDE)
    if options.names is not None and options.compare is None:
        raise ValueError("--names: expected --compare with it, got no --compare")
    if options.no_report and options.images is not None:
        raise ValueError("--images, --no-report: expected at most one of them, got both")
    return options


def _check_out(folder: OwnFolder, options: Namespace) -> None:
    """Check that the results can go into the folder, before the work."""
    there = [name for name in FILES if os.path.lexists(folder.root / name)]
    if options.overwrite:
        given = [("--pred", options.pred), ("--ref", [options.ref])]
        given += [("--compare", options.compare or ()), ("--images", [options.images])]
        inputs = {f"{name} {p}": Path(p) for name, paths in given for p in paths if p is not None}
        check_overwrite(folder.root, inputs)
        if there:
            folder.check_overwrite({})
    elif there:
        advice = "use --overwrite to replace them" if folder.is_marked else "delete them by hand"
        raise ValueError(
            f"--out: expected a folder without results, got {', '.join(there)} in {folder.root}; "
            f"{advice}, or choose another folder"
        )
    folder.check_mark()


def _check_inputs(options: Namespace) -> None:
    out = Path(options.out)
    check_exists("--pred", "predictions", *options.pred)
    check_exists("--ref", "references", options.ref)
    if options.labels is not None and not options.labels.lstrip().startswith("{"):
        check_exists("--labels", "a JSON file or {...}", options.labels)
    check_exists("--compare", "predictions or an evaluation", *(options.compare or ()))
    for other in options.compare or ():
        if Path(other).resolve() == out.resolve():
            raise ValueError(f"--compare: expected another folder than --out, got {out} for both")
    if options.images is not None:
        check_exists("--images", "a folder", options.images)
    if options.images is not None and not Path(options.images).is_dir():
        raise ValueError(f"--images: expected a folder, got {options.images}")


def _find_images(options: Namespace) -> dict[str, tuple[Path, ...]]:
    """Find the images of all cases before the evaluation, because this takes time."""
    preds = tuple(map(Path, options.pred))
    case_ids = [pair.case_id for pair in find_pairs(preds, Path(options.ref)).cases]
    return find_images(preds, case_ids, None if options.images is None else Path(options.images))


def _labels(options: Namespace) -> Labels | None:
    return None if options.labels is None else read_labels(options.labels)


def _is_evaluation(options: Namespace) -> bool:
    """Whether `--compare` is an evaluation, and not predictions."""
    return len(options.compare) == 1 and (Path(options.compare[0]) / "metrics.csv").is_file()


def _plan(preds: Sequence[str], options: Namespace, labels: Labels | None) -> Evaluation:
    tolerances = options.tolerance_mm
    return plan_evaluation(
        preds,
        options.ref,
        labels=labels,
        tolerance_mm=tolerances[0] if len(tolerances) == 1 else tolerances,
        definitions=tuple(options.definitions),
        pixel_size=options.pixel_size,
        group_by=options.group_by,
        workers=options.workers,
        device=options.device,
    )


def _results(
    plan: Evaluation, cases: Sequence[Pair], console: Console
) -> dict[str, CaseResult | str]:
    names = ", ".join(root.name for root in plan.pairs.roots)
    with stages(console, f"evaluating {names}") as progress:
        return plan.results(cases, progress)


def _write_scores(folder: OwnFolder, scores: FolderScores) -> None:
    """Write summary.json and metrics.csv; first delete the files of an earlier evaluation."""
    summary, table = summarise_folder(scores), metrics_csv(scores)
    folder.mark()
    folder.delete(file for file in folder.files() if file.parent == folder.root)
    write_json(folder.root / "summary.json", summary)
    write_text(folder.root / "metrics.csv", table)


def _write_report(
    options: Namespace,
    scores: FolderScores,
    comparison: Comparison | None,
    images: dict[str, tuple[Path, ...]],
) -> None:
    final = scores.by_step[-1]
    details = {
        **describe_origin(scores.prediction_roots),
        "reference": options.ref,
        "tolerance": ", ".join(f"{t:g} {final.unit}" for t in final.tolerances_mm),
        "surfaces": ", ".join(final.definitions),
        **({} if scores.ignore_label is None else {"ignored": f"label {scores.ignore_label}"}),
    }
    write_report(
        Path(options.out) / "report.html",
        scores,
        title=f"Evaluation of {', '.join(options.pred)}",
        images=images,
        comparison=comparison,
        details={name.capitalize(): value for name, value in details.items()},
    )


def _print_scores(console: Console, scores: FolderScores) -> None:
    for note in scores.notes:
        print_line(console, note)
    console.print(scores_table(scores))
    if len(scores.by_step) > 1:
        console.print(steps_table(scores))


def _print_comparison(console: Console, comparison: Comparison, other: FolderScores) -> None:
    for note in (*other.notes, *comparison.notes()):
        print_line(console, note)
    console.print(comparison_table(comparison))
