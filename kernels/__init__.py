"""Triton kernels, one file per operation, and whether Triton is there to run them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def triton_version() -> str | None:
    """Version of the installed Triton, or None; importing no Triton, which takes a second."""
    try:
        return version("triton")
    except PackageNotFoundError:
        return None
