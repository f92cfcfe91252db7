"""torch.compile as `--compile` asks for it, and what to say where it fails."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

from recycleseg.run.options import CompileMode

Result = TypeVar("Result")


def resolve_mode(mode: CompileMode, device: torch.device) -> CompileMode:
    """What "auto" means on the device: "default" on a GPU, else "off".

    On a CPU compiling takes minutes, and the extension's operations leave it little to gain.
    """
    if mode != "auto":
        return mode
    return "default" if device.type == "cuda" else "off"


def compiled(function: Callable[..., Result], mode: CompileMode) -> Callable[..., Result]:
    """The function compiled as one graph without a break, for each shape anew; itself if "off".

    The mode must be resolved. What the compiler raises, at the first call, becomes a ValueError
    that says why and names the way out.
    """
    if mode == "off":
        return function
    # Graphs of fixed shape are faster, and patches and batches have a fixed shape. Not with CUDA
    # graphs of the compiler's own: accumulated gradients would lie in memory that they use again,
    # and sampling is captured as a whole.
    torch_mode = "max-autotune-no-cudagraphs" if mode == "max-autotune" else mode
    fast = torch.compile(function, fullgraph=True, dynamic=False, mode=torch_mode)

    @wraps(function, updated=())
    def call(*arguments: Any, **named: Any) -> Result:
        # Imported here, for it takes a second that a run without compilation need not spend.
        from torch._dynamo.exc import TorchDynamoException

        try:
            return fast(*arguments, **named)
        except TorchDynamoException as error:
            why = str(error).strip().splitlines()[0]
            raise ValueError(
                f"--compile {mode}: torch.compile failed: {why}. Use --compile off to run "
                "without it."
            ) from error

    return call
