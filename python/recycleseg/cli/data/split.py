"""`recycle-data split`: divide a data set by patients, once or for cross-validation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.table import Table

from recycleseg.cli._arguments import Guide
from recycleseg.cli._common import new_parser
from recycleseg.data.layout import read_dataset
from recycleseg.data.patients import complete_patients, named_patients, noticed_patients
from recycleseg.data.split_files import (
    FOLDS_FILE,
    SPLIT_FILE,
    Parts,
    read_groups,
    write_folds,
    write_split,
)
from recycleseg.data.splits import TEST_SHARE, draw_folds, draw_parts, noticed_scans
from recycleseg.progress import plain_console, print_line

HELP = "divide a data set by patients"
GUIDE = Guide("recycle-data split Dataset123_Name --folds 5")


def build_parser() -> ArgumentParser:
    """The verb's parser."""
    parser = new_parser(
        "recycle-data split",
        "Divide the cases of a data set by chance into training, validation and test, "
        f"and write {SPLIT_FILE}; with --folds write {FOLDS_FILE}, which nnU-Net reads too. All "
        "scans of a patient stay together. The patients come from --group-by, else from "
        f'"groups" in {SPLIT_FILE}, else from the names of the cases.',
    )
    add = parser.add_argument
    add("dir", type=str, help="data set in the nnU-Net raw layout")
    add("--folds", type=int, help="number of folds of a cross-validation")
    add(
        "--group-by",
        type=str,
        help="CSV file with the columns case and patient, or a regular expression that finds the "
        "patient in the name of a case: its first group, or the whole match",
    )
    add(
        "--test",
        type=float,
        help=f"share of the patients that are tested; by default {TEST_SHARE:g}, or 0 with --folds",
    )
    add("--seed", type=int, default=0, help="another seed gives another split")
    add("--overwrite", action="store_true", help=f"replace {SPLIT_FILE} and {FOLDS_FILE}")
    return parser


def run(parsed: Namespace) -> int:
    """Split the data set; gives the exit code."""
    root = Path(parsed.dir)
    test = parsed.test if parsed.test is not None else 0.0 if parsed.folds else TEST_SHARE
    if not 0 <= test < 1:
        raise ValueError(f"--test: expected 0 to below 1, got {test:g}")
    if parsed.folds is not None and parsed.folds < 2:
        raise ValueError(f"--folds: expected at least 2, got {parsed.folds}")
    if parsed.seed < 0:
        raise ValueError(f"--seed: expected at least 0, got {parsed.seed}")
    dataset = read_dataset(root, None)
    case_ids = tuple(dataset.cases)
    there = [name for name in (SPLIT_FILE, FOLDS_FILE) if (root / name).exists()]
    if there and not parsed.overwrite:
        raise ValueError(
            f"{root}: expected no split, got {' and '.join(there)}; use --overwrite to replace it"
        )
    groups = _groups(root, case_ids, parsed.group_by)
    patients = noticed_patients(case_ids) if groups is None else groups
    parts = draw_parts(case_ids, patients, test=test, seed=parsed.seed)
    console = plain_console(quiet=parsed.quiet)
    for note in dataset.notes:
        print_line(console, note)
    if groups is None:
        for line in noticed_scans(patients):
            print_line(console, line)
    if parsed.folds is None:
        kept = write_split(root, parts, groups)
        console.print(_table(parts, patients))
    else:
        rest = sorted((*parts["train"], *parts["val"]))
        folds = draw_folds(rest, patients, num_folds=parsed.folds, seed=parsed.seed)
        kept = write_folds(root, folds, parts["test"], groups)
        rows = {f"fold {fold}, val": parts["val"] for fold, parts in enumerate(folds)}
        console.print(_table({**rows, "test": parts["test"]}, patients))
    written = [str(root / n) for n in (SPLIT_FILE, FOLDS_FILE) if (root / n).exists()]
    print_line(console, f"written: {', '.join(written)}")
    if kept:
        print_line(console, f"the earlier split is kept as {', '.join(map(str, kept))}")
    return 0


def _groups(root: Path, case_ids: Iterable[str], group_by: str | None) -> dict[str, str] | None:
    """The patients as the user tells them."""
    cases = tuple(case_ids)
    if group_by is not None:
        return named_patients(group_by, cases)
    groups = read_groups(root)
    if groups is None:
        return None
    return complete_patients(groups, cases, f"{root / SPLIT_FILE}: groups")


def _table(parts: Parts, patients: Mapping[str, str]) -> Table:
    """Cases and patients of every part."""
    table = Table(box=None, pad_edge=False)
    table.add_column("part")
    for name in ("cases", "patients"):
        table.add_column(name, justify="right")
    for part, case_ids in parts.items():
        table.add_row(part, str(len(case_ids)), str(len({patients[c] for c in case_ids})))
    return table
