"""All steps of a sampling trajectory as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class GraphedSteps:
    """A function of tensors with fixed shapes, captured at its first call and replayed later.

    A replay launches hundreds of kernels at once, so there are no pauses between them as there are
    when Python launches each one. The function must compute only on the GPU and never wait for it.
    It may read only its arguments and tensors that stay at the same place in memory. For example
    the values of a network's parameters may change, because each replay reads them again.

    Args:
        function: takes CUDA tensors and gives one; it is called a few times before the capture.
    """

    WARM_UP = 2

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[Tensor, ...] = ()
        self.output = torch.empty(0)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The result of the function for these inputs; the next call overwrites it.

        Raises:
            ValueError: an input has another shape than at the first call.
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
        # Compilation and the choice of algorithms must end before the capture. A capture needs
        # another stream than the default one, and so do the calls before it.
        stream = torch.cuda.Stream(inputs[0].device)
        stream.wait_stream(torch.cuda.current_stream(inputs[0].device))
        with torch.cuda.stream(stream):
            for _ in range(self.WARM_UP):
                self.function(*self.inputs)
        torch.cuda.current_stream(inputs[0].device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # The stream is given, because the default one of torch belongs to only one device.
        with torch.cuda.graph(graph, stream=stream):
            self.output = self.function(*self.inputs)
        self.graph = graph
