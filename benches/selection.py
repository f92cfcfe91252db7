"""Which benches run without --full: every operation, at shapes that fit the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def full_unless(quick: bool, *values: Any) -> Any:
    """Make a case of a bench, which waits for --full unless it is quick.

    Args:
        quick: Whether it runs without --full.
        values: Its values, for `pytest.mark.parametrize`.

    Returns:
        The case.
    """
    return pytest.param(*values, marks=() if quick else pytest.mark.full)


def on_device(cpu: Any, gpu: Any) -> Any:
    """Choose between what fits a CPU and what fits a GPU."""
    return cpu if DEVICE.type == "cpu" else gpu
