"""Libraries of the extra `formats`, imported when a file needs them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from recycleseg.files import FileError


def needed(module: str, path: Path) -> Any:
    """Import a module.

    Raises:
        FileError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        name = module.split(".")[0]
        raise FileError(
            f"{path}: expected {name} to be installed for files of this kind, got none; "
            'run: pip install "recycleseg[formats]"'
        ) from error
