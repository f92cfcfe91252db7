"""Fine-tuning: which weights of another run a run starts from."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tiny_runs import write_tiny_run
from torch import Tensor

from recycleseg.classes import Classes
from recycleseg.data.intensity import ChannelIntensity
from recycleseg.data.preprocess import Plan
from recycleseg.files import FileError
from recycleseg.models.unet import UNet
from recycleseg.run import factory
from recycleseg.run.checkpoint import load_checkpoint
from recycleseg.run.config import TrainConfig, load_config
from recycleseg.run.options import DiffusionConfig, ModelConfig
from recycleseg.training.init_from import start_from
from recycleseg.training.trainer import Trainer

STEM, HEAD, BIAS = "stem.conv.weight", "head.weight", "head.bias"
MODEL = ModelConfig(channels=(8, 8), num_res_blocks=1, num_heads=2)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Random weights for the channel MRI and the classes background, a, b."""
    return write_tiny_run(tmp_path / "first")


def plan_of(run: Path, **changes: object) -> Plan:
    plan = Plan.from_dict(json.loads((run / "dataset.json").read_text()))
    channels = changes.get("channel_names", plan.channel_names)
    intensities = (ChannelIntensity("percentile"),) * len(channels)  # type: ignore[arg-type]
    return replace(plan, intensities=intensities, **changes)  # type: ignore[arg-type]


def started(
    run: Path, config: TrainConfig, plan: Plan
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], list[str]]:
    """Weights of the other run; new random ones; those after the start; and the lines."""
    torch.manual_seed(7)
    network: UNet = factory.make_network(config, plan)
    fresh = {name: weight.clone() for name, weight in network.state_dict().items()}
    lines = start_from(run, network, config, plan)
    theirs = load_checkpoint(run / "checkpoints" / "best.safetensors").weights
    return theirs, fresh, network.state_dict(), lines


def test_the_same_channels_and_classes_keep_all_weights(run: Path) -> None:
    theirs, fresh, ours, lines = started(run, TrainConfig(model=MODEL), plan_of(run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not torch.equal(fresh[STEM], ours[STEM])
    assert lines == [f"weights of step 1 of {run}: kept all"]


def test_channels_and_classes_are_matched_by_name(run: Path) -> None:
    classes = Classes(("background", "tumour", "A"))
    plan = plan_of(run, channel_names=("CT", "mri"), classes=classes)
    theirs, fresh, ours, lines = started(run, TrainConfig(model=MODEL), plan)
    # input: CT, MRI, background, tumour, a of MRI, background, a, b
    expected = torch.stack(
        [
            fresh[STEM][:, 0],
            theirs[STEM][:, 0],
            theirs[STEM][:, 1],
            fresh[STEM][:, 3],
            theirs[STEM][:, 2],
        ],
        dim=1,
    )
    assert torch.equal(ours[STEM], expected)
    for name in (HEAD, BIAS):
        assert torch.equal(
            ours[name], torch.stack([theirs[name][0], fresh[name][1], theirs[name][1]])
        )
    others = theirs.keys() - {STEM, HEAD, BIAS}
    assert len(others) == len(theirs) - 3
    assert all(torch.equal(ours[name], theirs[name]) for name in others)
    new = "first and last layer start anew for channel CT, class tumour"
    assert lines == [f"weights of step 1 of {run}: kept all; {new}"]


def test_a_lone_channel_is_the_same_under_another_name(run: Path) -> None:
    theirs, _, ours, lines = started(
        run, TrainConfig(model=MODEL), plan_of(run, channel_names=("CT",))
    )
    assert torch.equal(ours[STEM], theirs[STEM])
    assert "anew" not in lines[0]


def test_channels_of_one_name_are_told_apart(tmp_path: Path) -> None:
    run = write_tiny_run(tmp_path / "echoes", channel_names=("echo", "echo"))
    theirs, fresh, ours, _ = started(
        run, TrainConfig(model=MODEL), plan_of(run, channel_names=("echo", "echo", "echo"))
    )
    assert torch.equal(ours[STEM][:, :2], theirs[STEM][:, :2])
    assert torch.equal(ours[STEM][:, 2], fresh[STEM][:, 2])
    assert torch.equal(ours[STEM][:, 3:], theirs[STEM][:, 2:])


def test_outputs_of_another_meaning_start_anew(run: Path) -> None:
    regions = Classes(("a", "b"), ((1, 2), (2,)))
    _, fresh, ours, lines = started(run, TrainConfig(model=MODEL), plan_of(run, classes=regions))
    assert torch.equal(ours[HEAD], fresh[HEAD])  # sigmoids, not a softmax
    assert lines[0].endswith("anew for class a, class b")
    noise = TrainConfig(model=MODEL, diffusion=DiffusionConfig(prediction_type="noise"))
    _, fresh, ours, _ = started(run, noise, plan_of(run))
    assert torch.equal(ours[HEAD], fresh[HEAD])
    learned = TrainConfig(
        model=MODEL,
        diffusion=DiffusionConfig(variance_type="learned"),
        loss=replace(TrainConfig().loss, vlb=0.1),
    )
    theirs, fresh, ours, _ = started(run, learned, plan_of(run))
    assert torch.equal(ours[HEAD], torch.cat([theirs[HEAD], fresh[HEAD][3:]]))


def test_self_conditioning_starts_from_recycling(run: Path) -> None:
    config = TrainConfig(model=MODEL, strategy="self_conditioning")
    theirs, fresh, ours, _ = started(run, config, plan_of(run))
    assert torch.equal(ours[STEM], torch.cat([theirs[STEM], fresh[STEM][:, 4:]], dim=1))


@pytest.mark.parametrize(
    ("spacing", "told"),
    [((1.0, 1.0, 2.9), False), ((1.0, 1.0, 3.1), True), ((0.6, 1.0, 2.0), True), (None, False)],
)
def test_another_spacing_is_said(
    tmp_path: Path, spacing: tuple[float, ...] | None, told: bool
) -> None:
    run = write_tiny_run(tmp_path / "first", spacing=(1.0, 1.0, 2.0))
    *_, lines = started(run, TrainConfig(model=MODEL), plan_of(run, spacing=spacing))
    assert len(lines) == 1 + told
    if told:
        assert f"in {run} it was 1 x 1 x 2" in lines[1]


def test_another_network_is_refused(run: Path, tmp_path: Path) -> None:
    for change, message in (
        ({"channels": (8, 16)}, r"model\.channels: expected \(8, 8\) as in .*, got \(8, 16\)"),
        ({"num_heads": 1}, r"model\.num_heads: expected 2 as in .*, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            started(run, TrainConfig(model=replace(MODEL, **change)), plan_of(run))
    started(run, TrainConfig(model=replace(MODEL, dropout=0.2)), plan_of(run))
    with pytest.raises(ValueError, match="strategy: expected recycling as in .*got supervised"):
        started(run, TrainConfig(model=MODEL, strategy="supervised"), plan_of(run))
    with pytest.raises(ValueError, match="init_from: expected a run on 2D images"):
        started(run, TrainConfig(model=MODEL), plan_of(run, spatial_dims=2))
    with pytest.raises(FileError, match="init_from: expected a run folder, got no folder"):
        started(tmp_path / "nowhere", TrainConfig(model=MODEL), plan_of(run))


def test_weights_of_another_network_are_named(run: Path, tmp_path: Path) -> None:
    other = write_tiny_run(tmp_path / "other", spatial_dims=2)
    shutil.copy(other / "checkpoints" / "best.safetensors", run / "checkpoints")
    with pytest.raises(FileError, match=r"best\.safetensors: expected the weights of the network"):
        started(run, TrainConfig(model=MODEL), plan_of(run))


def test_a_run_remembers_where_it_started_and_resumes_alone(
    small_config: TrainConfig, whole_run: Path, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    shutil.copytree(whole_run, first)
    config = replace(
        small_config,
        init_from=str(first),
        optim=replace(small_config.optim, steps=2, lr_peak=0.0, lr_init=0.0),
    )
    trainer = Trainer(config)
    summary = trainer.fit()
    best = load_checkpoint(first / "checkpoints" / "best.safetensors")
    ours = load_checkpoint(trainer.folder.best)
    # no learning rate: the averaged weights of the first run, and its result
    for name, tensor in best.weights.items():
        torch.testing.assert_close(ours.owned_by("network")[name], tensor, rtol=0, atol=0)
        torch.testing.assert_close(ours.owned_by("average")[name], tensor, rtol=1e-6, atol=1e-7)
    assert summary["by_step"] == json.loads((first / "summary.json").read_text())["by_step"]
    assert load_config(trainer.folder.config).init_from == str(first)
    shutil.rmtree(first)
    assert Trainer(config).fit(resume=True)["step"] == 2


def test_a_wrong_first_run_leaves_the_old_run_alone(
    small_config: TrainConfig, whole_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    config = replace(small_config, init_from=str(tmp_path / "nowhere"))
    with pytest.raises(FileError, match="init_from"):
        Trainer(config).fit(overwrite=True)
    assert (run / "summary.json").is_file()
