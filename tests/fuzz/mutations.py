"""Damaged versions of a sound file."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Change = Callable[[bytes], bytes]
# Where a number lies in a file, and its type as of `struct`.
Field = tuple[int, str]

_WHOLE = (0, 1, 2, 3, 4, 7, 8, 16, 255, 256, 1000, 32767, 65535, 2**24, 2**31 - 1, 2**32 - 1)
_REAL = (0.0, 1.0, 348.0, 352.0, 353.0, 1e3, 1e-30, 1e30, float("nan"), float("inf"))
# Pieces of text that have troubled parsers.
_WORDS = (
    *(b"", b"\0", b"\n", b"\r\n", b" ", b",", b";", b":", b'"', b"'", b"=", b"-", b"#", b"*a"),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3", b"\xed\xa0\x80", b"\\ud800", b"1e999", b"NaN"),
    *(b"-1", b"0", b"null", b"true", b"{}", b"[]", b"9" * 20, b"9" * 5000, b"[" * 3000),
    *(b"&a ", b"inf", b"-inf", b"3 3 3 3 3", b"99999 99999 99999", b"../x", b"/dev/zero", b"<<: "),
    b"{a: " * 300,
)  # fmt: skip


def damaged(sound: bytes, fields: Sequence[Field] = ()) -> SearchStrategy[bytes]:
    """A binary file after one to four changes.

    Args:
        sound: the file.
        fields: its numbers, which get extreme values.
    """
    return _changed(sound, [*_changes(len(sound)), *([_field(fields)] * 4 if fields else [])])


def damaged_text(sound: bytes) -> SearchStrategy[bytes]:
    """A text file after one to four changes."""
    position = st.integers(0, len(sound))
    word = st.builds(
        lambda start, length, word: lambda b: b[:start] + word + b[start + length :],
        position,
        st.integers(0, 12),
        st.sampled_from(_WORDS),
    )
    return _changed(sound, [*_changes(len(sound)), word, word, word, word])


def damaged_json(sound: Any) -> SearchStrategy[bytes]:
    """JSON in which values have another type or range, or are missing; or a damaged text."""
    scalar = st.sampled_from(
        [None, True, False, 0, -1, 1, 3, 2**31, 10**30, 0.5, -0.0, 1e308, "", "x", "a\0b", "\ud800",
         "../../x", "0", "-1", ".nii.gz", float("nan"), float("inf")]
    )  # fmt: skip
    junk = st.recursive(
        scalar,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["0", "x", "", "train", "labels"]), inner, max_size=3)
        ),
        max_leaves=6,
    )
    change = st.tuples(st.sampled_from(_places(sound)), st.booleans(), junk)
    trees = st.lists(change, min_size=1, max_size=3).map(
        lambda changes: json.dumps(_replaced(json.loads(json.dumps(sound)), changes)).encode()
    )
    return trees | trees | damaged_text(json.dumps(sound).encode())


def _changes(length: int) -> list[SearchStrategy[Change]]:
    """Changes that any file may suffer."""
    position = st.integers(0, max(length - 1, 0))
    return [
        st.builds(_flip, position, st.integers(0, 7)),
        st.builds(lambda at, value: lambda b: _with(b, at, value), position, st.binary(max_size=8)),
        st.builds(lambda at: lambda b: b[:at], position),
        st.builds(
            lambda at, more: lambda b: b[:at] + more + b[at:], position, st.binary(max_size=9)
        ),
        st.builds(lambda at, n: lambda b: b[:at] + b[at + n :], position, st.integers(1, 64)),
        st.builds(lambda at, n: lambda b: b + b[at : at + n], position, st.integers(1, 5000)),
    ]


def _flip(at: int, bit: int) -> Change:
    return lambda b: _with(b, at % len(b), [b[at % len(b)] ^ 1 << bit])


def _field(fields: Sequence[Field]) -> SearchStrategy[Change]:
    def change(field: Field, whole: int, real: float, negative: bool) -> Change:
        at, kind = field
        if kind[-1] in "fd":
            packed = struct.pack(kind, -real if negative else real)
        else:
            size = struct.calcsize(kind)
            value = (-whole if negative else whole) % 2 ** (8 * size)
            packed = value.to_bytes(size, "big" if kind[0] == ">" else "little")
        return lambda b: _with(b, at, packed)

    whole, real = st.sampled_from(_WHOLE), st.sampled_from(_REAL)
    return st.builds(change, st.sampled_from(list(fields)), whole, real, st.booleans())


def _changed(sound: bytes, changes: list[SearchStrategy[Change]]) -> SearchStrategy[bytes]:
    def apply(chosen: list[Change]) -> bytes:
        content = sound
        for change in chosen:
            content = change(content) if content else content
        return content

    return st.lists(st.one_of(changes), min_size=1, max_size=4).map(apply)


def _with(content: bytes, at: int, value: Sequence[int]) -> bytes:
    at = min(at, len(content))
    return content[:at] + bytes(value) + content[at + len(value) :]


def _places(tree: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values in JSON."""
    inside: list[tuple[Any, Any]] = []
    if isinstance(tree, dict | list):
        inside = list(tree.items() if isinstance(tree, dict) else enumerate(tree))
    return [place, *(p for key, value in inside for p in _places(value, (*place, key)))]


def _replaced(tree: Any, changes: list[tuple[tuple[Any, ...], bool, Any]]) -> Any:
    """JSON with other values, or without them, at some places that are still there."""
    for place, removed, junk in changes:
        if not place:
            tree = junk
            continue
        outer = tree
        try:
            for key in place[:-1]:
                outer = outer[key]
            outer[place[-1]]
            if removed:
                del outer[place[-1]]
            else:
                outer[place[-1]] = junk
        except (IndexError, KeyError, TypeError):
            continue
    return tree
