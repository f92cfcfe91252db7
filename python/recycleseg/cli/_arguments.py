"""The words of a command line, checked and in one spelling, before the parser gets them.

Dashes and underscores are the same. Of two values of an option the last one counts. Each option
must be known and have a value of its type; otherwise the message says what was expected, and what
the user probably meant.
"""

from __future__ import annotations

import argparse
import json
import re
from argparse import Action
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice, takewhile
from typing import Any, Literal, NamedTuple

import yaml
from jsonargparse import ArgumentParser

from recycleseg.cli._foreign import foreign_words
from recycleseg.files import FileError
from recycleseg.run.settings import Setting
from recycleseg.run.values import choices_of, in_words, nearest, shown

_OTHER_DASHES = "–—−"


class Guide(NamedTuple):
    """What messages and help say of a command beyond its options.

    Attributes:
        example: a whole command line.
        loose: options that words without an option probably belong to, in this order.
        basic: options that --help shows; () shows all.
    """

    example: str
    loose: tuple[str, ...] = ()
    basic: tuple[str, ...] = ()


def option_name(action: Action) -> str:
    """The long name of an option in the spelling of messages and help."""
    return max(action.option_strings, key=len).replace("_", "-")


def is_group(action: Action, parser: argparse.ArgumentParser) -> bool:
    """Whether this is no option but stands for all options below it."""
    return any(other.dest.startswith(f"{action.dest}.") for other in parser._actions)


def setting_of(action: Action) -> Setting:
    """What an option takes."""
    if action.choices is not None:
        return Setting(Literal[tuple(action.choices)])
    return Setting(getattr(action, "_typehint", str))


def checked_arguments(
    parser: ArgumentParser,
    arguments: Sequence[str],
    guide: Guide,
    *,
    settings: Mapping[str, Setting] | None = None,
    read_file: Callable[[str], Mapping[str, Any]] | None = None,
) -> list[str]:
    """The same arguments in the parser's own spelling.

    Args:
        parser: of the command.
        arguments: words of the command line.
        guide: of the command.
        settings: dotted names of options -> what they take, where the parser does not know ranges.
        read_file: reads the file of an option `--config`.

    Raises:
        ValueError: an option is not known or has a wrong value, or a word or a
            required option is missing or too many.
    """
    reader = _Reader(parser, guide, settings or {}, read_file)
    reader.read(arguments)
    return reader.result()


@contextmanager
def named_as_options(names: Mapping[str, str]) -> Iterator[None]:
    """Errors inside begin with the names of options in the spelling of the command line.

    Args:
        names: names inside -> options.
    """
    try:
        yield
    except FileError:
        raise
    except ValueError as error:

        def spelled(found: re.Match[str]) -> str:
            words = found[2].split(", ")
            if not all(word in names for word in words):
                return found[0]
            return f"{found[1]}{', '.join(names[word] for word in words)}:"

        raise ValueError(re.sub(r"(^|; )([\w.]+(?:, [\w.]+)*):", spelled, str(error))) from error


class _Reader:
    def __init__(
        self,
        parser: ArgumentParser,
        guide: Guide,
        settings: Mapping[str, Setting],
        read_file: Callable[[str], Mapping[str, Any]] | None,
    ) -> None:
        self.parser = parser
        self.guide = guide
        self.settings = settings
        self.read_file = read_file
        self.options = {
            name.replace("_", "-"): action
            for action in parser._actions
            for name in action.option_strings
        }
        self.positionals = [action for action in parser._actions if not action.option_strings]
        self.given: dict[str, list[str]] = {}
        self.loose: list[str] = []
        self.words: list[str] = []

    def read(self, arguments: Sequence[str]) -> None:
        waiting = deque(arguments)
        while waiting:
            word = waiting.popleft()
            if not _is_option(word):
                self.loose.append(word)
                if not self.positionals:
                    raise ValueError(self._about_loose(word, waiting))
                continue
            name, equals, value = word.partition("=")
            action = self._option(name.replace("_", "-"))
            if action is None or is_group(action, self.parser):
                raise ValueError(about_unknown(name, self.parser))
            if action.dest == "print_config":
                self.words.append(word.replace("-", "_").replace("__", "--", 1))
                continue
            values = [value] if equals else self._values_of(action, waiting)
            self._take(action, values)

    def _option(self, name: str) -> Action | None:
        """The option of this name, or the only one that begins with these whole words."""
        if name in self.options or not name.startswith("--"):
            return self.options.get(name)
        longer = {n: a for n, a in self.options.items() if n.startswith(f"{name}-")}
        return next(iter(longer.values())) if len(longer) == 1 else None

    def _values_of(self, action: Action, waiting: deque[str]) -> list[str]:
        """The words that follow an option and belong to it."""
        if action.nargs == 0:
            return []
        most = action.nargs if isinstance(action.nargs, int) else 1
        if action.nargs == "+":
            most = len(waiting)
        if action.nargs is None and len(waiting) > 1 and not any(map(_is_option, [*waiting][:2])):
            self._refuse_more(action, waiting)
        values = list(takewhile(lambda word: not _is_option(word), islice(waiting, most)))
        for _ in values:
            waiting.popleft()
        return values

    def _refuse_more(self, action: Action, waiting: Sequence[str]) -> None:
        """Refuse several values where there must be one, if they cannot be words of their own."""
        if self.positionals:
            return
        words = list(takewhile(lambda word: not _is_option(word), waiting))
        listed = ",".join(re.findall(r"[\w.]+", " ".join(words)))
        is_list = "such as" in in_words(self._setting(action).hint)
        advice = f"write {listed}" if is_list else "a value with spaces needs quotes"
        raise ValueError(
            f"{option_name(action)}: expected one value, got {shown(' '.join(words))}; {advice}"
        )

    def _take(self, action: Action, values: list[str]) -> None:
        name = option_name(action)
        before = self.given.get(action.dest, values)
        self.given[action.dest] = values
        if action.nargs == "+" and before != values:
            got = " and ".join(" ".join(some) or "no value" for some in (before, values))
            raise ValueError(
                f"{name}: expected once, got {got}; write {name} {' '.join([*before, *values])}"
            )
        option = action.option_strings[-1]
        if action.nargs == 0:
            self._take_flag(action, option, values)
        elif action.dest == "config" and self.read_file is not None:
            self._need(action, values)
            content = self.read_file(values[0])
            self.words += ["--config", yaml.safe_dump(dict(content))]
        else:
            hint = self._setting(action).hint
            if not values and hint is bool:
                values = ["true"]
            self._need(action, values)
            texts = [self._value(action, value) for value in values]
            many = action.nargs is not None
            self.words += [option, *texts] if many else [f"{option}={texts[0]}"]

    def _take_flag(self, action: Action, option: str, values: list[str]) -> None:
        if values and values[0].lower() not in ("true", "false"):
            raise ValueError(f"{option_name(action)}: expected no value, got {shown(values[0])}")
        if not values or values[0].lower() == "true":
            self.words.append(option)

    def _need(self, action: Action, values: Sequence[str]) -> None:
        """Refuse an option with too few values."""
        number = action.nargs if isinstance(action.nargs, int) else 1
        if len(values) < number:
            expected = self._expected(action) if number == 1 else f"{number} values"
            got = "no value" if not values else f"{len(values)}: {' '.join(values)}"
            raise ValueError(f"{option_name(action)}: expected {expected}, got {got}")

    def _expected(self, action: Action) -> str:
        setting = self._setting(action)
        if in_words(setting.hint) != "text":
            return in_words(setting.hint)
        return "a value" if setting.allowed is None else setting.allowed.expected

    def _setting(self, action: Action) -> Setting:
        return self.settings.get(action.dest) or setting_of(action)

    def _value(self, action: Action, text: str) -> str:
        try:
            value = self._setting(action).read(text)
        except ValueError as error:
            name = option_name(action) if action.option_strings else action.dest.upper()
            raise ValueError(f"{name}: {error}") from None
        if isinstance(value, str):
            return value
        return json.dumps(value)

    def result(self) -> list[str]:
        """All words, positional ones first.

        Raises:
            ValueError: words are missing or too many.
        """
        wanted = [action.dest.upper() for action in self.positionals]
        if len(self.loose) > len(wanted):
            more = self.loose[len(wanted)]
            raise ValueError(
                f"{more}: expected {' '.join(wanted)} and options, got one word more; such as: "
                f"{self.guide.example}"
            )
        missing = [
            action.dest.upper()
            for action in self.positionals[len(self.loose) :]
            if action.nargs != "?"
        ]
        missing += [
            option_name(action)
            for action in self.parser._actions
            if action.option_strings and action.required and action.dest not in self.given
        ]
        if missing:
            raise ValueError(
                f"{', '.join(missing)}: expected a value, got none; such as: {self.guide.example}"
            )
        positional = [
            self._value(action, text)
            for action, text in zip(self.positionals, self.loose, strict=False)
        ]
        return [*positional, *self.words]

    def _about_loose(self, word: str, rest: Iterable[str]) -> str:
        """A message about a word that belongs to no option."""
        name, equals, value = word.partition("=")
        near = [n for n in self.options if n.lstrip("-") == name.replace("_", "-")]
        if near:
            rest = [value] if equals else []
            return f"{word}: expected an option before it; did you mean {near[0]}{equals}{value}?"
        for option, action in self.options.items():
            if word in choices_of(self._setting(action).hint):
                return f"{word}: expected an option before it; did you mean {option} {word}?"
        words = [word, *(other for other in rest if not _is_option(other))]
        free = [name for name in self.guide.loose if self.options[name].dest not in self.given]
        if not free:
            return f"{word}: expected an option before it; such as: {self.guide.example}"
        meant = " ".join(f"{name} {word}" for name, word in zip(free, words, strict=False))
        return f"{word}: expected an option before it; did you mean {meant}?"


def about_unknown(name: str, parser: ArgumentParser) -> str:
    """A message about an option that a command does not have, with the nearest that it has."""
    plain = name.translate({ord(dash): "-" for dash in _OTHER_DASHES})
    start = f"unknown option {name}"
    word = plain.lstrip("-").replace("_", "-").lower()
    options = {
        option_name(action).lstrip("-"): action
        for action in parser._actions
        if action.option_strings and not is_group(action, parser)
    }
    group = [option for option in options if option.startswith(f"{word}.")]
    if group:
        shown_ones = ", ".join(f"--{option}" for option in group[:3])
        return f"{start}; it is a group of options: {shown_ones}{', ...' * (len(group) > 3)}"
    if word in options:
        return f"{start}; did you mean --{word}?"
    answer = _answer(word, list(options), foreign_words(parser.prog))
    if not answer:
        return f"{start}; {parser.prog} --help-all lists all options"
    if re.fullmatch(r"--[\w.-]+( \w+)?(, --[\w.-]+)*", answer):
        return f"{start}; did you mean {' or '.join(answer.split(', '))}?"
    return f"{start}; {answer}"


def _answer(word: str, options: Sequence[str], words: Mapping[str, str]) -> str:
    """What helps in place of a word that is no option; nothing if that cannot be told."""
    if word in words:
        return words[word]
    same = [option for option in options if _last(option) == _last(word)]
    starting = [option for option in options if len(word) > 2 and option.startswith(word)]
    near = nearest(word, [*options, *words])
    last = nearest(_last(word), map(_last, options))
    if near is not None and near in words and not same and not starting:
        return words[near]
    found = same or starting or [option for option in options if option == near]
    found = found or [option for option in options if _last(option) == last]
    return ", ".join(f"--{option}" for option in found[:3])


def _last(name: str) -> str:
    """The part of a dotted name that stands behind its groups."""
    return name.rpartition(".")[2]


def _is_option(word: str) -> bool:
    """Whether a word of a command line is an option, and no value such as -1."""
    dashed = len(word) > 1 and word[0] in f"-{_OTHER_DASHES}"
    return dashed and not re.fullmatch(r"-\.?\d[\d.,x×e+-]*", word)
