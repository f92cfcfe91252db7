"""`recycle-data plan`: what training on a data set would do, without doing it."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from recycleseg.cli._arguments import Guide, named_as_options
from recycleseg.cli._common import check_file_to_write, new_parser
from recycleseg.cli.train import OPTION_NAMES, plan_command
from recycleseg.files import write_text
from recycleseg.progress import plain_console, print_line, print_text

# Options of recycle-train on which a plan depends, besides those that it plans.
_OPTIONS = {
    "--preset": "as in recycle-train",
    "--config": "YAML file with options that the plan has to fit to",
    "--time": "time of the whole run, such as 30m; by default 1h on a CPU, 12h on a GPU",
    "--memory": "memory that the run may use, such as 8G; by default 3/4 of what is free",
    "--runtime.device": "auto, cpu, cuda or cuda:N",
    "--runtime.threads": "CPU threads",
}
HELP = "show what training would do"
GUIDE = Guide("recycle-data plan Dataset123_Name --time 2h -o mine.yaml")


def build_parser() -> ArgumentParser:
    """The verb's parser."""
    parser = new_parser(
        "recycle-data plan",
        "Plan grid, patch, network and batch for a data set, and print each choice "
        "with its reason. recycle-train --data DIR plans in the same way; a plan that you saved "
        "and changed is used with recycle-train --data DIR --config FILE.",
    )
    parser.add_argument("dir", type=str, help="data set in the nnU-Net raw layout")
    parser.add_argument("-o", "--out", type=str, help="YAML file to write")
    for option, help_text in _OPTIONS.items():
        parser.add_argument(option, type=str, help=help_text)
    return parser


def run(parsed: Namespace) -> int:
    """Plan and print; gives the exit code."""
    arguments = ["--data", parsed.dir]
    for option in _OPTIONS:
        value = parsed[option.removeprefix("--")]
        if value is not None:
            arguments += [option, value]
    if parsed.out is not None:
        check_file_to_write("--out", Path(parsed.out), ".yaml", ".yml")
    console = plain_console(quiet=parsed.quiet)
    with named_as_options(OPTION_NAMES):
        plan, text = plan_command(arguments, console, with_notes=True)
    print_text(console, text)
    print_line(console, f"expected peak memory {plan.peak_bytes / 2**30:.2f} GiB")
    if parsed.out is not None:
        write_text(Path(parsed.out), text)
        print_line(console, f"written: {parsed.out}")
    return 0
