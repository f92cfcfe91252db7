"""How long the rest of a run takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recycleseg.progress import format_duration


@dataclass(frozen=True)
class ExpectedTime:
    """How long the rest of a run takes, estimated from measured passes of the network.

    Attributes:
        training: seconds of all optimiser steps.
        num_validations: how many validations there are.
        validation: seconds of one.
        final: seconds of the table at the end.
    """

    training: float
    num_validations: int
    validation: float
    final: float

    def __str__(self) -> str:
        validations = self.num_validations * self.validation
        parts = [f"training {format_duration(self.training)}"]
        if self.num_validations:
            several = "s" if self.num_validations > 1 else ""
            of_them = format_duration(validations)
            parts.append(f"{self.num_validations} validation{several} {of_them}")
        parts.append(f"final table {format_duration(self.final)}")
        whole = format_duration(self.training + validations + self.final)
        return f"about {whole} ({', '.join(parts)})"


def seconds_per_batch(loss_of_batch: Callable[[int], Tensor], device: torch.device) -> float:
    """Time of a forward and a backward pass: the second of two, as the first one warms up.

    Args:
        loss_of_batch: gives the loss of a training batch; the caller clears the gradients.
        device: where it computes.
    """
    for index in range(2):
        start = time.perf_counter()
        loss_of_batch(index).backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # so that the backward pass counts too
    return time.perf_counter() - start
