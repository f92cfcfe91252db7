"""The one place that imports the compiled extension, and what to say where there is none."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch.utils.dlpack import to_dlpack

_HOW_TO_BUILD = "Run `pip install .` in a checkout of recycleseg; it takes a C++17 compiler"


class MissingExtension:
    """Stands in for the extension; every use of it raises, saying what, why and how to get it."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(
            f"{name} needs recycleseg's compiled extension, which cannot be imported: "
            f"{self.reason}. {_HOW_TO_BUILD}."
        )


C: ModuleType | MissingExtension
try:
    from recycleseg import _C as C
except ImportError as error:
    C = MissingExtension(str(error))
HAS_CPP = isinstance(C, ModuleType)
HAS_CUDA = HAS_CPP and bool(C.build_config()["cuda"])


def resolve_backend(backend: str, device: torch.device) -> str:
    """The backend that runs: "cpp", "cuda" or "reference".

    backend: one of these, or "auto": the compiled one for the device where it was built.
    Raises ValueError for any other name and for a backend that does not serve the device, and
    RuntimeError, saying why and how to get it, for a backend that was not built.
    """
    compiled = {"cpu": "cpp", "cuda": "cuda"}.get(device.type)
    built = {"cpp": HAS_CPP, "cuda": HAS_CUDA, "reference": True}
    if backend == "auto":
        return compiled if compiled is not None and built[compiled] else "reference"
    if backend not in built:
        raise ValueError(f"backend: expected 'auto', 'cpp', 'cuda' or 'reference', got {backend!r}")
    if not built[backend]:
        raise RuntimeError(_why_not_built(backend))
    if backend not in (compiled, "reference"):
        expected = "CPU" if backend == "cpp" else "CUDA"
        raise ValueError(f"backend={backend!r}: expected {expected} tensors, got {device.type}")
    return backend


def capsule(tensor: torch.Tensor) -> object:
    """`tensor` as the extension takes it: a DLPack capsule, made without waiting for a stream."""
    return to_dlpack(tensor)


def _why_not_built(backend: str) -> str:
    if isinstance(C, MissingExtension):
        why = f"cannot be imported: {C.reason}. {_HOW_TO_BUILD}"
    else:
        why = f"was built for the CPU alone. {_HOW_TO_BUILD} and nvcc on PATH"
    return f"backend={backend!r} needs recycleseg's compiled extension, which {why}."
