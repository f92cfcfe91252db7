"""What a run says: the plan before it starts, pictures on the way, the table at the end."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import TYPE_CHECKING

import torch
import yaml
from rich.table import Table
from torch import Tensor

from recycleseg.data.preprocess import PreparedCase
from recycleseg.report.figures import StepsRow, save_steps_figure
from recycleseg.training.evaluation import Evaluation
from recycleseg.training.run_folder import describe_environment, write_json

if TYPE_CHECKING:
    from recycleseg.training.trainer import Trainer

PICTURED_CASES = 4


def write_run_description(trainer: Trainer) -> None:
    """Write the configuration, the data set's description and the environment."""
    folder = trainer.folder
    config = json.loads(json.dumps(dataclasses.asdict(trainer.config)))
    folder.config.write_text(yaml.safe_dump(config, sort_keys=False))
    write_json(folder.dataset, trainer.data.plan.to_dict() | {"patch_size": trainer.patch_size})
    write_json(folder.environment, describe_environment(trainer.device, trainer.precision))


def print_plan(trainer: Trainer) -> None:
    """Say what is about to happen, with the time it will take, measured on the first batches."""
    config, data = trainer.config, trainer.data
    dataset = data.dataset
    splits = ", ".join(f"{name} {len(data.cases(name))}" for name in ("train", "val", "test"))
    parameters = sum(p.numel() for p in trainer.network.parameters())
    small = [n for n, p in zip(data.median_shape, trainer.patch_size, strict=True) if n < p]
    patch = " x ".join(map(str, trainer.patch_size))
    spacing = " x ".join(f"{s:g}" for s in data.spacing)
    remaining = config.optim.steps - trainer.step
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in {
        "data set": f"{dataset.name} ({dataset.root})",
        "cases": splits,
        "classes": ", ".join(dataset.class_names) + ("" if dataset.exclusive else " (overlapping)"),
        "channels": ", ".join(dataset.channel_names),
        "spacing": f"{spacing} mm",
        "patch": patch + (" (larger than most images: padded)" if small else ""),
        "strategy": config.strategy,
        "parameters": f"{parameters:,}",
        "device": f"{trainer.device}, {trainer.precision}, {torch.get_num_threads()} CPU threads",
        "steps": f"{trainer.step} to {config.optim.steps}, batch {config.optim.batch_size}"
        + (f" x {config.optim.accumulation}" if config.optim.accumulation > 1 else ""),
        "expected time": format_duration(_seconds_per_step(trainer) * remaining)
        + " and validations",
        "run folder": str(trainer.folder.root),
    }.items():
        table.add_row(name, value)
    trainer.console.print(table)


def _seconds_per_step(trainer: Trainer) -> float:
    """Time of one optimiser step, from the second of two passes that change no weight."""
    trainer.network.train()
    for index in range(2):
        start = time.perf_counter()
        loss = trainer.loss_of_batch(index).loss
        loss.backward()
        loss.item()  # waits for a GPU
        seconds = time.perf_counter() - start
        trainer.optimizer.zero_grad(set_to_none=True)
    return seconds * trainer.config.optim.accumulation


def format_duration(seconds: float) -> str:
    """Hours, minutes and seconds, the two largest that are not zero."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours:
        return f"{hours} h {m} min"
    return f"{m} min {s} s" if m else f"{s} s"


def save_validation_picture(
    trainer: Trainer, cases: list[tuple[PreparedCase, Tensor]], evaluation: Evaluation
) -> None:
    """Save image, truth and the prediction at every step of the first validation cases."""
    exclusive = trainer.dataset.exclusive
    rows = []
    for case, probs in cases[:PICTURED_CASES]:
        assert case.label is not None  # preprocessing refuses training data without labels
        counts = evaluation.counts[case.case_id]
        dice = Evaluation(evaluation.class_names, {case.case_id: counts}).by_step()
        truth = case.label if exclusive else _stacked(case.label)
        maps = [p.argmax(0) if exclusive else _stacked(p > 0.5) for p in probs]
        rows.append(StepsRow(case.case_id, case.image[0], truth, maps, dice))
    path = trainer.folder.pictures / f"validation-{trainer.step:06d}.png"
    spacing = trainer.data.spacing
    aspect = spacing[0] / spacing[1] if len(spacing) == 2 else spacing[1] / spacing[0]
    save_steps_figure(path, rows, aspect=aspect)


def _stacked(mask: Tensor) -> Tensor:
    """Overlapping masks (C, *S) as one map: the last class that holds a voxel is seen."""
    classes = torch.arange(1, len(mask) + 1, device=mask.device)
    return (mask > 0).mul(classes.reshape(-1, *[1] * (mask.ndim - 1))).amax(0)


def final_table(evaluation: Evaluation, split: str, step: int) -> Table:
    """Dice per class and per sampling step."""
    dice = evaluation.dice()
    table = Table(title=f"Dice on the {split} split ({len(dice)} cases), weights of step {step}")
    table.add_column("sampling step", justify="right")
    for name in (*evaluation.class_names, "mean"):
        table.add_column(name, justify="right")
    for k, (per_case, mean) in enumerate(zip(dice.unbind(1), evaluation.by_step(), strict=True)):
        row = [*per_case.nanmean(0).tolist(), mean]
        table.add_row(str(k + 1), *(f"{d:.4f}" for d in row))
    return table
