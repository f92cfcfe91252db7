"""Which implementation of an operation runs, decided without importing Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from recycleseg import _ext
from recycleseg.kernels import triton_version
from recycleseg.ops import _checks

MAX_TRITON_CLASSES = 64
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Looked up once: torch.compile cannot trace a look-up of installed packages.
HAS_TRITON = triton_version() is not None


def use_triton(backend: str, num_classes: int, *tensors: Tensor | None) -> bool:
    """Whether the Triton kernel is to run, rather than the reference in plain torch.

    Args:
        backend: "triton", "reference", or "auto": Triton where it can be.
        num_classes: C.
        tensors: all arguments; the first decides the device, and None are left out.

    Raises:
        ValueError: an unknown backend, or "triton" for tensors that it does not serve.
        RuntimeError: "triton" where it is not installed.
    """
    _checks.choice("backend", backend, ("auto", "triton", "reference"))
    if backend == "reference":
        return False
    present = [tensor for tensor in tensors if tensor is not None]
    device = present[0].device.type
    other = [t.dtype for t in present if t.is_floating_point() and t.dtype not in _DTYPES]
    served = device == "cuda" and not other and num_classes <= MAX_TRITON_CLASSES
    if backend == "auto":
        return served and HAS_TRITON
    if device != "cuda":
        raise ValueError(f"backend='triton': expected CUDA tensors, got {device}")
    if other:
        raise ValueError(f"backend='triton': expected float32, float16 or bfloat16, got {other[0]}")
    if num_classes > MAX_TRITON_CLASSES:
        raise ValueError(
            f"backend='triton': expected at most {MAX_TRITON_CLASSES} classes, got {num_classes}"
        )
    if not HAS_TRITON:
        raise RuntimeError(
            "backend='triton' needs Triton, which is not installed. It comes with PyTorch's CUDA "
            "wheels for Linux."
        )
    return True


def resolve_backend(backend: str, device: torch.device) -> str:
    """The implementation that runs of an operation that the compiled extension has.

    Args:
        backend: "cpp", "cuda", "reference", or "auto": the compiled one for the device where it was
            built.
        device: of the tensors.

    Returns:
        "cpp", "cuda" or "reference".

    Raises:
        ValueError: an unknown backend, or one that does not serve the device.
        RuntimeError: a backend that was not built; says why and how to get it.
    """
    _checks.choice("backend", backend, ("auto", "cpp", "cuda", "reference"))
    compiled = {"cpu": "cpp", "cuda": "cuda"}.get(device.type)
    built = {"cpp": _ext.HAS_CPP, "cuda": _ext.HAS_CUDA, "reference": True}
    if backend == "auto":
        return compiled if compiled is not None and built[compiled] else "reference"
    if not built[backend]:
        raise RuntimeError(_why_not_built(backend))
    if backend not in (compiled, "reference"):
        expected = "CPU" if backend == "cpp" else "CUDA"
        raise ValueError(f"backend={backend!r}: expected {expected} tensors, got {device.type}")
    return backend


def _why_not_built(backend: str) -> str:
    if isinstance(_ext.C, _ext.MissingExtension):
        why = f"cannot be imported: {_ext.C.reason}. {_ext.HOW_TO_BUILD}"
    else:
        why = f"was built for the CPU alone. {_ext.HOW_TO_BUILD} and nvcc on PATH"
    return f"backend={backend!r} needs recycleseg's compiled extension, which {why}."
