"""AdamW (Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019) with clipping.

The update is one operation, which torch.compile can take into a graph: it traces neither
torch.optim's step() nor the fused kernel under it, and of sums over parameters it would make a
kernel per parameter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recycleseg.checkpoint import OptimizerState
from recycleseg.compiling import compiled
from recycleseg.config import CompileMode, OptimConfig

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


@torch.library.custom_op("recycleseg::adamw_update", mutates_args=("theta", "g", "m", "v", "t"))
def adamw_update(
    theta: list[Tensor],
    g: list[Tensor],
    m: list[Tensor],
    v: list[Tensor],
    t: list[Tensor],
    lr: Tensor,
    weight_decay: float,
    grad_clip: float,
) -> Tensor:
    """Clip the gradients and update everything in place, as `adamw_update_reference` spells out.

    By PyTorch's fused kernels, compiled by ``torch.compile`` or not. Waits for no device. Memory:
    a few scalars per parameter. To be called where gradients are off.

    Args:
        theta: the parameters, float32, on one device.
        g: their gradients; divided in place by what clipping divides them by.
        m, v: their first and second moments.
        t: number of updates of each, scalars of float32 on the device.
        lr: learning rate, a scalar on the CPU; a tensor, so that a new value compiles nothing anew.
        weight_decay: multiplied by the learning rate, as in torch and optax.
        grad_clip: largest norm of all gradients together that is not scaled down to it.

    Returns:
        That norm before clipping, a scalar on the device. Where it is not finite nothing changes:
        the parameters, once NaN, would be lost.
    """
    norm: Tensor = nn.utils.get_total_norm(g)
    skip = (~norm.isfinite()).float()
    torch._foreach_add_(t, 1)
    # The fused update divides by grad_scale and does nothing where found_inf is 1, in its only
    # pass over the gradients; torch.amp.GradScaler hands them over in this way.
    torch._fused_adamw_(
        *(theta, g, m, v, [], t),
        lr=lr.item(),
        beta1=BETA1,
        beta2=BETA2,
        weight_decay=weight_decay,
        eps=EPS,
        amsgrad=False,
        maximize=False,
        grad_scale=(norm / grad_clip).clamp(min=1.0),
        found_inf=skip,
    )
    torch._foreach_sub_(t, [skip] * len(t))
    return norm


@adamw_update.register_fake
def _(theta: list[Tensor], g: list[Tensor], *_: Any) -> Tensor:
    return g[0].new_empty(())


def adamw_update_reference(
    theta: list[Tensor],
    g: list[Tensor],
    m: list[Tensor],
    v: list[Tensor],
    t: list[Tensor],
    lr: Tensor,
    weight_decay: float,
    grad_clip: float,
) -> Tensor:
    """`adamw_update` in the symbols of the paper's Algorithm 2."""
    norm: Tensor = torch.cat([x.flatten() for x in g]).norm()
    if not norm.isfinite():
        return norm
    for theta_, g_, m_, v_, t_ in zip(theta, g, m, v, t, strict=True):
        g_ /= max(float(norm) / grad_clip, 1.0)
        t_ += 1
        m_.copy_(BETA1 * m_ + (1 - BETA1) * g_)
        v_.copy_(BETA2 * v_ + (1 - BETA2) * g_**2)
        m_hat, v_hat = m_ / (1 - BETA1**t_), v_ / (1 - BETA2**t_)
        theta_ -= float(lr) * (m_hat / (v_hat.sqrt() + EPS) + weight_decay * theta_)
    return norm


class AdamW:
    """The update for all parameters of a network, and what it remembers of each.

    state: parameter -> "step", "exp_avg", "exp_avg_sq", as torch.optim.AdamW keeps them, from the
    parameter's first gradient on. mode: how the update is compiled, resolved.
    """

    def __init__(self, network: nn.Module, config: OptimConfig, mode: CompileMode = "off") -> None:
        self.parameters = list(network.parameters())
        self.config = config
        self.state: OptimizerState = {}
        # The code generator would only pass the operation on, after time that grows with the square
        # of the number of parameters.
        self.update = compiled(adamw_update, mode, generate=False)

    @torch.no_grad()
    def step(self, lr: float) -> Tensor:
        """Update the parameters by the accumulated gradients, then clear these.

        Returns the norm of the gradients before clipping, a scalar on the network's device.
        """
        theta = [p for p in self.parameters if p.grad is not None]
        for p in theta:
            if p not in self.state:
                self.state[p] = {
                    "step": torch.zeros((), dtype=torch.float32, device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        norm: Tensor = self.update(
            theta,
            [p.grad for p in theta],
            *([self.state[p][k] for p in theta] for k in ("exp_avg", "exp_avg_sq", "step")),
            torch.tensor(lr, dtype=torch.float64),
            self.config.weight_decay,
            self.config.grad_clip,
        )
        for p in theta:
            p.grad = None
        return norm
