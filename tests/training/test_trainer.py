"""Whole runs on a small data set: what they leave behind, and that resuming repeats them."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from recycleseg.classes import Classes
from recycleseg.diffusion.strategies import StepResult
from recycleseg.files import FileError
from recycleseg.prediction.predictor import Predictor
from recycleseg.run.checkpoint import load_checkpoint
from recycleseg.run.config import TrainConfig, load_config
from recycleseg.run.metrics_log import read_metrics
from recycleseg.run.options import (
    CompileMode,
    DiffusionConfig,
    PostprocessConfig,
    StrategyName,
    ValidationConfig,
)
from recycleseg.training.evaluation import Evaluation
from recycleseg.training.reporting import PictureMaker
from recycleseg.training.trainer import Trainer


def metrics_of(run: Path) -> list[dict[str, object]]:
    return read_metrics(run / "metrics.jsonl")


def assert_same_checkpoint(a: Path, b: Path) -> None:
    ours, theirs = load_checkpoint(a), load_checkpoint(b)
    assert ours.state == theirs.state
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in ours.tensors.items():
        assert torch.equal(tensor, theirs.tensors[name]), name


def test_run_leaves_everything_behind(small_config: TrainConfig) -> None:
    summary = Trainer(small_config).fit()
    run = Path(small_config.out or "")
    assert load_config(run / "config.yaml") == small_config
    environment = json.loads((run / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    for name in ("last", "best"):
        assert load_checkpoint(run / "checkpoints" / f"{name}.safetensors").state["step"] in (6, 12)
    steps = [line["step"] for line in metrics_of(run) if "loss" in line]
    assert steps == list(range(1, 13))
    validated = [line for line in metrics_of(run) if "val_dice" in line]
    assert [line["step"] for line in validated] == [6, 12]
    assert len(validated[0]["val_dice_by_step"]) == 5
    assert sorted(p.name for p in (run / "pictures").iterdir()) == [
        "validation-000006.png",
        "validation-000012.png",
    ]
    assert any((run / "tensorboard").iterdir())
    assert (run / "learning_curve.png").stat().st_size > 0
    assert json.loads((run / "summary.json").read_text()) == summary
    assert len(summary["by_step"]) == 5
    assert len(summary["metric_per_case"]) == 2
    assert summary["foreground_mean"]["Dice"] == pytest.approx(summary["by_step"][-1], abs=1e-12)


def test_training_learns_the_discs(small_config: TrainConfig) -> None:
    config = replace(
        small_config,
        optim=replace(small_config.optim, steps=150, batch_size=4, lr_peak=4e-3),
        validation=ValidationConfig(every=150),
    )
    summary = Trainer(config).fit()
    # an untrained network scores below 0.3; discs on noise are easy
    assert summary["by_step"][-1] > 0.85


@pytest.mark.parametrize("strategy", ["standard", "self_conditioning", "supervised"])
def test_every_strategy_runs(small_config: TrainConfig, strategy: str) -> None:
    config = replace(small_config, strategy=strategy)
    summary = Trainer(config).fit()
    assert len(summary["by_step"]) == (1 if strategy == "supervised" else 5)


def test_learned_variance_importance_sampling_and_ddpm_run(small_config: TrainConfig) -> None:
    config = replace(
        small_config,
        diffusion=DiffusionConfig(variance_type="learned_range", timesteps="importance"),
        loss=replace(small_config.loss, vlb=0.1, mse=0.1),
        sampling=replace(small_config.sampling, sampler="ddpm"),
        optim=replace(small_config.optim, accumulation=2),
    )
    Trainer(config).fit()
    last = load_checkpoint(Path(config.out or "") / "checkpoints" / "last.safetensors")
    # 12 steps of 2 batches of 2 samples
    assert int(last.tensors["timesteps/loss_count"].sum()) == 48


def test_resumed_run_ends_with_the_same_bits(small_config: TrainConfig, whole_run: Path) -> None:
    class Killed(Exception):
        pass

    trainer = Trainer(small_config)
    train_step = trainer.learner.train_step

    def die_at_seven() -> tuple[torch.Tensor, torch.Tensor]:
        if trainer.step == 7:
            raise Killed
        return train_step()

    trainer.learner.train_step = die_at_seven  # type: ignore[method-assign]
    with pytest.raises(Killed):
        trainer.fit()
    Trainer(small_config).fit(resume=True)
    run = Path(small_config.out or "")
    for name in ("last.safetensors", "best.safetensors"):
        assert_same_checkpoint(run / "checkpoints" / name, whole_run / "checkpoints" / name)
    assert [m["step"] for m in metrics_of(run)] == [m["step"] for m in metrics_of(whole_run)]


def test_killed_process_resumes_to_the_same_weights(
    small_config: TrainConfig, whole_run: Path, tmp_path: Path
) -> None:
    config_file = tmp_path / "config.yaml"
    config_file.write_text(yaml.safe_dump(json.loads(json.dumps(asdict(small_config)))))
    main = "import sys; from recycleseg.cli.train import main; sys.exit(main())"
    command = [sys.executable, "-c", main, "--config", str(config_file)]
    log = Path(small_config.out or "") / "metrics.jsonl"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ) as process:
        while process.poll() is None and (not log.exists() or log.read_text().count("\n") < 5):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    last = Path("checkpoints/last.safetensors")
    assert_same_checkpoint(Path(small_config.out or "") / last, whole_run / last)


def test_existing_run_folder_is_refused(small_config: TrainConfig) -> None:
    run = Path(small_config.out or "")
    run.mkdir()
    (run / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="exists and is not empty; use --resume"):
        Trainer(small_config).fit()
    with pytest.raises(ValueError, match="expected the folder of a run, with its file"):
        Trainer(small_config).fit(overwrite=True)
    with pytest.raises(ValueError, match="--resume: expected a checkpoint at"):
        Trainer(small_config).fit(resume=True)
    assert (run / "thesis.txt").read_text() == "precious"


def test_a_run_is_deleted_only_for_one_that_can_begin(small_config: TrainConfig) -> None:
    Trainer(small_config).start(resume=False, overwrite=False)
    run = Path(small_config.out or "")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    too_short = replace(small_config, time="0.001s", optim=replace(small_config.optim, steps=0))
    with pytest.raises(ValueError, match="time: expected at least"):
        Trainer(too_short).fit(overwrite=True)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    elsewhere = run.with_name("elsewhere")
    with pytest.raises(ValueError, match="time: expected at least"):
        Trainer(replace(too_short, out=str(elsewhere))).fit()
    assert not elsewhere.exists()


def test_an_overwritten_run_leaves_nothing_but_files_of_others(small_config: TrainConfig) -> None:
    Trainer(small_config, plan="# of the first run").start(resume=False, overwrite=False)
    run = Path(small_config.out or "")
    (run / "thesis.txt").write_text("precious")
    (run / "checkpoints/best.safetensors").write_text("of the first run")
    (run / "metrics.jsonl").write_text('{"step": 99}\n')
    text = io.StringIO()
    config = load_config(run / "config.yaml")
    trainer = Trainer(config, console=Console(file=text, width=200))
    trainer.start(resume=False, overwrite=True)
    names = sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file())
    assert names == [
        ".recycleseg",
        "checkpoints/last.safetensors",
        "config.yaml",
        "dataset.json",
        "environment.json",
        "thesis.txt",
    ]
    kept = f"kept in {run}, because recycleseg did not make it: thesis.txt"
    assert kept in text.getvalue().splitlines()


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_folder_has_one_process(small_config: TrainConfig, resume: bool) -> None:
    class Enough(Exception):
        pass

    trainer, other = Trainer(small_config), Trainer(small_config)
    run = Path(small_config.out or "")

    def look(*_: object) -> None:
        assert [path.name for path in run.iterdir() if path.name.startswith(".lock")]
        with pytest.raises(ValueError, match=f"{run}: expected a folder in which nobody works"):
            other.fit(resume=resume, overwrite=not resume)
        raise Enough

    trainer.train = look  # type: ignore[method-assign]
    with pytest.raises(Enough):
        trainer.fit()
    assert not [path.name for path in run.iterdir() if path.name.startswith(".lock")]


def test_a_run_keeps_away_from_its_inputs(small_config: TrainConfig) -> None:
    run = Path(small_config.out or "")
    for name in ("data", "cache"):
        inside = run / name
        if name == "data":
            shutil.copytree(small_config.data or "", inside)
            config = replace(small_config, data=str(inside))
        else:
            config = replace(small_config, runtime=replace(small_config.runtime, cache=str(inside)))
        trainer = Trainer(config)
        before = sorted(run.rglob("*"))
        with pytest.raises(ValueError, match=f"apart from .*{inside}, got {run}, which contains"):
            trainer.fit(overwrite=True)
        assert sorted(run.rglob("*")) == before


def test_without_a_better_validation_the_later_weights_are_the_result(
    small_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Dice of NaN or 0 at every validation does not choose the first one."""
    for dice in (float("nan"), 0.0):
        monkeypatch.setattr(Evaluation, "mean_dice", lambda _, dice=dice: dice)
        Trainer(small_config).fit(overwrite=True)
        best = load_checkpoint(Path(small_config.out or "") / "checkpoints" / "best.safetensors")
        assert best.state["step"] == 12
        assert best.state["best_dice"] == (0.0 if dice == 0 else -1.0)


def test_truncated_checkpoint_is_named(small_config: TrainConfig) -> None:
    Trainer(small_config).fit()
    last = Path(small_config.out or "") / "checkpoints" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"last\.safetensors: expected a whole safetensors file"):
        Trainer(small_config).fit(resume=True)


def test_resuming_with_other_settings_is_refused(small_config: TrainConfig) -> None:
    Trainer(small_config).fit()
    changed = replace(small_config, model=replace(small_config.model, channels=(8, 32)))
    message = r"model.channels is \(8, 16\) in the run, \(8, 32\) now.*--config .*/run/config.yaml"
    with pytest.raises(ValueError, match=message):
        Trainer(changed).fit(resume=True)
    # where and how often may change
    Trainer(replace(small_config, validation=ValidationConfig(every=3))).fit(resume=True)


@dataclass
class Planned:
    """A run that has trained, and what it printed."""

    trainer: Trainer
    summary: dict[str, Any]
    said: str


def fit_with_split(config: TrainConfig, root: Path, split: dict[str, list[str]]) -> Planned:
    """Train on a copy of the data set in `root` with another split.json."""
    shutil.copytree(config.data or "", root)
    (root / "split.json").write_text(json.dumps(split))
    text = io.StringIO()
    trainer = Trainer(replace(config, data=str(root)), console=Console(file=text, width=80))
    return Planned(trainer, trainer.fit(), text.getvalue())


def test_without_test_cases_the_table_shows_validation_cases(
    small_config: TrainConfig, tmp_path: Path
) -> None:
    run = fit_with_split(small_config, tmp_path / "data", {"train": ["disc_0"], "val": ["disc_1"]})
    assert run.summary["split"] == "val"
    note = "no test cases: the table at the end shows validation cases, which chose the weights"
    assert any(line.startswith(note) for line in run.said.splitlines())
    assert "no validation cases" not in run.said


@pytest.mark.parametrize(("test", "shown"), [([], "train"), (["disc_7"], "test")])
def test_without_validation_cases_the_last_weights_are_the_result(
    small_config: TrainConfig, tmp_path: Path, test: list[str], shown: str
) -> None:
    run = fit_with_split(
        small_config, tmp_path / "data", {"train": ["disc_0", "disc_1"], "test": test}
    )
    assert (run.summary["split"], run.summary["step"]) == (shown, 12)
    folder = run.trainer.folder
    best, last = load_checkpoint(folder.best), load_checkpoint(folder.last)
    assert best.state == last.state
    # The optimiser's moments are of use to the last checkpoint alone, and twice as large.
    assert best.tensors.keys() == {k for k in last.tensors if k.startswith(("network", "average"))}
    assert all(torch.equal(tensor, last.tensors[name]) for name, tensor in best.tensors.items())
    assert not any("val_dice" in line for line in metrics_of(folder.root))
    assert "no validation cases: the last weights are the result" in run.said
    assert ("no held-out cases: the table at the end shows training cases" in run.said) == (
        not test
    )


def test_one_case_everywhere_trains_with_a_warning(
    small_config: TrainConfig, tmp_path: Path
) -> None:
    everywhere = {part: ["disc_0"] for part in ("train", "val", "test")}
    run = fit_with_split(small_config, tmp_path / "data", everywhere)
    assert len(run.summary["metric_per_case"]) == 1
    assert "warning: 1 case stands in several parts (disc_0 in train, val, test)" in run.said


def test_a_fold_is_part_of_the_run(small_config: TrainConfig, tmp_path: Path) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("".join(f"disc_{case},{case // 2}\n" for case in range(8)))
    root = tmp_path / "data"
    shutil.copytree(small_config.data or "", root)
    (root / "split.json").unlink()
    folds = [{"train": [f"disc_{case}" for case in range(6)], "val": ["disc_6", "disc_7"]}]
    (root / "splits_final.json").write_text(json.dumps(folds))
    config = replace(small_config, data=str(root), fold=0, group_by=os.path.relpath(table))
    summary = Trainer(config).fit()
    run = Path(small_config.out or "")
    assert [case["reference_file"] for case in summary["metric_per_case"]] == [
        "disc_6.png",
        "disc_7.png",
    ]
    # The file stays found if the run is used elsewhere.
    assert load_config(run / "config.yaml") == replace(config, group_by=str(table))
    Trainer(config).fit(resume=True)
    with pytest.raises(ValueError, match="--resume: fold is 0 in the run, 'all' now"):
        Trainer(replace(config, fold="all")).fit(resume=True)


def test_resuming_on_other_data_is_refused(small_config: TrainConfig, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(small_config.data or "", data)
    config = replace(small_config, data=str(data))
    Trainer(config).fit()
    split = json.loads((data / "split.json").read_text())
    split["train"] = split["train"][:-1]
    (data / "split.json").write_text(json.dumps(split))
    with pytest.raises(ValueError, match=r"--resume: split of the data set differ"):
        Trainer(config).fit(resume=True)


def test_a_run_killed_before_its_first_validation_resumes(small_config: TrainConfig) -> None:
    trainer = Trainer(small_config)

    def die() -> tuple[torch.Tensor, torch.Tensor]:
        raise KeyboardInterrupt

    trainer.learner.train_step = die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    summary = Trainer(small_config).fit(resume=True)
    assert summary["step"] in (6, 12)


class SpoilsTheLoss:
    """The loss of a strategy, which is not finite from one call on."""

    def __init__(self, trainer: Trainer, first: int, value: float) -> None:
        self.loss_step, self.value = trainer.learner.loss_step, value
        self.calls_left = first
        trainer.learner.loss_step = self  # type: ignore[assignment]

    def __call__(self, *arguments: Any) -> StepResult:
        result = self.loss_step(*arguments)
        self.calls_left -= 1
        return result if self.calls_left >= 0 else replace(result, loss=result.loss * self.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("steps", "log_every", "in_a_row"), [(12, 1, 3), (12, 50, 4), (2, 50, 2)])
def test_losses_that_stay_not_finite_end_the_run(
    small_config: TrainConfig, value: float, steps: int, log_every: int, in_a_row: int
) -> None:
    """A log that is never due does not hide them, because each checkpoint looks for them too."""
    config = replace(
        small_config,
        optim=replace(small_config.optim, steps=steps),
        runtime=replace(small_config.runtime, log_every=log_every),
    )
    trainer = Trainer(config)
    start = trainer.start
    good = 2 if steps == 12 else 0

    def start_and_spoil(resume: bool, overwrite: bool) -> None:
        start(resume, overwrite)
        SpoilsTheLoss(trainer, good, value)

    trainer.start = start_and_spoil  # type: ignore[method-assign]
    ends = f"not finite {in_a_row} steps in a row, up to step {good + in_a_row}: resume with"
    with pytest.raises(ValueError, match=f"^loss or gradients were {ends}"):
        trainer.fit()
    assert load_checkpoint(trainer.folder.last).state["step"] == (4 if steps == 12 else 0)
    assert not trainer.folder.summary.exists()


@pytest.mark.parametrize("owner", ["network", "average", "optimizer"])
def test_numbers_that_are_not_finite_are_never_saved(small_config: TrainConfig, owner: str) -> None:
    trainer = Trainer(small_config)
    trainer.start(resume=False, overwrite=False)
    trainer.learner.train_step()
    trainer.save(trainer.folder.last)
    trainer.saves.finish()
    before = trainer.folder.last.read_bytes()
    assert trainer.learner.average is not None
    bias = trainer.learner.network.head.bias
    spoilt = {
        "network": bias.detach(),
        "average": trainer.learner.average.weights["head.bias"],
        "optimizer": trainer.learner.optimizer.state[bias]["exp_avg_sq"],
    }
    spoilt[owner][0] = math.inf
    with pytest.raises(FileError, match=f"^step 1: .*last.safetensors: .* in {owner}/head.bias"):
        trainer.save(trainer.folder.last)
        trainer.saves.finish()
    assert trainer.folder.last.read_bytes() == before


def test_a_table_of_a_network_that_overflows_ends_the_run(small_config: TrainConfig) -> None:
    trainer = Trainer(small_config)
    trainer.start(resume=False, overwrite=False)
    trainer.learner.average = None
    with torch.no_grad():
        trainer.learner.network.head.weight.fill_(1e38)
    with pytest.raises(ValueError, match="^step 0: disc_6: expected finite outputs of the network"):
        trainer.finish()
    assert not trainer.folder.summary.exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_trains_resumes_and_predicts_on_a_gpu(
    small_config: TrainConfig, disc_dataset: Path, precision: str
) -> None:
    runtime = replace(small_config.runtime, device="cuda", precision=precision)
    config = replace(small_config, runtime=runtime)
    Trainer(config).fit()
    longer = replace(config, validation=ValidationConfig(every=3))
    Trainer(longer).fit(resume=True)
    prediction = Predictor.load(config.out or "")(disc_dataset / "imagesTr" / "disc_6_0000.png")
    assert prediction.label.shape == (32, 24)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("mode", ["off", "default"])
@pytest.mark.parametrize("strategy", ["recycling", "standard", "self_conditioning", "supervised"])
def test_a_step_does_not_wait_for_the_gpu(
    small_config: TrainConfig, mode: CompileMode, strategy: StrategyName
) -> None:
    runtime = replace(small_config.runtime, device="cuda")
    trainer = Trainer(replace(small_config, runtime=runtime, compile=mode, strategy=strategy))
    for _ in range(3):  # compiles, and chooses algorithms
        trainer.learner.train_step()
    try:
        torch.cuda.set_sync_debug_mode("error")
        loss, _ = trainer.learner.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()


def test_rules_are_checked_against_the_classes(small_config: TrainConfig) -> None:
    rules = PostprocessConfig(keep_largest="lung")
    with pytest.raises(ValueError, match="postprocess.keep_largest: .* ring, core, got 'lung'"):
        Trainer(replace(small_config, postprocess=rules))
    assert small_config.out is not None and not Path(small_config.out).exists()


def test_a_picture_shows_overlapping_classes_inside_each_other() -> None:
    classes = Classes(("whole", "core", "rim"), ((1, 2, 3), (2,), (1, 3)))
    masks = torch.tensor([[0, 1, 1, 1, 1], [0, 0, 1, 0, 1], [0, 0, 0, 1, 1]], dtype=torch.uint8)
    assert PictureMaker(classes)._numbers(masks).tolist() == [0, 1, 2, 3, 2]


def test_number_of_steps_fits_the_time_and_stays(small_config: TrainConfig) -> None:
    config = replace(
        small_config,
        time="20s",
        optim=replace(small_config.optim, steps=0, warmup_steps=5),
        validation=ValidationConfig(every=0),
    )
    trainer = Trainer(config)
    trainer.start(resume=False, overwrite=False)
    fixed = trainer.config
    assert fixed.optim.steps >= 10
    # A tenth of 20 s is enough for one validation, whose files alone are counted as 2 s.
    assert fixed.validation.every == fixed.optim.steps
    assert load_config(trainer.folder.config) == fixed
    again = Trainer(config)
    again.start(resume=True, overwrite=False)
    assert again.config == fixed


def test_measured_speed_is_of_all_cases(small_config: TrainConfig) -> None:
    trainer = Trainer(small_config)
    weights = {
        name: tensor.clone() for name, tensor in trainer.learner.network.state_dict().items()
    }
    speed = trainer.measure_speed()
    split = trainer.dataset.split
    assert (len(speed.validation), len(speed.final)) == (len(split["val"]), len(split["test"]))
    assert min(speed.step, *speed.validation, *speed.final) > 0
    assert all(p.grad is None for p in trainer.learner.network.parameters())
    assert not trainer.learner.optimizer.state
    assert trainer.learner.average is not None and trainer.learner.average.num_updates == 0
    for name, tensor in trainer.learner.network.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=0)
        torch.testing.assert_close(
            trainer.learner.average.weights[name], weights[name], rtol=0, atol=0
        )
