"""JSON files that hold an object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recycleseg.data.volumes import DatasetError


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a file.

    Raises:
        DatasetError: naming the file that cannot be read or holds something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: expected JSON, got: {error}") from error
    return parse_json_object(content, str(path))


def parse_json_object(text: str | bytes, source: str) -> dict[str, Any]:
    """The object that a text holds; source: what messages call the place that it comes from.

    Raises:
        DatasetError: it holds something else.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DatasetError(f"{source}: expected JSON, got: {error}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{source}: expected an object, got {type(content).__name__}")
    return content
