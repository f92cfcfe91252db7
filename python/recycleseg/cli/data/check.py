"""`recycle-data check`: all problems of a data set in one table."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from recycleseg.cli._arguments import Guide
from recycleseg.cli._common import add_pixel_size, new_parser, table_console
from recycleseg.data.check import check_dataset
from recycleseg.data.findings import DESCRIPTION, NAME, Finding, by_kind
from recycleseg.data.layout import Dataset, read_dataset_with_problems
from recycleseg.names import case_problem
from recycleseg.progress import print_line, stages

_EXAMPLES = 3
_LONGEST = 120
_WIDTH_OF_FILES = 2000
_HEADS = {"error": "errors: training refuses the data set", "warning": "warnings: please look"}
HELP = "list all problems of a data set"
GUIDE = Guide("recycle-data check Dataset123_Name")


def build_parser() -> ArgumentParser:
    """The verb's parser."""
    parser = new_parser(
        "recycle-data check",
        "Read every file of a data set and list all problems, like ones together. "
        "Exit code 2: there are errors, so training refuses the data set. 0: none, or warnings.",
    )
    add = parser.add_argument
    add("dir", type=str, help="data set in the nnU-Net raw layout")
    add("--all", action="store_true", help="list every problem on its own line")
    add_pixel_size(parser)
    add("--workers", type=int, default=1, help="cases in memory at the same time")
    return parser


def run(parsed: Namespace) -> int:
    """Check the data set; gives the exit code."""
    if parsed.workers < 1:
        raise ValueError(f"--workers: expected at least 1, got {parsed.workers}")
    dataset, problems = read_dataset_with_problems(parsed.dir)
    findings = [Finding(DESCRIPTION, "", problem) for problem in problems]
    console = table_console(_WIDTH_OF_FILES, quiet=parsed.quiet)
    with stages(console, "checking") as progress:
        _, found = check_dataset(
            dataset, pixel_size=parsed.pixel_size, workers=parsed.workers, progress=progress
        )
    findings += [Finding(NAME, "", str(case_problem(case_id))) for case_id in dataset.left_out]
    findings += found
    for note in dataset.notes:
        if not any(finding.text in note for finding in findings):
            print_line(console, note)
    if parsed.all:
        for finding in findings:
            title = f"{finding.severity}: {finding.kind.title}"
            print_line(console, f"{title}: {_text(finding, dataset.root)}")
    elif findings:
        _print_table(console, _table(findings, dataset.root))
    numbers = {head: sum(f.severity == head for f in findings) for head in _HEADS}
    print_line(console, _summary(dataset, numbers))
    return 2 if numbers["error"] else 0


def _summary(dataset: Dataset, numbers: dict[str, int]) -> str:
    counts = [f"{n} {what}{'s' if n > 1 else ''}" for what, n in numbers.items() if n]
    return f"{dataset.root}: {len(dataset.cases)} cases, {', '.join(counts) or 'no problems'}"


def _table(findings: list[Finding], root: Path) -> Table:
    """One row per kind, errors first; examples come last, because they are long."""
    table = Table(box=None, pad_edge=False)
    table.add_column("problem", overflow="fold")
    table.add_column("number", justify="right")
    table.add_column("what to do", overflow="fold")
    table.add_column("examples", overflow="fold")
    for severity, head in _HEADS.items():
        of_kinds = by_kind(finding for finding in findings if finding.severity == severity)
        if of_kinds:
            table.add_row(head, style="bold")
        for kind, alike in of_kinds.items():
            texts = [_text(finding, root) for finding in alike[:_EXAMPLES]]
            examples = "; ".join(t if len(t) <= _LONGEST else t[:_LONGEST] + "..." for t in texts)
            rest = f"; and {len(alike) - _EXAMPLES} more (--all)" if len(alike) > _EXAMPLES else ""
            row = (f"  {kind.title}", str(len(alike)), kind.advice, examples + rest)
            table.add_row(*row)
    return table


def _print_table(console: Console, table: Table) -> None:
    """Print a table; in a file without the spaces that fill its lines."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        print_line(console, line.rstrip())


def _text(finding: Finding, root: Path) -> str:
    """The text of a finding in one line, with paths inside the data set."""
    return " ".join(finding.text.replace(f"{root}/", "").split())
