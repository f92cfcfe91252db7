"""Learning rate, optimiser step and averaged weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from recycleseg.config import OptimConfig
from recycleseg.training.optim import (
    AveragedWeights,
    learning_rate,
    make_optimizer,
    optimizer_step,
)

Arrays = dict[str, np.ndarray]


class TwoParameters(nn.Module):
    def __init__(self, values: Arrays) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.from_numpy(values["adamw/in/params/a"].copy()))
        self.b = nn.Parameter(torch.from_numpy(values["adamw/in/params/b"].copy()))


def test_learning_rate_matches_optax(reference: Callable[[str], Arrays]) -> None:
    arrays = reference("k_optimizer")
    ours = [learning_rate(int(step), OptimConfig()) for step in arrays["lr/steps"]]
    # optax interpolates between rates in float32, whose rounding is relative to the peak
    np.testing.assert_allclose(ours, arrays["lr/values"], rtol=1e-6, atol=8e-4 * 6e-8)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("weight_decay", ["1e-08", "0.01"])
def test_updates_match_optax(
    reference: Callable[[str], Arrays], every: int, weight_decay: str
) -> None:
    arrays = reference("k_optimizer")
    config = OptimConfig(weight_decay=float(weight_decay), accumulation=every)
    network = TwoParameters(arrays)
    optimizer = make_optimizer(network, config)
    compared = 0
    for call in range(6):
        for name, parameter in network.named_parameters():
            gradient = torch.from_numpy(arrays[f"adamw/in/grads/{call}/{name}"]) / every
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        if (call + 1) % every == 0:
            optimizer_step(optimizer, network, call // every, config)
        for name, parameter in network.named_parameters():
            key = f"adamw/every_k{every}/wd{weight_decay}/params_after/{call}/{name}"
            np.testing.assert_allclose(parameter.detach(), arrays[key], rtol=2e-6, err_msg=key)
            compared += 1
    assert compared == sum(
        k.startswith(f"adamw/every_k{every}/wd{weight_decay}/params_after") for k in arrays
    )


def test_learning_rate_warms_up_and_ends() -> None:
    config = OptimConfig(steps=1000, warmup_steps=100, lr_init=1e-5, lr_peak=1e-3, lr_end=1e-6)
    rates = [learning_rate(step, config) for step in range(1001)]
    assert rates[0] == 1e-5
    assert max(rates) == rates[100] == 1e-3
    assert rates[1000] == pytest.approx(1e-6, rel=1e-12)
    assert all(a > b for a, b in zip(rates[100:], rates[101:], strict=False))


def test_non_finite_gradient_changes_no_weight() -> None:
    network = nn.Linear(3, 2)
    config = OptimConfig()
    optimizer = make_optimizer(network, config)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.weight.grad = torch.full((2, 3), torch.nan)
    network.bias.grad = torch.ones(2)
    norm = optimizer_step(optimizer, network, 0, config)
    assert torch.isnan(norm)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert network.weight.grad is None


def test_gradient_norm_is_clipped() -> None:
    torch.manual_seed(0)
    config = OptimConfig(grad_clip=1.0)
    small, large = nn.Linear(4, 4), nn.Linear(4, 4)
    large.load_state_dict(small.state_dict())
    gradient = torch.randn(4, 4)
    gradient /= gradient.norm()
    for network, scale in ((small, 1.0), (large, 1000.0)):
        network.weight.grad = gradient * scale
        network.bias.grad = torch.zeros(4)
        optimizer_step(make_optimizer(network, config), network, 0, config)
    # a clipped gradient of norm 1000 is the gradient of norm 1, to rounding of the scale
    torch.testing.assert_close(large.weight, small.weight, rtol=1e-5, atol=1e-8)


def test_averaged_weights_follow_the_formula() -> None:
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(0.0)
    average = AveragedWeights(network, decay=0.9)
    expected = 0.0
    for n in range(200):
        network.weight.data.fill_(float(n))
        average.update(network)
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    assert float(average.weights["weight"]) == pytest.approx(expected, rel=1e-5)
