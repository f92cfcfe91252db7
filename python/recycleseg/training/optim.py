"""The optimiser's step, the learning rate, and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from recycleseg.run.options import OptimConfig

MAX_SKIPPED_IN_A_ROW = 25
# What to do when the numbers of a training are not finite.
ADVICE = (
    "resume with runtime.precision float32, or start again with a lower optim.lr_peak; the "
    "checkpoints of before are kept"
)


def make_optimizer(network: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) for all parameters of a network."""
    return torch.optim.AdamW(network.parameters(), weight_decay=config.weight_decay, fused=True)


@torch.no_grad()
def clip_and_step(optimizer: torch.optim.AdamW, lr: float, grad_clip: float) -> Tensor:
    """Clip the gradients, update the parameters, and clear the gradients.

    The host does not wait for the device. If the gradient norm is not finite, no parameter
    changes, because a parameter that is NaN once stays NaN.

    Args:
        optimizer: from `make_optimizer`.
        lr: learning rate of this step.
        grad_clip: largest allowed norm of all gradients together; larger gradients are scaled
            down to it.

    Returns:
        The norm before clipping, a scalar on the device.
    """
    (group,) = optimizer.param_groups
    norm: Tensor = nn.utils.get_total_norm([p.grad for p in group["params"] if p.grad is not None])
    # The fused update divides by grad_scale, and does nothing if found_inf is 1, in its only pass
    # over the gradients. torch.amp.GradScaler uses these attributes too.
    optimizer.grad_scale = (norm / grad_clip).clamp(min=1.0)  # type: ignore[attr-defined]
    optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
    group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()
    return norm


class SkippedSteps:
    """How many of the last losses or gradients were not finite.

    Such gradients change no weight. A single one may come from an unusual batch.

    Args:
        device: of the gradients.
    """

    def __init__(self, device: torch.device) -> None:
        self._in_a_row = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, loss: Tensor, norm: Tensor) -> None:
        """Count a step by loss and norm of its gradients; the host does not wait for the device."""
        finite = loss.isfinite() & norm.isfinite()
        self._in_a_row = torch.where(finite, 0, self._in_a_row + 1)

    def check(self, step: int, steps: int) -> str:
        """A line for the user about the steps up to this one of all; empty if all is well.

        Raises:
            ValueError: there are `MAX_SKIPPED_IN_A_ROW` of them or a quarter of all steps, so that
                training cannot go on.
        """
        skipped = int(self._in_a_row)
        if skipped >= max(min(MAX_SKIPPED_IN_A_ROW, steps // 4), 1):
            raise ValueError(
                f"loss or gradients were not finite {skipped} steps in a row, up to step {step}: "
                f"{ADVICE}"
            )
        return f"step {step}: the last {skipped} gradients were not finite" if skipped else ""


def learning_rate(step: int, config: OptimConfig) -> float:
    """Learning rate of optimiser step `step` (from 0): linear warm-up, then cosine.

    Equals optax.warmup_cosine_decay_schedule with decay_steps = config.steps.
    """
    if step < config.warmup_steps:
        return config.lr_init + (config.lr_peak - config.lr_init) * step / config.warmup_steps
    decay_steps = max(config.steps - config.warmup_steps, 1)
    progress = min((step - config.warmup_steps) / decay_steps, 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr_end + (config.lr_peak - config.lr_end) * cosine


class AveragedWeights:
    """Exponential moving average of a network's weights.

    The decay at update n (from 0) is min(decay, (1 + n) / (10 + n)), so that the random initial
    weights lose their influence quickly.

    Args:
        network: its weights are the first average.
        decay: share of the old average that an update keeps, later on.
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
        """Give the network the averaged weights while the block runs."""
        trained = {k: v.clone() for k, v in network.state_dict().items()}
        network.load_state_dict(self.weights)
        try:
            yield
        finally:
            network.load_state_dict(trained)
