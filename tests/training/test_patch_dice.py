"""The estimate on patches: right numbers, the same each time, and no trace in the training."""

from __future__ import annotations

import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from recycleseg.classes import IGNORED, Classes
from recycleseg.processes import Processes
from recycleseg.run.checkpoint import load_checkpoint
from recycleseg.run.config import TrainConfig
from recycleseg.run.metrics_log import read_metrics
from recycleseg.run.options import StrategyName
from recycleseg.training.patch_dice import PatchDice, make_patch_dice, scores, soft_dice
from recycleseg.training.trainer import Trainer

EXCLUSIVE = Classes(("background", "a", "b"))
REGIONS = Classes(("whole", "core"), regions=((1, 2), (2,)))


def estimates(run: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(run / "metrics.jsonl") if "patch_dice" in line]


def test_dice_of_a_decision_is_the_usual_one() -> None:
    target = torch.tensor([[[0, 1, 1, 2]], [[0, 0, 1, 1]]], dtype=torch.uint8)
    decided = torch.tensor([[[0, 1, 2, 2]], [[1, 0, 1, 0]]])
    probs = torch.nn.functional.one_hot(decided, 3).movedim(-1, 1).float()
    dice = soft_dice(probs, target, EXCLUSIVE)
    expected = torch.tensor([[2 / 3, 2 / 3], [1 / 2, math.nan]])
    torch.testing.assert_close(dice, expected, rtol=0, atol=1e-7, equal_nan=True)


def test_dice_of_probabilities() -> None:
    """2 sum(p y) / (sum(p) + sum(y)), written out."""
    probs = torch.tensor([[[0.25, 0.75, 0.5, 0.0]], [[0.75, 0.25, 0.5, 1.0]]])[None, :, 0]
    target = torch.tensor([[0, 0, 1, 1]], dtype=torch.uint8)
    dice = soft_dice(probs, target, Classes(("background", "a")))
    torch.testing.assert_close(dice, torch.tensor([[2 * 1.5 / (2.5 + 2)]]), rtol=0, atol=1e-7)


def test_regions_overlap() -> None:
    target = torch.tensor([[[1, 1, 1, 0], [0, 1, 0, 0]]], dtype=torch.uint8)
    probs = torch.tensor([[[1.0, 1.0, 1.0, 1.0], [0.5, 0.5, 0.0, 0.0]]])
    dice = soft_dice(probs, target, REGIONS)
    torch.testing.assert_close(dice, torch.tensor([[6 / 7, 1 / 2]]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("classes", [EXCLUSIVE, REGIONS])
def test_ignored_voxels_count_nowhere(classes: Classes) -> None:
    """Whatever is predicted there, the Dice is that of the rest of the patch."""
    classes = replace(classes, ignore_label=3)
    generator = torch.Generator().manual_seed(0)
    shape = (2, len(classes), 4, 6)
    probs = torch.rand(shape, generator=generator)
    target = torch.randint(2, shape, generator=generator).to(torch.uint8)
    target = target[:, 1] if classes.exclusive else target
    rest = soft_dice(probs[..., :3], target[..., :3], classes)
    target[..., 3:] = IGNORED
    ignored = soft_dice(probs, target, classes)
    # Sums of 12 and of 24 numbers, half of which are 0, are rounded in another order.
    torch.testing.assert_close(ignored, rest, rtol=1e-6, atol=0, equal_nan=True)


def test_means_are_over_patches_that_show_the_class() -> None:
    dice = np.array([[0.5, np.nan], [0.7, 0.2], [np.nan, np.nan]])
    found = scores(dice, ("a", "b"))
    expected = {"patch_dice": 0.4, "patch_dice/a": 0.6, "patch_dice/b": 0.2}
    assert found == pytest.approx(expected, abs=1e-15)


def estimate_of(config: TrainConfig) -> tuple[Trainer, PatchDice]:
    trainer = Trainer(config)
    trainer.learner.network.eval()
    found = make_patch_dice(trainer.config, trainer.data, trainer.patch_size, trainer.device)
    assert found is not None
    return trainer, found


def test_patches_and_noise_depend_on_the_seed_alone(small_config: TrainConfig) -> None:
    trainer, first = estimate_of(small_config)
    before = torch.get_rng_state()
    expected = first(trainer.learner.forward)
    assert first(trainer.learner.forward) == expected
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    _, second = estimate_of(small_config)
    assert second(trainer.learner.forward) == expected
    _, other = estimate_of(replace(small_config, seed=1))
    assert other(trainer.learner.forward) != expected
    assert expected.keys() == {"patch_dice", "patch_dice/ring", "patch_dice/core"}
    assert all(0 < value < 1 for value in expected.values())


@pytest.mark.parametrize(
    ("strategy", "channels"),
    [("supervised", 1), ("recycling", 4), ("standard", 4), ("self_conditioning", 7)],
)
def test_one_pass_from_noise_at_the_last_time_step(
    small_config: TrainConfig, strategy: StrategyName, channels: int
) -> None:
    """What the network gets, and that a network that knows the truth has a Dice of 1."""
    _, estimate = estimate_of(replace(small_config, strategy=strategy))
    labels, seen = [*estimate._label.split(2)], []

    def knows(x: Tensor, mask: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        seen.append((x.clone(), t))  # the sampler writes the next mask into it
        truth = torch.nn.functional.one_hot(labels[len(seen) - 1].long(), 3)
        return 200.0 * truth.movedim(-1, 1).float()

    assert estimate(knows) == {"patch_dice": 1.0, "patch_dice/ring": 1.0, "patch_dice/core": 1.0}
    assert [tuple(x.shape) for x, _ in seen] == [(2, channels, 32, 24), (1, channels, 32, 24)]
    image = torch.cat([x[:, :1] for x, _ in seen])
    assert torch.equal(image, estimate._image)
    for x, t in seen:
        assert (t is None) == (strategy == "supervised")
        if t is not None:
            assert (t == 1).all()
            # x_T of noise alone: mask (x + 1) / 2 of x from N(0, 1), cut to [0, 1]
            mask = x[:, 1:4]
            assert 0 <= mask.min() and mask.max() <= 1
            assert mask.mean() == pytest.approx(0.5, abs=0.02)
            assert (x[:, 4:] == 0).all()


def test_processes_share_the_patches(small_config: TrainConfig) -> None:
    trainer, alone = estimate_of(small_config)
    parts: list[Any] = []

    class One(Processes):
        def gather(self, own: Any) -> list[Any]:
            parts.append(own)
            return parts

    trainer.learner.network.eval()
    of_one = [
        make_patch_dice(trainer.config, trainer.data, trainer.patch_size, trainer.device, one)
        for one in (One(rank=0, size=2), One(rank=1, size=2))
    ]
    with pytest.raises(KeyError):  # the first one has only its own
        of_one[0](trainer.learner.forward)  # type: ignore[misc]
    shared = of_one[1](trainer.learner.forward)  # type: ignore[misc]
    assert [sorted(part) for part in parts] == [[0, 2], [1]]
    # Passes of one patch in place of two sum in another order.
    assert shared == pytest.approx(alone(trainer.learner.forward), rel=1e-5)


def test_training_has_the_same_bits_without_it(small_config: TrainConfig, whole_run: Path) -> None:
    without = replace(small_config.validation, patch_every=None)
    Trainer(replace(small_config, validation=without)).fit()
    run = Path(small_config.out or "")
    for name in ("last", "best"):
        path = f"checkpoints/{name}.safetensors"
        assert (run / path).read_bytes() == (whole_run / path).read_bytes()
    assert estimates(run) == []
    lines = [line for line in read_metrics(whole_run / "metrics.jsonl") if "loss" in line]
    ours = [line for line in read_metrics(run / "metrics.jsonl") if "loss" in line]
    assert [line["loss"] for line in ours] == [line["loss"] for line in lines]


def test_the_log_has_what_the_averaged_weights_give(
    small_config: TrainConfig, whole_run: Path
) -> None:
    lines = estimates(whole_run)
    assert [line["step"] for line in lines] == [4, 8, 12]
    last = load_checkpoint(whole_run / "checkpoints/last.safetensors")
    trainer, estimate = estimate_of(small_config)
    trainer.learner.network.load_state_dict(last.weights)
    assert lines[-1] == {"step": 12, **estimate(trainer.learner.forward)}
    trainer.learner.network.load_state_dict(last.owned_by("network"))
    assert lines[-1] != {"step": 12, **estimate(trainer.learner.forward)}


def test_it_stands_beside_the_progress(small_config: TrainConfig) -> None:
    text = io.StringIO()
    Trainer(small_config, console=Console(file=text, width=200)).fit()
    (line,) = [line for line in text.getvalue().splitlines() if line.startswith("training: 12/12")]
    # The line comes with the last step, before the estimate after it.
    value = estimates(Path(small_config.out or ""))[-2]["patch_dice"]
    assert line.endswith(f"  patch Dice {value:.4f}")


def test_without_validation_cases_there_is_none(small_config: TrainConfig, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(small_config.data or "", root)
    (root / "split.json").write_text(json.dumps({"train": ["disc_0"], "test": ["disc_1"]}))
    Trainer(replace(small_config, data=str(root))).fit()
    assert estimates(Path(small_config.out or "")) == []
