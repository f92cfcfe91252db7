"""The optimiser's step against optax, torch and the paper; learning rate; averaged weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recycleseg.run.checkpoint import load_optimizer_tensors, optimizer_tensors
from recycleseg.run.options import OptimConfig
from recycleseg.training.optim import (
    AveragedWeights,
    clip_and_step,
    learning_rate,
    make_optimizer,
)

Arrays = dict[str, np.ndarray]
RATES = (1e-3, 3e-4, 2e-3, 1e-4)


def test_learning_rate_matches_optax(reference: Callable[[str], Arrays]) -> None:
    arrays = reference("k_optimizer")
    ours = [learning_rate(int(step), OptimConfig()) for step in arrays["lr/steps"]]
    # optax interpolates between rates in float32, whose rounding is relative to the peak
    np.testing.assert_allclose(ours, arrays["lr/values"], rtol=1e-6, atol=8e-4 * 6e-8)


def test_learning_rate_warms_up_and_ends() -> None:
    config = OptimConfig(steps=1000, warmup_steps=100, lr_init=1e-5, lr_peak=1e-3, lr_end=1e-6)
    rates = [learning_rate(step, config) for step in range(1001)]
    assert rates[0] == 1e-5
    assert max(rates) == rates[100] == 1e-3
    assert rates[1000] == pytest.approx(1e-6, rel=1e-12)
    assert all(a > b for a, b in zip(rates[100:], rates[101:], strict=False))


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


class TwoParameters(nn.Module):
    def __init__(self, values: Arrays) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.from_numpy(values["adamw/in/params/a"].copy()))
        self.b = nn.Parameter(torch.from_numpy(values["adamw/in/params/b"].copy()))


def small_network() -> nn.Module:
    """Parameters of several shapes, also in channels-last memory, and of one element."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1), nn.Linear(7, 1))
    return network.to(memory_format=torch.channels_last)


def set_gradients(network: nn.Module, seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        gradient = torch.randn(p.shape, generator=generator) * scale
        p.grad = torch.empty_like(p).copy_(gradient)


def all_tensors(network: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    own = optimizer_tensors(optimizer.state, network)
    return {k: v.detach().clone() for k, v in (*network.named_parameters(), *own.items())}


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
            clip_and_step(optimizer, learning_rate(call // every, config), config.grad_clip)
        for name, parameter in network.named_parameters():
            key = f"adamw/every_k{every}/wd{weight_decay}/params_after/{call}/{name}"
            np.testing.assert_allclose(parameter.detach(), arrays[key], rtol=2e-6, err_msg=key)
            compared += 1
    assert compared == sum(
        k.startswith(f"adamw/every_k{every}/wd{weight_decay}/params_after") for k in arrays
    )


@torch.no_grad()
def paper_step(network: nn.Module, state: dict[Tensor, dict[str, Tensor]], lr: float) -> None:
    """Algorithm 2 of Loshchilov and Hutter in its own symbols, with clipping to norm 1."""
    beta1, beta2, eps, weight_decay = 0.9, 0.999, 1e-8, 0.1
    norm = torch.cat([p.grad.flatten() for p in network.parameters()]).norm()  # type: ignore[union-attr]
    if not norm.isfinite():
        return
    for theta in network.parameters():
        assert theta.grad is not None
        g = theta.grad / max(float(norm), 1.0)
        own = state.setdefault(
            theta, {k: torch.zeros_like(theta) for k in ("exp_avg", "exp_avg_sq")}
        )
        own["step"] = t = own.get("step", torch.zeros(())) + 1
        t, m, v = own["step"], own["exp_avg"], own["exp_avg_sq"]
        m.copy_(beta1 * m + (1 - beta1) * g)
        v.copy_(beta2 * v + (1 - beta2) * g**2)
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        theta -= lr * (m_hat / (v_hat.sqrt() + eps) + weight_decay * theta)


@pytest.mark.parametrize("scale", [1e-3, 10.0])  # the second is clipped
def test_updates_match_the_formulas(scale: float) -> None:
    ours, theirs = small_network(), small_network()
    optimizer = make_optimizer(ours, OptimConfig(weight_decay=0.1))
    state: dict[Tensor, dict[str, Tensor]] = {}
    for seed, rate in enumerate(RATES):
        for network in (ours, theirs):
            set_gradients(network, seed, scale if seed != 2 else torch.inf)
        clip_and_step(optimizer, rate, 1.0)
        paper_step(theirs, state, rate)
    expected = dict(theirs.named_parameters()) | optimizer_tensors(state, theirs)
    # a few roundings of float32 per step
    torch.testing.assert_close(all_tensors(ours, optimizer), expected, rtol=2e-6, atol=1e-7)


def test_updates_are_those_of_torch_optim() -> None:
    ours, theirs = small_network(), small_network()
    optimizer = make_optimizer(ours, OptimConfig(weight_decay=0.1))
    fused = torch.optim.AdamW(theirs.parameters(), weight_decay=0.1, fused=True)
    for seed, rate in enumerate(RATES):
        for network in (ours, theirs):
            set_gradients(network, seed, 1e-3)
        clip_and_step(optimizer, rate, 1.0)
        fused.param_groups[0]["lr"] = rate
        fused.step()
        if seed == 1:  # continue with the state of torch's optimiser, as in a resumed run
            state = optimizer_tensors(fused.state, theirs)
            assert state.keys() == optimizer_tensors(optimizer.state, ours).keys()
            optimizer = make_optimizer(ours, OptimConfig(weight_decay=0.1))
            copies = {k: v.clone() for k, v in state.items()}
            load_optimizer_tensors(optimizer.state, ours, copies)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_non_finite_gradient_changes_nothing(value: float) -> None:
    network = small_network()
    optimizer = make_optimizer(network, OptimConfig(weight_decay=0.1))
    set_gradients(network, 0)
    clip_and_step(optimizer, 1e-3, 1.0)
    before = all_tensors(network, optimizer)
    set_gradients(network, 1)
    next(network.parameters()).grad[0, 0, 0, 0] = value  # type: ignore[index]
    norm = clip_and_step(optimizer, 1e-3, 1.0)
    assert not norm.isfinite()
    after = all_tensors(network, optimizer)
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert all(p.grad is None for p in network.parameters())


def test_gradient_norm_is_clipped() -> None:
    torch.manual_seed(0)
    small, large = nn.Linear(4, 4), nn.Linear(4, 4)
    large.load_state_dict(small.state_dict())
    gradient = torch.randn(4, 4)
    gradient /= gradient.norm()
    for network, scale in ((small, 1.0), (large, 1000.0)):
        network.weight.grad = gradient * scale
        network.bias.grad = torch.zeros(4)
        norm = clip_and_step(make_optimizer(network, OptimConfig()), 1e-3, 1.0)
        assert float(norm) == pytest.approx(scale, rel=1e-6)
    # a clipped gradient of norm 1000 is the gradient of norm 1, to rounding of the scale
    torch.testing.assert_close(large.weight, small.weight, rtol=1e-5, atol=1e-8)


def test_parameters_without_gradient_stay() -> None:
    network = nn.Linear(3, 2)
    optimizer = make_optimizer(network, OptimConfig(weight_decay=0.1))
    bias = network.bias.detach().clone()
    network.weight.grad = torch.ones(2, 3)
    clip_and_step(optimizer, 1e-3, 1.0)
    assert torch.equal(network.bias, bias)
    assert list(optimizer.state) == [network.weight]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_step_on_a_gpu_waits_for_nothing() -> None:
    outcomes = []
    for device in ("cpu", "cuda"):
        network = small_network().to(device)
        optimizer = make_optimizer(network, OptimConfig(weight_decay=0.1))
        for seed, rate in enumerate(RATES):
            set_gradients(network, seed)
            torch.cuda.set_sync_debug_mode("error" if seed else "default")
            try:
                clip_and_step(optimizer, rate, 1.0)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        outcomes.append({k: v.cpu() for k, v in all_tensors(network, optimizer).items()})
    # the norm sums in another order
    torch.testing.assert_close(*outcomes, rtol=1e-5, atol=1e-7)
