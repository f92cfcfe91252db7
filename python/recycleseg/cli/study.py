"""`recycle-study`: train every strategy on a data set, and score all of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from recycleseg.cli._arguments import Guide
from recycleseg.cli._common import (
    CONTINUE,
    new_parser,
    parse,
    run_command,
    table_console,
)
from recycleseg.cli._paths import check_exists
from recycleseg.data.layout import read_dataset
from recycleseg.data.phantom import write_phantom
from recycleseg.files import FileError, write_text
from recycleseg.locks import ALONE, locked
from recycleseg.progress import A_TIME, format_duration, parse_duration, plain_console, print_line
from recycleseg.run.config import TrainConfig
from recycleseg.run.settings import fitted_settings, settings_of
from recycleseg.run.yaml_file import read_yaml
from recycleseg.study.design import DESIGN, STRATEGIES, Design, check_same_design
from recycleseg.study.page import kinds_of, write_page
from recycleseg.study.questions import Difference, Question, answer, questions, table_csv
from recycleseg.study.results import Result, cases_csv, read_results
from recycleseg.study.tasks import StudyFolder, Task

GUIDE = Guide("recycle-study Dataset123_Name -o study --budget 8h", loose=("--out",))
# Seconds to wait for another process that begins the same study.
_PATIENCE = 60.0
# The rest is for predictions and scores.
_TRAINING_SHARE = 0.75
# Small enough for minutes on two cores.
_QUICK_SETTINGS = {
    "model.channels": [8, 16],
    "model.num_res_blocks": 1,
    "patch.size": [16, 24, 16],
}
_QUICK = {"budget": "80s", "seeds": 1, "samplers": ["ddim"], "steps": [1, 5]}
_USUAL = {
    "budget": "8h",
    "seeds": len(Design.seeds),
    "samplers": list(Design.samplers),
    "steps": list(Design.num_steps),
}


def build_parser() -> ArgumentParser:
    """The command's parser."""
    parser = new_parser(
        "recycle-study",
        "Train every strategy on a data set with the same network, steps and data, sample them in "
        "all ways, and score every sampling step, also of ensembles of two. If it stops, run it "
        "again to continue. Run it several times at once to share the work.",
    )
    add = parser.add_argument
    add("data", type=str, nargs="?", metavar="DATA", help="data set; without --quick")
    add("-o", "--out", type=str, required=True, metavar="DIR", help="folder of the study")
    add("--budget", type=str, metavar="TIME", help="of all work, on this machine alone [8h]")
    add("--seeds", type=int, metavar="N", help="networks of each strategy [3]")
    add("--strategies", nargs="+", choices=list(STRATEGIES), help="those to train [all]")
    add("--samplers", nargs="+", choices=["ddim", "ddpm"], help="reverse processes [both]")
    add("--steps", type=int, nargs="+", metavar="N", help="numbers of sampling steps [1 2 5 11]")
    add("--settings", type=str, metavar="FILE", help="YAML of options for all trainings")
    add("--quick", action="store_true", help="small networks on a built-in data set, in minutes")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `recycle-study`; gives the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return run_command("recycle-study", lambda: _study(given), CONTINUE)


def _study(arguments: Sequence[str]) -> int:
    options = parse(build_parser(), arguments, GUIDE)
    console = plain_console(quiet=options.quiet)
    root = Path(options.out)
    design = _design(options, root)
    folder = StudyFolder(root, design)
    root.mkdir(parents=True, exist_ok=True)
    with locked(root, patience=_PATIENCE, kinds=(ALONE,)):
        if (root / DESIGN).exists():
            check_same_design(root / DESIGN, design)
        else:
            if options.quick:
                write_phantom(design.data, num_cases=(8, 2, 6))
            folder.write_settings()
            design.write(root / DESIGN)
    tasks = list(folder.tasks())
    print_line(console, _plan(design, tasks))

    def begin(task: Task) -> None:
        number = sum(other.done.exists() for other in tasks) + 1
        print_line(console, f"{number} of {len(tasks)}: {task.name}")

    folder.work(begin)
    results = read_results(folder)
    wide = table_console(quiet=options.quiet)
    print_results(wide, results)
    (root / "tables").mkdir(exist_ok=True)
    write_text(root / "cases.csv", cases_csv(results))
    answers = [(question, answer(question, results)) for question in questions(design)]
    answers = [(question, table) for question, table in answers if table]
    for question, table in answers:
        write_text(root / "tables" / f"{question.name}.csv", table_csv(table))
        print_answer(wide, question, table)
    write_page(root / "study.html", design, results, answers)
    print_line(console, f"all of this is in {root / 'study.html'}, every score in cases.csv")
    return 0


def _design(options: Namespace, root: Path) -> Design:
    """The study that the options ask for."""
    if options.quick == (options.data is not None):
        raise ValueError("DATA: expected a data set, or --quick without one")
    for name, value in (_QUICK if options.quick else _USUAL).items():
        if options[name] is None:
            options[name] = value
    if options.seeds < 1:
        raise ValueError(f"--seeds: expected at least 1, got {options.seeds}")
    if min(options.steps) < 1:
        raise ValueError(f"--steps: expected numbers of at least 1, got {options.steps}")
    try:
        seconds = parse_duration(options.budget)
    except ValueError as error:
        raise ValueError(f"--budget: expected {A_TIME}, got {options.budget!r}") from error
    settings = {} if options.settings is None else _read_settings(Path(options.settings))
    if options.quick:
        settings = {**_QUICK_SETTINGS, **settings}
    else:
        check_exists("DATA", "a data set", options.data)
        if not read_dataset(Path(options.data)).split["test"]:
            raise ValueError(f"DATA: expected test cases in {options.data}, got none")
    # In this order, because the first that is trained gives the others its number of steps.
    strategies = tuple(s for s in STRATEGIES if s in (options.strategies or STRATEGIES))
    networks = options.seeds * len(strategies)
    return Design(
        data=str((root / "data" if options.quick else Path(options.data)).resolve()),
        time=f"{_TRAINING_SHARE * seconds / networks:.0f}s",
        seeds=tuple(range(options.seeds)),
        strategies=strategies,
        samplers=tuple(options.samplers),
        num_steps=tuple(options.steps),
        settings=settings,
    )


def _read_settings(path: Path) -> dict[str, Any]:
    """Options of every training.

    Raises:
        FileError: the file is no YAML of such options, or has those that the study chooses.
    """
    check_exists("--settings", "a YAML file", path)
    content = read_yaml(path)
    try:
        settings = fitted_settings(content, dict(settings_of(TrainConfig)))
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error
    chosen = {"data", "out", "time", "seed", *(k for s in STRATEGIES.values() for k in s)}
    if wrong := sorted(chosen & settings.keys()):
        raise FileError(
            f"{path}: expected options that all trainings share, got {wrong[0]}, which the study "
            "chooses"
        )
    return settings


def _plan(design: Design, tasks: Sequence[Task]) -> str:
    each = format_duration(parse_duration(design.time))
    done = sum(task.done.exists() for task in tasks)
    return (
        f"{len(design.strategies) * len(design.seeds)} trainings of {each} at most; "
        f"{len(tasks)} tasks, {done} of them done"
    )


def print_results(console: Console, results: Sequence[Result]) -> None:
    """Print the mean Dice of every kind of prediction, over its seeds."""
    table = Table("strategies", "sampling", "step", "Dice of each seed", "mean", title="Test cases")
    for kind in kinds_of(results):
        number = len(kind.by_step)
        for step in dict.fromkeys((0, number - 1)):
            dice = kind.by_step[step]
            shown = " ".join(f"{value:.4f}" for value in dice)
            label = f"{step + 1} of {number}"
            mean = f"{kind.means[step].value:.4f}"
            table.add_row(kind.strategies, kind.sampling, label, shown, mean)
    console.print(table)


def print_answer(console: Console, question: Question, answers: Sequence[Difference]) -> None:
    """Print the table of a question."""
    table = Table(
        "a", "b", "a - b", "95 % interval", "p", "each seed", "n", "", title=question.title
    )
    for row in answers:
        table.add_row(
            row.a,
            row.b,
            f"{row.difference:+.4f}",
            "" if math.isnan(row.ci_low) else f"{row.ci_low:+.4f} to {row.ci_high:+.4f}",
            "" if math.isnan(row.p_adjusted) else f"{row.p_adjusted:.3g}",
            " ".join(f"{value:+.4f}" for value in row.of_seeds),
            str(row.num_patients),
            row.verdict,
        )
    console.print(table)
