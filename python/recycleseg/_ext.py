"""The one place that imports the compiled extension, and what to say where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch.utils.dlpack import to_dlpack

HOW_TO_BUILD = "Run `pip install .` in a checkout of recycleseg; it takes a C++17 compiler"


class MissingExtension:
    """Stands in for the extension; every use raises, and says what is missing and how to get it."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(
            f"{name} needs recycleseg's compiled extension, which cannot be imported: "
            f"{self.reason}. {HOW_TO_BUILD}."
        )


C: ModuleType | MissingExtension
try:
    from recycleseg import _C as C
except ImportError as error:
    C = MissingExtension(str(error))
HAS_CPP = isinstance(C, ModuleType)
HAS_CUDA = HAS_CPP and bool(C.build_config()["cuda"])


@contextmanager
def calls_cancelled() -> Iterator[None]:
    """While it lasts, calls on all threads that take long end with KeyboardInterrupt.

    For the main thread, which alone hears of Ctrl-C, while it waits for others.
    """
    if HAS_CPP:
        C.cancel_calls(True)
    try:
        yield
    finally:
        if HAS_CPP:
            C.cancel_calls(False)


def capsule(tensor: torch.Tensor) -> object:
    """`tensor` as the extension takes it: a DLPack capsule, made without waiting for a stream."""
    return to_dlpack(tensor)
