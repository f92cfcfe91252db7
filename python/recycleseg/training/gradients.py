"""The sum of all processes' gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from recycleseg.processes import Processes

# Large enough for the bandwidth of a network, small enough that the first is full early.
_BUCKET_BYTES = 25 * 2**20


class _Bucket:
    """Parameters whose gradients travel together."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        self.params = params
        self.buffer = params[0].new_zeros(sum(p.numel() for p in params))
        self.ready = 0
        parts = self.buffer.split([p.numel() for p in params])
        # In the parameter's own layout, as the optimiser wants it.
        self.views = [
            part.as_strided(p.shape, p.stride(), part.storage_offset())
            for part, p in zip(parts, params, strict=True)
        ]

    @torch.no_grad()
    def start(self, processes: Processes) -> Callable[[], None]:
        """Move the gradients here, and begin to sum them."""
        used = [(v, p) for v, p in zip(self.views, self.params, strict=True) if p.grad is not None]
        for view, param in used:
            assert param.grad is not None
            view.copy_(param.grad)
            param.grad = view
        return processes.start_sum(self.buffer)


class GradientSum:
    """Sums the gradients of all processes in buckets, the first while the backward pass still runs.

    After it all processes have the same gradients, bit for bit. A compiled backward pass gives its
    gradients at its end, so that there is nothing to overlap with; then the buckets follow each
    other.

    Args:
        network: its parameters get the sums.
        processes: that share the batch.
    """

    def __init__(self, network: nn.Module, processes: Processes) -> None:
        self._processes = processes
        self._buckets: list[_Bucket] = []
        self._bucket_of: dict[nn.Parameter, _Bucket] = {}
        self._active = False
        self._started: list[Callable[[], None]] = []
        if not processes.several:
            return
        # The backward pass reaches the last layers first.
        group: list[nn.Parameter] = []
        for param in reversed([p for p in network.parameters() if p.requires_grad]):
            if group and _bytes_of([*group, param]) > _BUCKET_BYTES:
                self._add(group)
                group = []
            group.append(param)
        self._add(group)

    def _add(self, params: list[nn.Parameter]) -> None:
        bucket = _Bucket(params)
        self._buckets.append(bucket)
        for param in params:
            self._bucket_of[param] = bucket
            param.register_post_accumulate_grad_hook(self._receive)

    @contextmanager
    def summed(self) -> Iterator[None]:
        """The block is the last backward pass before an optimiser step; after it sums are there."""
        self._active = True
        try:
            yield
            while len(self._started) < len(self._buckets):  # of parameters without gradient
                self._start_next()
            for wait in self._started:
                wait()
        finally:
            self._active = False
            self._started = []
            for bucket in self._buckets:
                bucket.ready = 0

    def _receive(self, param: Tensor) -> None:
        if not self._active:
            return
        bucket = self._bucket_of[param]  # type: ignore[index]
        bucket.ready += 1
        # In one order everywhere, because sums are matched by their order.
        while self._is_next_full():
            self._start_next()

    def _is_next_full(self) -> bool:
        index = len(self._started)
        return index < len(self._buckets) and (
            self._buckets[index].ready == len(self._buckets[index].params)
        )

    def _start_next(self) -> None:
        self._started.append(self._buckets[len(self._started)].start(self._processes))


def _bytes_of(params: list[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in params)
