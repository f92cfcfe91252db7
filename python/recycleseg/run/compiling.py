"""torch.compile as the option `--compile` asks for it, with a clear error if it fails."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

from recycleseg.run.options import CompileMode

Result = TypeVar("Result")


def resolve_mode(mode: CompileMode, device: torch.device) -> CompileMode:
    """Replace "auto": "default" on a GPU, "off" on a CPU.

    On a CPU, compiling takes minutes and gains little beside the extension's operations.
    """
    if mode != "auto":
        return mode
    return "default" if device.type == "cuda" else "off"


def compiled(function: Callable[..., Result], mode: CompileMode) -> Callable[..., Result]:
    """Compile a function as one graph without a break, once for each shape of its input.

    Args:
        function: any function of tensors.
        mode: resolved; "off" returns the function itself.

    Returns:
        The compiled function. If the compiler fails at the first call, this raises a ValueError
        with the reason and the way out.
    """
    if mode == "off":
        return function
    # Graphs of fixed shape are faster, and patches and batches have a fixed shape. The compiler
    # makes no CUDA graphs, because they would reuse the memory of accumulated gradients, and
    # because sampling is captured as a whole.
    torch_mode = "max-autotune-no-cudagraphs" if mode == "max-autotune" else mode
    fast = torch.compile(function, fullgraph=True, dynamic=False, mode=torch_mode)

    @wraps(function, updated=())
    def call(*arguments: Any, **named: Any) -> Result:
        # Imported here, because it takes a second, which other runs need not spend.
        from torch._dynamo.exc import TorchDynamoException

        try:
            return fast(*arguments, **named)
        except TorchDynamoException as error:
            cause = getattr(error, "inner_exception", error)
            why = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
            way_out = "Use --compile off to run without it."
            if "compiler" in why.lower():
                way_out = f"Install a C++ compiler such as g++. {way_out}"
            raise ValueError(f"--compile {mode}: torch.compile failed: {why}. {way_out}") from error

    return call
