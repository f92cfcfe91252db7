"""torch.compile of training steps and of sampling: one graph, the same numbers, clear errors."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.utils import counters

from recycleseg.classes import Classes
from recycleseg.data.intensity import ChannelIntensity
from recycleseg.data.preprocess import Plan
from recycleseg.diffusion.strategies import Supervised, make_draws
from recycleseg.run import factory
from recycleseg.run.compiling import compiled, resolve_mode
from recycleseg.run.config import TrainConfig
from recycleseg.run.device import AutocastNetwork
from recycleseg.run.options import (
    CompileMode,
    DiffusionConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PatchConfig,
    PhantomConfig,
    RuntimeConfig,
    ValidationConfig,
)
from recycleseg.training.trainer import Trainer

SMALL = TrainConfig(model=ModelConfig(channels=(8, 16), num_res_blocks=1, num_heads=2, dropout=0.1))
PLAN = Plan(
    channel_names=("MR",),
    classes=Classes(("background", "a", "b")),
    spatial_dims=2,
    spacing=None,
    shape=None,
    intensities=(ChannelIntensity("none"),),
)


def test_auto_compiles_on_a_gpu() -> None:
    assert resolve_mode("auto", torch.device("cpu")) == "off"
    assert resolve_mode("auto", torch.device("cuda")) == "default"
    assert resolve_mode("max-autotune", torch.device("cpu")) == "max-autotune"


def test_off_changes_nothing() -> None:
    assert compiled(torch.relu, "off") is torch.relu


def test_a_failure_says_why_and_names_the_way_out() -> None:
    def breaks(x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x

    expected = r"--compile default: torch.compile failed: .+\. Use --compile off to run without it"
    with pytest.raises(ValueError, match=expected):
        compiled(breaks, "default")(torch.ones(2))


def test_a_missing_compiler_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failed(TorchDynamoException):
        inner_exception = RuntimeError("No working C++ compiler found: (None, 'g++')\ndetails")

    def fails(*_: Any, **__: Any) -> Any:
        raise Failed("backend='inductor' raised:")

    monkeypatch.setattr(torch, "compile", lambda function, **_: fails)
    with pytest.raises(ValueError) as error:
        compiled(torch.relu, "default")(torch.ones(1))
    assert str(error.value) == (
        "--compile default: torch.compile failed: No working C++ compiler found: (None, 'g++'). "
        "Install a C++ compiler such as g++. Use --compile off to run without it."
    )


STRATEGIES: dict[str, dict[str, Any]] = {
    "recycling": {},
    "recycling-noise": {
        "diffusion": DiffusionConfig(prediction_type="noise"),
        "loss": LossConfig(mse=1.0, vlb=0.1),
    },
    "standard": {},
    "self_conditioning": {},
    "supervised": {},
}


@pytest.mark.parametrize("case", STRATEGIES)
def test_a_step_is_one_graph_and_gives_the_same_gradients(case: str) -> None:
    config = replace(SMALL, strategy=case.partition("-")[0], **STRATEGIES[case])
    torch.manual_seed(0)
    network = factory.make_network(config, PLAN)
    forward = AutocastNetwork(network, torch.device("cpu"), "float32")
    strategy = factory.make_strategy(config, factory.make_diffusion(config, True), 3)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, 16, 12, generator=generator)
    arguments = [forward, image, torch.randint(3, (2, 16, 12), generator=generator)]
    if not isinstance(strategy, Supervised):
        timesteps = factory.make_timesteps(config)
        arguments.append(make_draws(strategy, timesteps, generator, (2, 3, 16, 12)))

    def gradients(step: Any) -> list[Tensor]:
        torch.manual_seed(1)  # dropout
        result = step(*arguments)
        return [result.loss.detach(), *torch.autograd.grad(result.loss, network.parameters())]

    torch._dynamo.reset()
    # without the code generator, because this test is about the graph; the next one includes it
    in_one_graph = torch.compile(strategy.__call__, fullgraph=True, backend="aot_eager")
    # the decompositions of layers round differently; gradients here are of order 0.1
    for ours, eager in zip(gradients(in_one_graph), gradients(strategy), strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-5)


def phantom_config(folder: Path, mode: CompileMode) -> TrainConfig:
    return TrainConfig(
        out=str(folder / mode),
        compile=mode,
        phantom=PhantomConfig(spatial_dims=2),
        patch=PatchConfig(size=(32, 32)),
        model=SMALL.model,
        optim=OptimConfig(steps=20, batch_size=2, warmup_steps=5),
        validation=ValidationConfig(every=20, max_cases=1),
        runtime=RuntimeConfig(
            device="cpu", precision="float32", log_every=1, cache=str(folder / "cache")
        ),
    )


def test_a_step_of_training_is_one_graph_and_the_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # without the code generator, as above
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()
    trainer = Trainer(phantom_config(tmp_path, "default"))
    trainer.learner.train_step()
    with torch.compiler.set_stance("fail_on_recompile"):
        trainer.learner.train_step()
    assert counters["stats"]["unique_graphs"] == 1  # passes and loss
    assert not counters["graph_break"]


def test_compiled_training_follows_the_curve_of_eager_training(tmp_path: Path) -> None:
    curves = []
    modes: list[CompileMode] = ["off", "default"]
    for mode in modes:
        torch._dynamo.reset()
        Trainer(phantom_config(tmp_path, mode)).fit()
        lines = (tmp_path / mode / "metrics.jsonl").read_text().splitlines()
        curves.append([row["loss"] for row in map(json.loads, lines) if "loss" in row])
    eager, ours = (torch.tensor(curve) for curve in curves)
    assert len(eager) == 20 and eager[-5:].mean() < eager[:5].mean()
    # AdamW divides small gradients by their own size, so that rounding grows with the steps
    torch.testing.assert_close(ours, eager, rtol=2e-3, atol=0)
