"""YAML files in which every mistake is named.

Their size is bounded, because a few lines of aliases can stand for gigabytes.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from recycleseg.files import FileError, read_text_bytes

_LONGEST = 2**18
_MOST_VALUES = 10_000
_DEEPEST = 100


def read_yaml(path: Path, kind: str = "YAML") -> Any:
    """The value in a YAML file, in which no key stands twice.

    Args:
        path: the file.
        kind: what it should be, for messages.

    Raises:
        FileError: the file cannot be read, is longer than 256 KiB, is not YAML, has more than 100
            levels, or more than 10 000 values when each alias is replaced by what it stands for.
    """
    content = read_text_bytes(path, kind, _LONGEST)
    too_deep = f"{path}: expected {kind} of at most {_DEEPEST} levels, got more"
    if _depth(content) > _DEEPEST:  # the parser's time grows with the square of the depth
        raise FileError(too_deep)
    try:
        loader = _UniqueKeys(content.decode("utf-8-sig"))
        node = loader.get_single_node()
        if node is None:
            return None
        if _values_of(node, {}) > _MOST_VALUES:
            raise FileError(f"{path}: expected at most {_MOST_VALUES} values in {kind}, got more")
        return loader.construct_document(node)
    except FileError:
        raise
    except RecursionError as error:
        raise FileError(too_deep) from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: expected {kind} as text in UTF-8, got other bytes") from error
    except (ValueError, yaml.YAMLError) as error:
        raise FileError(f"{path}: {_about_yaml(error, kind)}") from error


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value} stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _about_yaml(error: Exception, kind: str) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    where = "" if mark is None else f"line {mark.line + 1}: "
    if "'\\t'" in problem:
        return f"{where}expected spaces, got a tab, which YAML does not allow"
    return f"{where}expected {kind}, got: {problem}"


def _depth(content: bytes) -> int:
    """How many brackets are open at the same time, as if there were no brackets in strings."""
    codes = np.frombuffer(content, np.uint8)
    opened = np.isin(codes, list(b"[{")).astype(np.int64)
    return int(np.cumsum(opened - np.isin(codes, list(b"]}"))).max(initial=0))


def _values_of(node: yaml.Node, known: dict[int, int]) -> int:
    """The number of values that a node stands for, once its aliases are replaced.

    Args:
        node: of the graph in which an alias is the node that it stands for.
        known: id of a node -> its number of values.
    """
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES + 1  # seen from within, a node has no end
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        known[id(node)] = 1 + sum(_values_of(child, known) for child in children)
    return known[id(node)]
