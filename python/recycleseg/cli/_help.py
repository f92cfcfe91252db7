"""`--help` on one screen with the values that will be used, `--version` and shell completion."""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from argparse import Action
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from types import NoneType
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin

from jsonargparse import ArgumentParser

from recycleseg.cli._arguments import Guide, is_group, option_name, setting_of
from recycleseg.run.values import in_words, kinds_of, shown

# Words that every command answers before it looks at others.
HELP, HELP_ALL, VERSION, COMPLETION = "--help", "--help-all", "--version", "--print-completion"
_WIDTH = 80
_LEFT = 28
# What happens without an option, in its text.
_WITHOUT_A_VALUE = re.compile(r"; (?:null \w+|else|by default) ([^;.]+)")
_NUMBERS = {int: "N", float: "X", bool: "true|false"}


class Values(NamedTuple):
    """What the options of a command line will be.

    Attributes:
        known: dest of options -> value.
        planned: dests of the options that a plan will decide.
        note: where the values come from, in a sentence.
    """

    known: Mapping[str, Any]
    planned: frozenset[str] = frozenset()
    note: str = ""


def answer_if_asked(
    parser: ArgumentParser,
    arguments: Sequence[str],
    guide: Guide,
    values_of: Callable[[list[str]], Values] | None = None,
) -> None:
    """Print help, version or completion if the command line asks for it, and end the command.

    Args:
        parser: of the command.
        arguments: words of the command line.
        guide: of the command.
        values_of: what the options will be, from the other words; None takes the defaults.

    Raises:
        SystemExit: something was printed.
        ValueError: the shell whose completion is asked for is not known.
    """
    asked = [(word, word.replace("_", "-").partition("=")[0]) for word in arguments]
    names = {name for _, name in asked}
    if VERSION in names or "-V" in names:
        print_and_end(version(parser.prog))
    if COMPLETION in names:
        print_and_end(completion(parser, arguments))
    if names & {"-h", HELP, HELP_ALL}:
        rest = [word for word, name in asked if name not in ("-h", HELP, HELP_ALL)]
        values = Values({})
        if values_of is not None:
            try:
                values = values_of(rest)
            except ValueError:  # who has typed something wrong needs the help most
                values = values_of([])
        print_and_end(help_text(parser, guide, values, whole=HELP_ALL in names))


def version(prog: str) -> str:
    """A command and its version."""
    return f"{prog} {metadata.version('recycleseg')}"


def print_and_end(text: str) -> NoReturn:
    """Print a text, and end the command with success."""
    print(text)
    raise SystemExit(0)


def help_text(parser: ArgumentParser, guide: Guide, values: Values, *, whole: bool) -> str:
    """The help of a command.

    Args:
        parser: of the command.
        guide: of the command.
        values: of the options.
        whole: whether to list every option with its whole text.
    """
    described = [
        action
        for action in parser._actions
        if action.dest not in ("help", "print_config") and not is_group(action, parser)
    ]
    listed = sorted(described, key=lambda action: action.dest == "quiet")
    if not whole and guide.basic:
        listed = sorted(
            (action for action in described if action.dest in guide.basic),
            key=lambda action: guide.basic.index(action.dest),
        )
    lines = [
        *_wrapped(f"usage: {_usage(parser, described)}", indent=4),
        f"such as: {guide.example}",
    ]
    lines += ["", *_wrapped(parser.description or ""), ""]
    if values.note:
        lines += [*_wrapped(values.note), ""]
    if whole:
        for title, actions in _sections(parser, listed):
            lines += [*_wrapped(f"{title}:"), *_entries(actions, values, whole=True), ""]
        lines += _columns(f"{COMPLETION} SHELL", "completion of the options, for bash or zsh")
    else:
        lines += _entries(listed, values, whole=False)
        lines += _columns(HELP_ALL, f"all {len(described)} options, with all that is to say")
    return "\n".join([*lines, *_columns(VERSION, "the version")])


def verbs_help(prog: str, description: str, verbs: Mapping[str, str], example: str) -> str:
    """The help of a command that has verbs.

    Args:
        prog: the command.
        description: what it does.
        verbs: verb -> what it does.
        example: a whole command line.
    """
    lines = [f"usage: {prog} {{{','.join(verbs)}}} ...", f"such as: {example}", ""]
    lines += [*_wrapped(description), ""]
    for verb, what in verbs.items():
        lines += _columns(verb, what)
    lines += _columns("VERB --help", "the options of a verb")
    return "\n".join([*lines, *_columns(VERSION, "the version")])


def completion(parser: argparse.ArgumentParser | ArgumentParser, arguments: Sequence[str]) -> str:
    """A script for a shell that completes the options of a command.

    Raises:
        ValueError: the package shtab is not installed, or does not know the shell.
    """
    try:
        import shtab
    except ImportError as error:
        raise ValueError(f"{COMPLETION}: expected the package shtab: pip install shtab") from error
    words = " ".join(arguments).replace("=", " ").split()
    shell = words[-1] if words else ""
    if shell not in shtab.SUPPORTED_SHELLS:
        shells = ", ".join(shtab.SUPPORTED_SHELLS)
        raise ValueError(f"{COMPLETION}: expected one of {shells}, got {shown(shell)}")
    _spell_with_dashes(parser)
    script: str = shtab.complete(parser, shell)
    return script


def _spell_with_dashes(parser: argparse.ArgumentParser | ArgumentParser) -> None:
    """Leave the options of a parser and of its verbs in the spelling of the help, in place."""
    parser._actions[:] = [action for action in parser._actions if not is_group(action, parser)]
    for action in parser._actions:
        action.option_strings = [name.replace("_", "-") for name in action.option_strings]
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _spell_with_dashes(inner)


def _sections(
    parser: ArgumentParser, listed: Sequence[Action]
) -> Iterator[tuple[str, list[Action]]]:
    """Options by subject."""
    for group in parser._action_groups:
        inside = [action for action in group._group_actions if action in listed]
        if inside:
            yield (group.title or "options").rstrip("."), inside


def _usage(parser: ArgumentParser, described: Sequence[Action]) -> str:
    words = [parser.prog]
    for action in described:
        if not action.option_strings:
            words.append(action.dest.upper())
        elif action.required:
            words.append(f"{action.option_strings[0]} {_takes(action)}")
    return " ".join([*words, "[options]"])


def _entries(actions: Sequence[Action], values: Values, *, whole: bool) -> list[str]:
    return [line for action in actions for line in _entry(action, values, whole=whole)]


def _entry(action: Action, values: Values, *, whole: bool) -> list[str]:
    """One option: its names, what it takes, what it does, and its value."""
    if not action.option_strings:
        return _columns(action.dest.upper(), action.help or "")
    names = ", ".join(name.replace("_", "-") for name in action.option_strings)
    text = " ".join((action.help or "").split()).rstrip(".")
    takes, value = _takes(action), values.known.get(action.dest, action.default)
    if not whole:
        without = _WITHOUT_A_VALUE.search(text)
        value = without[1] if without is not None and value is None else value
        text = text.partition("; ")[0]
        if "|" in takes and len(names) + len(takes) + 5 > _LEFT:
            takes, text = "NAME", in_words(setting_of(action).hint)
    if action.dest in values.planned:
        text += " [planned]"
    elif value is not None and value is not False and value != ():
        text += f" [{_written(value)}]"
    return _columns(f"{names} {takes}".rstrip(), text)


def _takes(action: Action) -> str:
    """What stands behind an option: N, a|b, RUN ..."""
    if action.nargs == 0:
        return ""
    more = " ..." if action.nargs == "+" else ""
    if action.metavar is not None and str(action.metavar)[0] not in "{[":
        return f"{action.metavar}{more}"
    name = option_name(action).rpartition(".")[2].strip("-").upper()
    parts: list[str] = []
    for kind in kinds_of(setting_of(action).hint):
        if get_origin(kind) is Literal:
            parts += map(str, get_args(kind))
        elif get_origin(kind) is tuple:
            item = get_args(kind)[0]
            parts.append(f"{_NUMBERS[item]},..." if item in (int, float) else "LIST")
        elif kind is not NoneType:
            parts.append(_NUMBERS.get(kind, name))
    return "|".join(parts) + more


def _written(value: Any) -> str:
    """A value as one may write it on a command line."""
    if isinstance(value, (list, tuple)):
        deep = any(isinstance(entry, (list, tuple)) for entry in value)
        return json.dumps(value, separators=(",", ":")) if deep else ",".join(map(_written, value))
    if value is True:
        return "true"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _columns(left: str, right: str) -> list[str]:
    """An entry of a table: the left part alone on its line if it is long."""
    wrapped = textwrap.wrap(right, _WIDTH - _LEFT, break_on_hyphens=False) or [""]
    lines = [f"{'':{_LEFT}}{line}" for line in wrapped]
    if len(left) + 4 <= _LEFT:
        lines[0] = f"  {left}".ljust(_LEFT) + wrapped[0]
        return lines
    return [f"  {left}", *lines]


def _wrapped(text: str, indent: int = 0) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False
    )
