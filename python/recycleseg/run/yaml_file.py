"""YAML files in which every mistake is named."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from recycleseg.files import FileError


def read_yaml(path: Path) -> Any:
    """The YAML value in a file, in which no key stands twice.

    Raises:
        FileError: the file cannot be read or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        return yaml.load(text, Loader=_UniqueKeys)
    except OSError as error:
        raise FileError(f"{path}: expected a YAML file, got: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: expected YAML as text in UTF-8, got other bytes") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise FileError(f"{path}: {_about_yaml(error)}") from error


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


def _about_yaml(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    where = "" if mark is None else f"line {mark.line + 1}: "
    if "'\\t'" in problem:
        return f"{where}expected spaces, got a tab, which YAML does not allow"
    return f"{where}expected YAML, got: {problem}"
