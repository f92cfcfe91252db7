"""Classes of a segmentation: exclusive ones, or regions that overlap."""

from __future__ import annotations

import torch
from torch import Tensor


def probabilities(logits: Tensor, exclusive: bool, dim: int = 1) -> Tensor:
    """Softmax over dim where classes are exclusive, else sigmoid; float32 at least."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.softmax(dim) if exclusive else logits.sigmoid()
