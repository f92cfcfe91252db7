"""Commands that have verbs: which verb a command line asks for, and help for all of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jsonargparse import ArgumentParser

from recycleseg.cli._help import (
    COMPLETION,
    HELP,
    HELP_ALL,
    VERSION,
    completion,
    print_and_end,
    verbs_help,
    version,
)
from recycleseg.run.values import nearest


class Verbs(NamedTuple):
    """The verbs of a command.

    Attributes:
        prog: the command.
        description: what it does.
        help: verb -> what it does.
        parsers: verb -> makes its parser, or the verb's own verbs.
        example: a whole command line.
    """

    prog: str
    description: str
    help: Mapping[str, str]
    parsers: Mapping[str, Callable[[], ArgumentParser] | Verbs]
    example: str

    def choose(self, arguments: Sequence[str]) -> tuple[str, list[str]]:
        """The verb of a command line, and the words behind it.

        Raises:
            SystemExit: help, version or a completion was asked for, and is printed.
            ValueError: there is no verb, or no such verb.
        """
        first, *rest = arguments or [""]
        first = first.removeprefix("recycle-")
        if first in self.help:
            return first, rest
        name = first.replace("_", "-").partition("=")[0]
        if name in ("-h", HELP, HELP_ALL, "help"):
            print_and_end(verbs_help(self.prog, self.description, self.help, self.example))
        if name in (VERSION, "-V"):
            print_and_end(version(self.prog))
        if name == COMPLETION:
            print_and_end(completion(self._whole_parser(), arguments))
        *others, last = self.help
        expected = f"expected {', '.join(others)} or {last}"
        if not first:
            raise ValueError(f"{expected}, got no command; such as: {self.example}")
        near = nearest(first, self.help)
        hint = f"; did you mean {near}?" if near else f"; such as: {self.example}"
        raise ValueError(f"{expected}, got {first}{hint}")

    def _whole_parser(self) -> argparse.ArgumentParser:
        """One parser with the options of all verbs, for completion."""
        whole = argparse.ArgumentParser(prog=self.prog)
        self._add_to(whole)
        return whole

    def _add_to(self, parser: argparse.ArgumentParser) -> None:
        subparsers = parser.add_subparsers()
        for verb, made in self.parsers.items():
            if isinstance(made, Verbs):
                made._add_to(subparsers.add_parser(verb, help=self.help[verb]))
            else:
                subparsers.add_parser(verb, parents=[made()], add_help=False, help=self.help[verb])
