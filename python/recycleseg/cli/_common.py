"""What all commands share: exit codes, and messages for what they were told wrongly."""

from __future__ import annotations

import difflib
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence

from jsonargparse import ArgumentParser, Namespace

from recycleseg.files import listed

# Exit code where some cases failed and the others are done.
CASES_FAILED = 3


def run_command(name: str, command: Callable[[], int], interrupted: str) -> int:
    """Run a command and give its exit code: its own; 2 for input that does not fit, 130 by Ctrl-C.

    interrupted: what to say of going on.
    """
    try:
        return command()
    except (ValueError, OSError) as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted; {interrupted}", file=sys.stderr)
        return 130


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """What the arguments mean.

    Raises ValueError for unknown options, with the nearest known one, and for wrong values.
    """
    try:
        return parser.parse_args(list(arguments))
    except ArgumentError as error:
        raise ValueError(with_suggestion(str(error), parser)) from error


def exit_code_of(name: str, what: str, failures: Sequence[str]) -> int:
    """0, or where cases failed 3, after listing why; what: has happened to them."""
    if not failures:
        return 0
    print(listed(f"{name}: {len(failures)} {what}", failures), file=sys.stderr)
    return CASES_FAILED


def with_suggestion(message: str, parser: ArgumentParser) -> str:
    """Add the nearest known option to a message about an unknown one."""
    flags = {flag[2:] for action in parser._actions for flag in action.option_strings}
    known = [key for key, _ in parser.get_defaults().items(branches=True)] + sorted(flags)
    unknown = re.search(r"unrecognized arguments: --([\w.-]+)", message)
    option = re.search(r"(?:Group '([\w.]+)' )?does not accept (?:option|key) '([\w.]+)'", message)
    if unknown:
        name = unknown[1]
    elif option:
        name = ".".join(part for part in option.groups() if part)
    else:
        return _in_one_line(message)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else "; --help lists the options"
    return f"unknown option {name}{hint}"


def _in_one_line(message: str) -> str:
    """jsonargparse's message about a value of the wrong type, shorter where its kind is known."""
    message = " ".join(message.split())
    wrong = re.fullmatch(
        r"Parser key \"([\w.]+)\": Expected a <class '(\w+)'>\. Got value: (.*)", message
    )
    return f"--{wrong[1]}: expected {wrong[2]}, got {wrong[3]!r}" if wrong else message
