"""What a run says: the plan before it starts, pictures on the way, the table at the end."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from rich.table import Table
from torch import Tensor

from recycleseg.compiling import resolve_mode
from recycleseg.data.preprocess import PreparedCase
from recycleseg.report.figures import StepsRow, save_steps_figure
from recycleseg.training.evaluation import Evaluation
from recycleseg.training.run_folder import describe_environment, write_json, write_text

if TYPE_CHECKING:
    from recycleseg.training.trainer import Trainer

PICTURED_CASES = 4


def write_run_description(trainer: Trainer) -> None:
    """Write the configuration, the data set's description and the environment."""
    folder = trainer.folder
    config = json.loads(json.dumps(dataclasses.asdict(trainer.config)))
    write_text(folder.config, yaml.safe_dump(config, sort_keys=False))
    write_json(folder.dataset, describe_data(trainer))
    write_json(folder.environment, describe_environment(trainer.device, trainer.precision))


def describe_data(trainer: Trainer) -> dict[str, Any]:
    """Preprocessing plan, patch and split, as JSON values: what the weights depend on."""
    plan = trainer.data.plan.to_dict()
    description = {**plan, "patch_size": trainer.patch_size, "split": dict(trainer.dataset.split)}
    as_json: dict[str, Any] = json.loads(json.dumps(description))
    return as_json


def check_same_data(trainer: Trainer) -> None:
    """Raise ValueError if the run to resume was trained on other data than it would be now."""
    path = trainer.folder.dataset
    saved, now = json.loads(path.read_text()), describe_data(trainer)
    changed = [key for key in now if now[key] != saved.get(key)]
    if changed:
        raise ValueError(
            f"--resume: {', '.join(changed)} of the data set differ from {path}; the run can only "
            "go on with the data it began with"
        )


def print_plan(trainer: Trainer) -> None:
    """Say what is about to happen, with the time it will take, measured on the first batches."""
    config, data = trainer.config, trainer.data
    dataset = data.dataset
    splits = ", ".join(f"{name} {len(cases)}" for name, cases in dataset.split.items())
    parameters = sum(p.numel() for p in trainer.network.parameters())
    padded = sum(
        any(n < p for n, p in zip(data.shapes[case_id], trainer.patch_size, strict=True))
        for case_id in dataset.split["train"]
    )
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
        "patch": patch + (f" ({padded} training images are smaller: padded)" if padded else ""),
        "strategy": config.strategy,
        "parameters": f"{parameters:,}",
        "device": f"{trainer.device}, {trainer.precision}, {torch.get_num_threads()} CPU threads",
        "torch.compile": resolve_mode(config.compile, trainer.device),
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
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)  # the backward pass too
        seconds = time.perf_counter() - start
        trainer.network.zero_grad()
    return seconds * trainer.config.optim.accumulation


def format_duration(seconds: float) -> str:
    """Hours, minutes and seconds, the two largest that are not zero."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours:
        return f"{hours} h {m} min"
    return f"{m} min {s} s" if m else f"{s} s"


class PictureMaker:
    """Keeps label maps of the first cases that are evaluated, and draws them."""

    def __init__(self, exclusive: bool) -> None:
        self._exclusive = exclusive
        self._kept: list[tuple[PreparedCase, list[Tensor]]] = []

    def __call__(self, case: PreparedCase, maps: list[Tensor]) -> None:
        """Take a case and its label map, or masks of overlapping classes, at every step."""
        if len(self._kept) < PICTURED_CASES:
            shown = maps if self._exclusive else [_stacked(masks) for masks in maps]
            self._kept.append((case, shown))

    def save(self, path: Path, evaluation: Evaluation, spacing: Sequence[float]) -> None:
        """Save image, truth and the prediction at every step, with its Dice."""
        rows = []
        for case, maps in self._kept:
            assert case.label is not None  # preprocessing refuses training data without labels
            counts = {case.case_id: evaluation.counts[case.case_id]}
            dice = Evaluation(evaluation.class_names, counts).by_step()
            truth = case.label if self._exclusive else _stacked(case.label)
            rows.append(StepsRow(case.case_id, case.image[0], truth, maps, dice))
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
