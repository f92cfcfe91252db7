"""What all commands share: exit codes, printed lines, and messages about wrong options."""

from __future__ import annotations

import difflib
import io
import os
import re
import signal
import sys
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn, get_args

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from recycleseg.data.identity import ContentMemo
from recycleseg.data.volumes import PixelSize
from recycleseg.files import listed
from recycleseg.folders import check_apart
from recycleseg.names import printable_message
from recycleseg.progress import plain_console
from recycleseg.run.factory import cache_root
from recycleseg.training.stopping import Stopped, signals_to

# Exit code if some cases failed and the others are done.
CASES_FAILED = 3
# What commands that keep finished cases say after Ctrl-C.
CONTINUE = "run the same command again to continue"
_WIDTH_OF_FILES = 160


def run_command(name: str, command: Callable[[], int], interrupted: str) -> int:
    """Run a command.

    Args:
        name: of the command.
        command: does the work and gives an exit code.
        interrupted: what to tell the user after Ctrl-C.

    Returns:
        The exit code of the command; 2 if its input is wrong, 130 after Ctrl-C, 143 after SIGTERM.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may hold letters that it cannot write
            stream.reconfigure(errors="backslashreplace")
    try:
        with signals_to(_raise, signal.SIGTERM):
            return command()
    except (ValueError, OSError) as error:
        print_error(f"{name}: error: {error}")
        return 2
    except KeyboardInterrupt as stop:
        print_error(f"{name}: {str(stop) or f'interrupted; {interrupted}'}")
        return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)


def print_error(message: str) -> None:
    """Print a message to stderr; what it quotes cannot control the terminal."""
    print(printable_message(message), file=sys.stderr)


def _raise(number: int, _: FrameType | None) -> NoReturn:
    raise Stopped(number)


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse the arguments of a command.

    Raises:
        ValueError: an option is unknown (the message suggests a similar one), or a value is wrong.
    """
    try:
        return parser.parse_args(list(arguments))
    except ArgumentError as error:
        raise ValueError(with_suggestion(str(error), parser)) from error


def add_pixel_size(parser: ArgumentParser) -> None:
    """Add `--pixel-size`, which must be as in training for the same answer."""
    parser.add_argument(
        "--pixel-size",
        choices=get_args(PixelSize),
        default="auto",
        help="which pixel sizes of the files count: auto takes all but 72 and 96 dots per inch, "
        "which are a screen's; file takes all; ignore takes none and counts in pixels",
    )


def check_file_to_write(
    option: str, path: Path, *endings: str, is_made: Callable[[Path], bool] = lambda _: False
) -> None:
    """Raise ValueError before the work if its result cannot be written.

    Args:
        option: name of the option, for the message.
        path: the file.
        endings: allowed endings in lower case.
        is_made: whether an existing file is an earlier result, which may be replaced.
    """
    if path.suffix.lower() not in endings or not path.parent.is_dir():
        raise ValueError(
            f"{option}: expected a {' or '.join(endings)} file in a folder that exists, got {path}"
        )
    if os.path.lexists(path) and not is_made(path):
        raise ValueError(
            f"{option}: expected a new file, got {path}, which exists; delete it, or choose "
            "another name"
        )


def table_console(width: int = _WIDTH_OF_FILES) -> Console:
    """A console for wide tables; `width` is that of lines in a file."""
    console = plain_console()
    if not console.is_terminal:
        console.width = width
    return console


def exit_code_of(name: str, what: str, failures: Sequence[str]) -> int:
    """The exit code of a command that went through cases; prints why cases failed.

    Args:
        name: of the command.
        what: what happened to the failed cases.
        failures: one message per failed case.

    Returns:
        0, or 3 if cases failed.
    """
    if not failures:
        return 0
    print_error(listed(f"{name}: {len(failures)} {what}", failures))
    return CASES_FAILED


def check_overwrite(out: Path, inputs: Mapping[str, Path]) -> None:
    """Check that files in `out` may be deleted; see `recycleseg.folders.check_apart`."""
    cache = _user_cache()
    check_apart(out, {**inputs, **({} if cache is None else {f"the cache {cache}": cache})})


def _user_cache() -> Path | None:
    """The user's cache; None if the user has no fit home folder."""
    try:
        return cache_root()
    except (RuntimeError, ValueError):
        return None


def user_memo() -> ContentMemo:
    """The memo in the user's cache; it remembers nothing if the user has no fit home folder."""
    return ContentMemo(_user_cache())


def with_suggestion(message: str, parser: ArgumentParser) -> str:
    """The message in one line; if it is about an unknown option, it suggests a similar one."""
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
    """A message of jsonargparse in one line; about a wrong type it becomes shorter."""
    message = " ".join(message.split())
    if message.startswith("the following arguments are required:"):
        return re.sub(r"\b\w+\.", "", message)  # without the name of the verb
    wrong = re.fullmatch(
        r"Parser key \"([\w.]+)\": Expected a <class '(\w+)'>\. Got value: (.*)", message
    )
    return f"--{wrong[1]}: expected {wrong[2]}, got {wrong[3]!r}" if wrong else message
