"""All steps of a sampling trajectory as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class GraphedSteps:
    """A function of tensors of fixed shapes, captured at its first call and replayed at all others.

    A replay launches hundreds of kernels at once, and runs them without the pauses between them
    that launching each from Python costs. The function must compute on the GPU alone, without
    waiting for it, and read nothing but its arguments and tensors whose memory stays: a network's
    parameters may change, for they are read where they lie.

    Args:
        function: takes CUDA tensors, gives one; called some times before it is captured.
    """

    WARM_UP = 2

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[Tensor, ...] = ()
        self.output = torch.empty(0)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """What the function gives for these inputs, in a tensor that the next call overwrites.

        Raises:
            ValueError: inputs of other shapes than those of the first call.
        """
        if self.graph is None:
            self._capture(inputs)
        assert self.graph is not None
        for mine, given in zip(self.inputs, inputs, strict=True):
            if mine.shape != given.shape:
                raise ValueError(
                    f"inputs: expected shape {tuple(mine.shape)} as at the first call, "
                    f"got {tuple(given.shape)}"
                )
            mine.copy_(given)
        self.graph.replay()
        return self.output

    def _capture(self, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = tuple(given.clone() for given in inputs)
        # Compilation and the choice of algorithms must be over before, and on another stream.
        stream = torch.cuda.Stream(inputs[0].device)
        stream.wait_stream(torch.cuda.current_stream(inputs[0].device))
        with torch.cuda.stream(stream):
            for _ in range(self.WARM_UP):
                self.function(*self.inputs)
        torch.cuda.current_stream(inputs[0].device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # On this stream, for that which torch takes by default is of one device.
        with torch.cuda.graph(graph, stream=stream):
            self.output = self.function(*self.inputs)
        self.graph = graph
