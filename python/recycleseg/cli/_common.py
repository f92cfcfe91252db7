"""What all commands share: their parser, exit codes and printed lines."""

from __future__ import annotations

import io
import os
import signal
import sys
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn, get_args

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from recycleseg.cli._arguments import Guide, checked_arguments
from recycleseg.cli._help import answer_if_asked
from recycleseg.data.identity import ContentMemo
from recycleseg.data.volumes import PixelSize
from recycleseg.errors import described, is_expected, show_traceback
from recycleseg.files import listed, system_errors_name
from recycleseg.folders import check_apart
from recycleseg.names import printable_message
from recycleseg.processes import ToldElsewhere
from recycleseg.progress import plain_console
from recycleseg.run.factory import cache_root
from recycleseg.training.stopping import Stopped, signals_to

# Exit code after an error that nobody expected, which is a fault of the program.
PROGRAM_FAULT = 1
# Exit code if the input is wrong, or the system or the memory cannot do it.
WRONG_INPUT = 2
# Exit code if some cases failed and the others are done. After a signal it is 128 + its number.
CASES_FAILED = 3
# Exit code if SIGTERM or SIGUSR1 came and all is saved, so that a job system may start the command
# again with --resume; as EX_TEMPFAIL of sysexits.h.
RESUME = 75
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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may hold letters that it cannot write
            stream.reconfigure(errors="backslashreplace")
    try:
        with signals_to(_raise, signal.SIGTERM):
            code = command()
            with system_errors_name(Path("standard output")):
                sys.stdout.flush()
            return code
    except KeyboardInterrupt as stop:
        print_error(f"{name}: {str(stop) or f'interrupted; {interrupted}'}")
        return _code_of_stop(stop)
    except ToldElsewhere as told:
        cause = told.__cause__
        return _code_of_stop(cause) if isinstance(cause, KeyboardInterrupt) else WRONG_INPUT
    except (Exception, SystemExit) as error:
        if _output_closed(error):
            _give_up_output()
            return 128 + signal.SIGPIPE
        if isinstance(error, SystemExit):  # of --help
            raise
        show_traceback(error)
        print_error(f"{name}: error: {described(error)}")
        _give_up_output()
        return WRONG_INPUT if is_expected(error) else PROGRAM_FAULT


def _code_of_stop(stop: KeyboardInterrupt) -> int:
    if not isinstance(stop, Stopped):
        return 128 + signal.SIGINT
    return RESUME if stop.resumes and stop.number != signal.SIGINT else 128 + stop.number


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


def print_error(message: str) -> None:
    """Print a message to stderr; what it quotes cannot control the terminal."""
    print(printable_message(message), file=sys.stderr)


def _raise(number: int, _: FrameType | None) -> NoReturn:
    raise Stopped(number)


def new_parser(prog: str, description: str) -> ArgumentParser:
    """A parser with the options that all commands have; its errors are exceptions."""
    parser = ArgumentParser(prog=prog, description=description, exit_on_error=False)
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors alone")
    return parser


def parse(parser: ArgumentParser, arguments: Sequence[str], guide: Guide) -> Namespace:
    """Parse the arguments of a command; `--help` and the like print their answer and end it.

    Raises:
        ValueError: see `checked_arguments`.
    """
    answer_if_asked(parser, arguments, guide)
    return parse_checked(parser, checked_arguments(parser, arguments, guide))


def parse_checked(
    parser: ArgumentParser, words: Sequence[str], *, defaults: bool = True
) -> Namespace:
    """What the parser makes of words that `checked_arguments` gave.

    Raises:
        ValueError: the words are wrong in a way that `checked_arguments` does not know.
    """
    try:
        return parser.parse_args(list(words), defaults=defaults)
    except ArgumentError as error:
        raise ValueError(" ".join(str(error).split())) from error


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


def table_console(width: int = _WIDTH_OF_FILES, *, quiet: bool = False) -> Console:
    """A console for wide tables; `width` is that of lines in a file."""
    console = plain_console(quiet=quiet)
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
