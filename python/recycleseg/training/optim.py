"""The optimiser's step, its learning rate, and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from recycleseg.run.options import OptimConfig


def make_optimizer(network: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) for all parameters of a network."""
    return torch.optim.AdamW(network.parameters(), weight_decay=config.weight_decay, fused=True)


@torch.no_grad()
def clip_and_step(optimizer: torch.optim.AdamW, lr: float, grad_clip: float) -> Tensor:
    """Clip the gradients, update the parameters by them, and clear them. Waits for no device.

    Args:
        optimizer: what `make_optimizer` gave.
        lr: learning rate of this step.
        grad_clip: largest norm of all gradients together that is not scaled down to it.

    Returns:
        That norm before clipping, a scalar on the device. Where it is not finite nothing changes,
        because parameters that are NaN once stay NaN.
    """
    (group,) = optimizer.param_groups
    norm: Tensor = nn.utils.get_total_norm([p.grad for p in group["params"] if p.grad is not None])
    # The fused update divides by grad_scale and does nothing where found_inf is 1, in its only
    # pass over the gradients; torch.amp.GradScaler hands them over in this way.
    optimizer.grad_scale = (norm / grad_clip).clamp(min=1.0)  # type: ignore[attr-defined]
    optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
    group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()
    return norm


def learning_rate(step: int, config: OptimConfig) -> float:
    """Learning rate of optimiser step `step` (0-based): linear warm-up, then cosine.

    Equal to optax.warmup_cosine_decay_schedule with decay_steps = config.steps.
    """
    if step < config.warmup_steps:
        return config.lr_init + (config.lr_peak - config.lr_init) * step / config.warmup_steps
    decay_steps = max(config.steps - config.warmup_steps, 1)
    progress = min((step - config.warmup_steps) / decay_steps, 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr_end + (config.lr_peak - config.lr_end) * cosine


class AveragedWeights:
    """Exponential moving average of a network's weights, bias-corrected early on.

    The decay used at update n (from 0) is min(decay, (1 + n) / (10 + n)), so that the random
    initial weights are forgotten quickly.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.weights = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's current weights."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        current = network.state_dict()
        torch._foreach_lerp_(
            list(self.weights.values()), [current[k] for k in self.weights], 1.0 - decay
        )

    @contextmanager
    def applied_to(self, network: nn.Module) -> Iterator[None]:
        """Let the network compute with the average while the block runs."""
        trained = {k: v.clone() for k, v in network.state_dict().items()}
        network.load_state_dict(self.weights)
        try:
            yield
        finally:
            network.load_state_dict(trained)
