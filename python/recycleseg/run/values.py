"""Values of options: the forms in which people write them, turned into the type of the option."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

# What `_fit` gives for a value that does not fit, because None is a value.
_MISFIT: Any = object()
_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NOTHING = ("null", "none", "~")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_LISTS = {
    int: "whole numbers such as 32,48,32",
    float: "numbers such as 1,1,2.5",
    bool: "a list such as true,false",
    str: "names such as a,b",
    int | tuple[int, ...]: "a list such as [[2,2,1],2]",
}


def fitted(value: Any, hint: Any) -> Any:
    """The value in the type of its option.

    Lists may be written as `32,48,32`, `32x48x32` or `[32,48,32]`, whole numbers as `1e4`.

    Args:
        value: a text from a command line, or a value from YAML.
        hint: the type, as it stands in a dataclass.

    Raises:
        ValueError: the value does not fit; the message says what was expected and what came.
    """
    found = _fit(value, hint)
    if found is _MISFIT:
        raise ValueError(f"expected {in_words(hint)}, got {shown(value)}{_correction(value, hint)}")
    return found


def in_words(hint: Any) -> str:
    """What an option of this type takes, for messages."""
    kinds = [kind for kind in kinds_of(hint) if kind is not NoneType]
    words = choices_of(hint)
    words += [_WORDS[kind] for kind in kinds if kind in _WORDS]
    for item in (get_args(kind)[0] for kind in kinds if get_origin(kind) is tuple):
        words.append(_LISTS.get(item, "a list of them" if words else f"a list of {in_words(item)}"))
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def kinds_of(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union of types, or the type alone."""
    return get_args(hint) if _is_union(hint) else (hint,)


def choices_of(hint: Any) -> list[str]:
    """The words among which one chooses, if there are such."""
    literals = [kind for kind in kinds_of(hint) if get_origin(kind) is Literal]
    return [str(choice) for kind in literals for choice in get_args(kind)]


def shown(value: Any) -> str:
    """A value in a message, as it is written in YAML; texts in quotes."""
    if value == "":
        return "an empty value"
    if isinstance(value, str):
        return repr(value)
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1000).split("\n")[0]
    return text


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name that a mistyped word probably means, or None."""
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.7)
    return by_lower[near[0]] if near else None


def _fit(value: Any, hint: Any) -> Any:
    text = value.strip() if isinstance(value, str) else None
    if hint is NoneType:
        return None if value is None or (text or "").lower() in _NOTHING else _MISFIT
    if hint is str:
        return value if isinstance(value, str) and value else _MISFIT
    if hint is bool:
        found = value if text is None else _TRUTHS.get(text.lower())
        return found if isinstance(found, bool) else _MISFIT
    if hint in (int, float):
        return _fit_number(value, hint)
    if get_origin(hint) is Literal:
        choices = [c for c in get_args(hint) if (str(c) if text is not None else c) == value]
        return choices[0] if choices and not isinstance(value, bool) else _MISFIT
    if get_origin(hint) is tuple:
        return _fit_list(value, get_args(hint)[0])
    # Every text is text, so this comes last.
    for kind in sorted(get_args(hint), key=lambda kind: kind is str):
        found = _fit(value, kind)
        if found is not _MISFIT:
            return found
    return _MISFIT


def _fit_number(value: Any, kind: type) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return _MISFIT
    try:
        if kind is int and isinstance(value, (int, str)):
            return int(value)
    except ValueError:
        pass  # 1e4 is a whole number too
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return _MISFIT
    if not math.isfinite(number):
        return _MISFIT
    if kind is int:
        return int(number) if number.is_integer() else _MISFIT
    return number


def _fit_list(value: Any, item: Any) -> Any:
    entries = _entries(value, item) if isinstance(value, str) else value
    if not isinstance(entries, (list, tuple)):
        return _MISFIT
    found = tuple(_fit(entry, item) for entry in entries)
    return _MISFIT if any(entry is _MISFIT for entry in found) else found


def _entries(text: str, item: Any) -> Any:
    """The entries of a list that is written as text; something else if it is no list."""
    text = text.strip()
    if text.startswith("["):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            return _MISFIT
    text = text.removeprefix("(").removesuffix(")")
    if "," in text:
        return [entry.strip() for entry in text.split(",")]
    # 2x2x1 could be three entries or one entry with three numbers.
    if not _is_union(item) and re.fullmatch(r"[\d.]+([x×][\d.]+)+", text):
        return re.split("[x×]", text)
    return _MISFIT if item is str or _is_union(item) else [text]


def _correction(value: Any, hint: Any) -> str:
    """What the user probably meant, if that can be told."""
    if not isinstance(value, str):
        return ""
    if value.startswith("="):
        return "; write = without spaces around it"
    if (near := nearest(value, choices_of(hint))) is not None:
        return f"; did you mean {near}?"
    if float in kinds_of(hint) and re.fullmatch(r"\d+,\d+", value):
        return f"; did you mean {value.replace(',', '.')}?"
    return ""


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)
