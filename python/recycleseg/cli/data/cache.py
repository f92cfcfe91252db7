"""`recycle-data cache`: how much the prepared data takes on the disk, and delete it."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.table import Table

from recycleseg.cli._arguments import Guide, named_as_options
from recycleseg.cli._common import new_parser, table_console
from recycleseg.data.cache_files import CachedPlan, CacheFiles, size_of
from recycleseg.names import printable
from recycleseg.progress import format_duration, parse_duration, print_line
from recycleseg.run.factory import cache_root

HELP = "show or delete prepared data on the disk"
GUIDE = Guide("recycle-data cache clear --older-than 30d")
_ACTIONS = ("list", "clear")


def build_parser() -> ArgumentParser:
    """The verb's parser."""
    parser = new_parser(
        "recycle-data cache",
        "Training prepares each case once and keeps it on the disk. list: what is there. clear: "
        "delete it; the next training prepares its cases again.",
    )
    add = parser.add_argument
    add("action", type=str, nargs="?", default="list", help="list or clear")
    add("--runtime.cache", type=str, help="the folder; by default the cache of the user")
    add(
        "--older-than",
        type=str,
        help="clear only what no training has used for so long, such as 30d",
    )
    return parser


def run(parsed: Namespace) -> int:
    """List or clear the cache; gives the exit code."""
    if parsed.action not in _ACTIONS:
        raise ValueError(f"expected list or clear, got {parsed.action}")
    console = table_console(quiet=parsed.quiet)
    files = CacheFiles(cache_root(parsed.runtime.cache))
    if parsed.action == "list":
        if parsed.older_than is not None:
            raise ValueError("--older-than: expected it with clear, got it with list")
        plans = files.plans()
        if plans:
            console.print(_table(plans))
        total = size_of(entry for plan in plans for entry in plan.entries)
        print_line(console, f"{files.root}: {_shown(total)} of prepared cases")
        return 0
    seconds = 0.0
    if parsed.older_than is not None:
        with named_as_options({"time": "--older-than"}):
            seconds = parse_duration(parsed.older_than)
    print_line(console, f"{files.root}: {_shown(files.clear(seconds))} freed")
    return 0


def _table(plans: list[CachedPlan]) -> Table:
    """One row for each data set; it may be prepared in several ways."""
    by_name: dict[str, list[CachedPlan]] = defaultdict(list)
    for plan in plans:
        by_name[plan.name].append(plan)
    table = Table(box=None, pad_edge=False)
    for head, justify in (("data set", "left"), ("plans", "right"), ("cases", "right")):
        table.add_column(head, justify=justify)  # type: ignore[arg-type]
    table.add_column("size", justify="right")
    table.add_column("last used", justify="right")
    for name, of_name in by_name.items():
        entries: set[Path] = {entry for plan in of_name for entry in plan.entries}
        ago = format_duration(max(0.0, time.time() - max(plan.used for plan in of_name)))
        most = max(len(plan.entries) for plan in of_name)
        row = (str(len(of_name)), str(most), _shown(size_of(entries)), f"{ago} ago")
        table.add_row(printable(name), *row)
    return table


def _shown(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
