"""AdamW: optax's and torch's numbers, compiled or not; what it skips, keeps and waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from recycleseg.checkpoint import load_optimizer_tensors, optimizer_tensors
from recycleseg.config import CompileMode, OptimConfig
from recycleseg.training.adamw import AdamW, adamw_update, adamw_update_reference
from recycleseg.training.optim import learning_rate

Arrays = dict[str, np.ndarray]
MODES: list[CompileMode] = ["off", "default"]
RATES = (1e-3, 3e-4, 2e-3, 1e-4)


@pytest.fixture(autouse=True)
def no_graphs_of_other_tests() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield


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


def all_tensors(network: nn.Module, optimizer: AdamW) -> dict[str, Tensor]:
    own = optimizer_tensors(optimizer.state, network)
    return {k: v.detach().clone() for k, v in (*network.named_parameters(), *own.items())}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("weight_decay", ["1e-08", "0.01"])
def test_updates_match_optax(
    reference: Callable[[str], Arrays], mode: CompileMode, every: int, weight_decay: str
) -> None:
    arrays = reference("k_optimizer")
    config = OptimConfig(weight_decay=float(weight_decay), accumulation=every)
    network = TwoParameters(arrays)
    optimizer = AdamW(network, config, mode)
    compared = 0
    for call in range(6):
        for name, parameter in network.named_parameters():
            gradient = torch.from_numpy(arrays[f"adamw/in/grads/{call}/{name}"]) / every
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        if (call + 1) % every == 0:
            optimizer.step(learning_rate(call // every, config))
        for name, parameter in network.named_parameters():
            key = f"adamw/every_k{every}/wd{weight_decay}/params_after/{call}/{name}"
            np.testing.assert_allclose(parameter.detach(), arrays[key], rtol=2e-6, err_msg=key)
            compared += 1
    assert compared == sum(
        k.startswith(f"adamw/every_k{every}/wd{weight_decay}/params_after") for k in arrays
    )


@pytest.mark.parametrize("scale", [1e-3, 10.0])  # the second is clipped
def test_updates_match_the_formulas(scale: float) -> None:
    outcomes = []
    for update in (adamw_update, adamw_update_reference):
        network = small_network()
        optimizer = AdamW(network, OptimConfig(weight_decay=0.1))
        optimizer.update = update
        for seed, rate in enumerate(RATES):
            set_gradients(network, seed, scale if seed != 2 else torch.inf)
            optimizer.step(rate)
        outcomes.append(all_tensors(network, optimizer))
    # a few roundings of float32 a step
    torch.testing.assert_close(*outcomes, rtol=2e-6, atol=1e-7)


def test_updates_are_those_of_torch_optim() -> None:
    ours, theirs = small_network(), small_network()
    optimizer = AdamW(ours, OptimConfig(weight_decay=0.1))
    fused = torch.optim.AdamW(theirs.parameters(), weight_decay=0.1, fused=True)
    for seed, rate in enumerate(RATES):
        for network in (ours, theirs):
            set_gradients(network, seed, 1e-3)
        optimizer.step(rate)
        fused.param_groups[0]["lr"] = rate
        fused.step()
        if seed == 1:  # and its state is read as our own, as runs of earlier versions hold it
            state = optimizer_tensors(fused.state, theirs)  # type: ignore[arg-type]
            assert state.keys() == optimizer_tensors(optimizer.state, ours).keys()
            optimizer = AdamW(ours, OptimConfig(weight_decay=0.1))
            copies = {k: v.clone() for k, v in state.items()}
            load_optimizer_tensors(optimizer.state, ours, copies)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("backend", ["as trained", "inductor"])
def test_compiled_update_is_one_graph_of_the_same_bits_at_any_learning_rate(backend: str) -> None:
    outcomes = []
    for mode in MODES:
        network = small_network()
        optimizer = AdamW(network, OptimConfig(weight_decay=0.1), mode)
        if mode != "off" and backend == "inductor":
            optimizer.update = torch.compile(adamw_update, fullgraph=True)
        for seed, rate in enumerate(RATES):
            set_gradients(network, seed)
            with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
                optimizer.step(rate)
        outcomes.append(all_tensors(network, optimizer))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    eager, ours = outcomes
    assert all(torch.equal(ours[k], eager[k]) for k in eager)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_non_finite_gradient_changes_nothing(mode: CompileMode, value: float) -> None:
    network = small_network()
    optimizer = AdamW(network, OptimConfig(weight_decay=0.1), mode)
    set_gradients(network, 0)
    optimizer.step(1e-3)
    before = all_tensors(network, optimizer)
    set_gradients(network, 1)
    next(network.parameters()).grad[0, 0, 0, 0] = value  # type: ignore[index]
    norm = optimizer.step(1e-3)
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
        norm = AdamW(network, OptimConfig(grad_clip=1.0)).step(1e-3)
        assert float(norm) == pytest.approx(scale, rel=1e-6)
    # a clipped gradient of norm 1000 is the gradient of norm 1, to rounding of the scale
    torch.testing.assert_close(large.weight, small.weight, rtol=1e-5, atol=1e-8)


def test_parameters_without_gradient_stay() -> None:
    network = nn.Linear(3, 2)
    optimizer = AdamW(network, OptimConfig(weight_decay=0.1))
    bias = network.bias.detach().clone()
    network.weight.grad = torch.ones(2, 3)
    optimizer.step(1e-3)
    assert torch.equal(network.bias, bias)
    assert list(optimizer.state) == [network.weight]


def test_registration() -> None:
    shapes = ((3, 2), (5,))
    theta, g, m, v = ([torch.rand(s) for s in shapes] for _ in range(4))
    t = [torch.ones(()) for _ in shapes]
    lr = torch.tensor(1e-3, dtype=torch.float64)
    torch.library.opcheck(adamw_update, (theta, g, m, v, t, lr, 0.1, 1.0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("mode", MODES)
def test_a_step_on_a_gpu_waits_for_nothing(mode: CompileMode) -> None:
    outcomes = []
    for device in ("cpu", "cuda"):
        network = small_network().to(device)
        optimizer = AdamW(network, OptimConfig(weight_decay=0.1), mode)
        for seed, rate in enumerate(RATES):
            set_gradients(network, seed)
            torch.cuda.set_sync_debug_mode("error" if seed else "default")
            try:
                optimizer.step(rate)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        outcomes.append({k: v.cpu() for k, v in all_tensors(network, optimizer).items()})
    # the norm sums in another order
    torch.testing.assert_close(*outcomes, rtol=1e-5, atol=1e-7)
