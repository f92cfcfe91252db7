"""Which operations run as Triton kernels, decided without importing Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from recycleseg.kernels import triton_version

MAX_CLASSES = 64
_BACKENDS = ("auto", "triton", "reference")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Looked up once: torch.compile cannot trace a look-up of installed packages.
HAS_TRITON = triton_version() is not None


def use_triton(backend: str, num_classes: int, *tensors: Tensor | None) -> bool:
    """Whether the Triton kernel is to run, rather than the reference in plain torch.

    Args:
        backend: "triton", "reference", or "auto": Triton where it can be.
        num_classes: C, that Triton kernels take up to 64 of.
        tensors: all arguments, whose first has the device that counts; None are left out.

    Raises:
        ValueError: an unknown backend, or "triton" for tensors that it does not serve.
        RuntimeError: "triton" where it is not installed.
    """
    if backend not in _BACKENDS:
        raise ValueError(f"backend: expected one of {_BACKENDS}, got {backend!r}")
    if backend == "reference":
        return False
    present = [tensor for tensor in tensors if tensor is not None]
    device = present[0].device.type
    other = [t.dtype for t in present if t.is_floating_point() and t.dtype not in _DTYPES]
    served = device == "cuda" and not other and num_classes <= MAX_CLASSES
    if backend == "auto":
        return served and HAS_TRITON
    if device != "cuda":
        raise ValueError(f"backend='triton': expected CUDA tensors, got {device}")
    if other:
        raise ValueError(f"backend='triton': expected float32, float16 or bfloat16, got {other[0]}")
    if num_classes > MAX_CLASSES:
        raise ValueError(
            f"backend='triton': expected at most {MAX_CLASSES} classes, got {num_classes}"
        )
    if not HAS_TRITON:
        raise RuntimeError(
            "backend='triton' needs Triton, which is not installed. It comes with PyTorch's CUDA "
            "wheels for Linux."
        )
    return True
