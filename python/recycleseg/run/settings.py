"""Options from a YAML file: every key is known, every value has its type and its range."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, get_type_hints

from recycleseg.run.ranges import RANGE, Range
from recycleseg.run.values import fitted, in_words, nearest, shown


class Setting(NamedTuple):
    """What an option takes.

    Attributes:
        hint: its type.
        allowed: its range; None allows every value of the type.
    """

    hint: Any
    allowed: Range | None = None

    def read(self, value: Any) -> Any:
        """The value in the option's type and range.

        Raises:
            ValueError: it does not fit; the message says what was expected and what came.
        """
        try:
            found = fitted(value, self.hint)
        except ValueError:
            if self.allowed is None or in_words(self.hint) != "text":
                raise
            raise ValueError(f"expected {self.allowed.expected}, got {shown(value)}") from None
        if self.allowed is not None and (problem := self.allowed.problem(found)):
            raise ValueError(problem)
        return found


def settings_of(kind: type[Any], prefix: str = "") -> Iterator[tuple[str, Setting]]:
    """Dotted name and meaning of every option in a dataclass and in those inside it."""
    hints = get_type_hints(kind)
    for option in fields(kind):
        if is_dataclass(hints[option.name]):
            yield from settings_of(hints[option.name], f"{prefix}{option.name}.")
        else:
            setting = Setting(hints[option.name], option.metadata.get(RANGE))
            yield prefix + option.name, setting


def fitted_settings(
    content: Any, known: Mapping[str, Setting], about_unknown: Callable[[str], str] | None = None
) -> dict[str, Any]:
    """The options of a file by their dotted names, each in its type.

    Args:
        content: what the YAML of the file holds.
        known: dotted names of all options.
        about_unknown: a message about a name that is not known; else the nearest name is told.

    Raises:
        ValueError: no options, an unknown one, or a value that does not fit; the message names the
            option.
    """
    if not isinstance(content, Mapping):
        got = "nothing" if content is None else _KINDS.get(type(content), shown(content))
        raise ValueError(f"expected options such as `optim: {{steps: 1000}}`, got {got}")
    found: dict[str, Any] = {}
    for name, value in _flat(content, known):
        if name not in known:
            raise ValueError((about_unknown or (lambda name: _about_unknown(name, known)))(name))
        try:
            found[name] = known[name].read(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return found


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Options by dotted names as dictionaries in dictionaries."""
    whole: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, last = name.split(".")
        inner = whole
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return whole


_KINDS: dict[Any, str] = {
    list: "a list",
    str: "a text; a space is needed after the colon of `name: value`",
}


def _flat(content: Mapping[Any, Any], known: Mapping[str, Setting]) -> Iterator[tuple[str, Any]]:
    """Options with their dotted names; groups are opened."""
    groups = {name.rpartition(".")[0] for name in known} - {""}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in groups:
            yield name, value
        elif isinstance(value, Mapping):
            yield from ((f"{name}.{inner}".replace("-", "_"), v) for inner, v in value.items())
        else:
            example = next(option for option in known if option.startswith(f"{name}."))
            expected = f"options such as `{name}: {{{example.rpartition('.')[2]}: ...}}`"
            raise ValueError(f"{name}: expected {expected}, got {shown(value)}")


def _about_unknown(name: str, known: Mapping[str, Setting]) -> str:
    near = nearest(name, known)
    return f"{name}: unknown option" + (f"; did you mean {near}?" if near else "")
