"""Which implementations this installation has."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch

from recycleseg import _ext
from recycleseg.kernels import triton_version


def build_info() -> dict[str, Any]:
    """Versions and compiled parts, for a run's record or a bug report; plain JSON values.

    Keys: "recycleseg", "torch" and "triton" (versions; None where there is no Triton) and
    "extension", what the compiled extension was built with, or None where there is none.
    """
    return {
        "recycleseg": version("recycleseg"),
        "torch": torch.__version__,
        "triton": triton_version(),
        "extension": _ext.C.build_config() if _ext.HAS_CPP else None,
    }
