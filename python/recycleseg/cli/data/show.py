"""`recycle-data show`: a picture of cases with their labels, and numbers of each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from recycleseg.cli._arguments import Guide
from recycleseg.cli._common import (
    add_pixel_size,
    check_file_to_write,
    exit_code_of,
    new_parser,
    table_console,
)
from recycleseg.data.check import SoundCase, read_case
from recycleseg.data.layout import Dataset, read_dataset
from recycleseg.data.statistics import ClassStatistics, StatisticsOfClasses
from recycleseg.names import case_problem
from recycleseg.progress import followed, print_line, stages
from recycleseg.report.contact_sheet import (
    Panel,
    is_contact_sheet,
    panel_of,
    save_contact_sheet,
)

HELP = "draw cases, and print numbers of each class"
GUIDE = Guide("recycle-data show Dataset123_Name")


def build_parser() -> ArgumentParser:
    """The verb's parser."""
    parser = new_parser(
        "recycle-data show",
        "Draw cases of a data set with the outlines of their labels, and print how "
        "large and how bright each class is. Exit code 3: some cases could not be read.",
    )
    add = parser.add_argument
    add("dir", type=str, help="data set in the nnU-Net raw layout")
    add("-o", "--out", type=str, help="PNG to write; by default NAME.png in this folder")
    add_pixel_size(parser)
    add("--cases", type=int, default=12, help="how many cases to draw")
    return parser


def run(parsed: Namespace) -> int:
    """Draw the picture and print the numbers; gives the exit code."""
    if parsed.cases < 1:
        raise ValueError(f"--cases: expected at least 1, got {parsed.cases}")
    dataset = read_dataset(parsed.dir)
    out = Path(parsed.out or f"{dataset.root.resolve().name}.png")
    check_file_to_write("--out", out, ".png", is_made=is_contact_sheet)
    console = table_console(quiet=parsed.quiet)
    panels, statistics, failures = _look_at(dataset, parsed, console)
    if panels:
        save_contact_sheet(out, panels, dataset.classes.foreground)
        console.print(_table(statistics, dataset.channel_names))
        print_line(console, f"{out}: {len(panels)} of {len(dataset.cases)} cases")
    return exit_code_of("recycle-data", "problem(s); recycle-data check lists all", failures)


def _look_at(
    dataset: Dataset, parsed: Namespace, console: Console
) -> tuple[list[Panel], list[ClassStatistics], list[str]]:
    """Panels of some cases from first to last, statistics of all, and what cannot be read."""
    case_ids = list(dataset.cases)
    places = np.linspace(0, len(case_ids) - 1, min(parsed.cases, len(case_ids))).round().astype(int)
    drawn = {case_ids[place] for place in places}
    panels: list[Panel] = []
    failures = [str(case_problem(case_id)) for case_id in dataset.left_out]
    statistics = StatisticsOfClasses(dataset.classes, len(dataset.channel_names))
    with stages(console, "reading") as progress:
        for case in followed(dataset.cases.values(), len(dataset.cases), progress):
            found = read_case(case, dataset, parsed.pixel_size)
            if not isinstance(found, SoundCase):
                failures.extend(finding.text for finding in found)
                continue
            statistics.add(found)
            if case.case_id in drawn:
                labels = dataset.classes.foreground
                panels.append(panel_of(case.case_id, found.volumes[0], found.label, labels))
    return panels, statistics.result(), failures


def _table(statistics: Sequence[ClassStatistics], channel_names: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    unit = statistics[0].unit
    for name in ("cases", "voxels", f"{unit} per case: median (range)"):
        table.add_column(name, justify="right")
    for name in channel_names:
        table.add_column(f"{name}: median (IQR)", justify="right")
    for row in statistics:
        size = "-"
        if row.num_cases:
            low, middle, high = np.percentile(row.sizes, (0, 50, 100))
            size = f"{middle:.4g} ({low:.4g} to {high:.4g})"
        intensities = (f"{q2:.4g} ({q1:.4g} to {q3:.4g})" for q1, q2, q3 in row.intensities)
        values = intensities if row.num_cases else ["-"] * len(channel_names)
        table.add_row(row.name, str(row.num_cases), str(row.num_voxels), size, *values)
    return table
