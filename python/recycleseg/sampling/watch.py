"""Whether all that a network gave for a case is finite, without waiting for the device."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from recycleseg.diffusion.network import Network

# Logits and noise are below a hundred. Larger outputs come from damaged weights or images.
LARGEST_OUTPUT = 1e6
# Rounding takes sums of weighted probabilities a little out of [0, 1].
_ROUNDING = 1e-3


class NonFiniteError(ValueError):
    """A network gave NaN, Inf or huge numbers, which would look like a segmentation."""


class WatchedNetwork:
    """A network that keeps the largest magnitude of its outputs.

    The decision of the largest probability turns NaN into class 0, and limits to [0, 1] turn Inf
    into 1. So the outputs themselves are looked at, in one more pass over them.

    Args:
        network: called with the same arguments.
        device: of its outputs.
    """

    def __init__(self, network: Network, device: torch.device) -> None:
        self.network = network
        # It stays at the same place, so that a CUDA graph can write to it.
        self._largest = torch.zeros((), device=device)

    def __call__(self, *inputs: Any, **named: Any) -> Tensor:
        """The output of the network."""
        out = self.network(*inputs, **named)
        largest = torch.linalg.vector_norm(out.detach(), torch.inf).float()
        torch.maximum(self._largest, largest, out=self._largest)
        return out

    def begin(self) -> None:
        """Forget the outputs until now."""
        self._largest.zero_()

    @property
    def largest(self) -> Tensor:
        """The largest magnitude since `begin`, NaN if an output was NaN; on the device."""
        return self._largest


def check_finite(probs: Tensor, watched: WatchedNetwork | None) -> None:
    """Check the probabilities of a case once, and the outputs of the network that made them.

    This waits for the device.

    Args:
        probs: (C, *S).
        watched: the network, if it is watched.

    Raises:
        NonFiniteError: NaN, Inf, huge outputs, or values that are no probabilities.
    """
    ends = [*probs.aminmax(), *([] if watched is None else [watched.largest])]
    low, high, *largest = torch.stack([end.float() for end in ends]).tolist()
    if not all(value <= LARGEST_OUTPUT for value in largest):
        got = f"{largest[0]:g}" if math.isfinite(largest[0]) else "NaN or Inf"
        raise NonFiniteError(
            f"expected finite outputs of the network up to {LARGEST_OUTPUT:g}, got {got}"
        )
    # `not` makes NaN fail too.
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise NonFiniteError(
            f"expected probabilities within 0 and 1 from the network, got {low:g} to {high:g}"
        )
