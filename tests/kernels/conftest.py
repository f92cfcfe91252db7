"""Runs the Triton kernels on the GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator

import pytest
import torch
from recycleseg.kernels import triton_version

# Triton reads it when it is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def device() -> torch.device:
    """Where the kernels run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def tolerance(device: torch.device) -> float:
    """Of float32 values near 1: NumPy rounds to the last digit; a GPU approximates exp and cos."""
    return 2e-6 if device.type == "cpu" else 2e-5


@pytest.fixture
def opcheck(device: torch.device) -> Callable[..., None]:
    """torch.library.opcheck; of it, in the interpreter, what runs no kernel on fake tensors."""
    if triton_version() is None:
        pytest.skip("Triton is not installed")
    on_cpu = ("test_schema", "test_autograd_registration")
    options = {"test_utils": on_cpu} if device.type == "cpu" else {}
    return lambda operator, arguments: torch.library.opcheck(operator, arguments, **options)


@pytest.fixture
def fuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has the named operation run its Triton kernel, on a CPU too, unless "reference" is asked."""
    if triton_version() is None:
        pytest.skip("Triton is not installed")

    def with_kernel(operation: str) -> None:
        module = importlib.import_module(f"recycleseg.ops.{operation}")
        monkeypatch.setattr(module, "use_triton", lambda backend, *_: backend != "reference")

    return with_kernel


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """New tensors hold NaN, or the greatest integer, until they are written."""
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.utils.deterministic.fill_uninitialized_memory = before
    torch.use_deterministic_algorithms(False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what registers each kernel takes, as compiled ahead of time; none of them spills."""
    compiled = [
        f"{registers}: {kernel}"
        for report in terminalreporter.getreports("passed")
        if "test_aot.py" in report.nodeid
        for kernel, registers in report.user_properties
    ]
    if compiled:
        terminalreporter.write_sep("=", "Triton kernels compiled ahead of time")
        terminalreporter.write_line("\n".join(compiled))
