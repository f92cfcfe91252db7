"""What all commands share: exit codes, printed lines, and messages about wrong options."""

from __future__ import annotations

import difflib
import os
import re
import signal
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn, get_args

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from recycleseg.data.identity import ContentMemo
from recycleseg.data.volumes import PixelSize
from recycleseg.errors import described, is_expected, show_traceback
from recycleseg.files import listed, system_errors_name
from recycleseg.progress import plain_console
from recycleseg.run.factory import cache_root
from recycleseg.training.stopping import Stopped, signals_to

# Exit code after an error that nobody expected, which is a fault of the program.
PROGRAM_FAULT = 1
# Exit code if the input is wrong, or the system or the memory cannot do it.
WRONG_INPUT = 2
# Exit code if some cases failed and the others are done. After a signal it is 128 + its number.
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
        The exit code of the command, or one of those above it.
    """
    try:
        with signals_to(_raise, signal.SIGTERM):
            code = command()
            with system_errors_name(Path("standard output")):
                sys.stdout.flush()
            return code
    except KeyboardInterrupt as stop:
        print(f"{name}: {str(stop) or f'interrupted; {interrupted}'}", file=sys.stderr)
        return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)
    except (Exception, SystemExit) as error:
        if _output_closed(error):
            _give_up_output()
            return 128 + signal.SIGPIPE
        if isinstance(error, SystemExit):  # of --help
            raise
        show_traceback(error)
        print(f"{name}: error: {described(error)}", file=sys.stderr)
        _give_up_output()
        return WRONG_INPUT if is_expected(error) else PROGRAM_FAULT


def _output_closed(error: BaseException) -> bool:
    """Whether the reader of the output, such as `head`, has gone; Rich makes a SystemExit of it."""
    found: BaseException | None = error
    while isinstance(found, (OSError, SystemExit)):
        if isinstance(found, BrokenPipeError):
            return True
        found = found.__context__
    return False


def _give_up_output() -> None:
    """Drop what cannot be printed, because Python would complain about it at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


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


def check_file_to_write(option: str, path: Path, *endings: str) -> None:
    """Raise ValueError before the work if its result cannot be written.

    Args:
        option: name of the option, for the message.
        path: the file.
        endings: allowed endings in lower case.
    """
    if path.suffix.lower() not in endings or not path.parent.is_dir():
        raise ValueError(
            f"{option}: expected a {' or '.join(endings)} file in a folder that exists, got {path}"
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
    print(listed(f"{name}: {len(failures)} {what}", failures), file=sys.stderr)
    return CASES_FAILED


def user_memo() -> ContentMemo:
    """The memo in the user's cache; it remembers nothing if the user has no home folder."""
    try:
        return ContentMemo(cache_root())
    except RuntimeError:
        return ContentMemo(None)


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
