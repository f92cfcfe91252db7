"""What a run shows: its plan at the start, pictures at validations, the table at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from operator import lt
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table
from torch import Tensor

from recycleseg.classes import Classes
from recycleseg.data.cache import PreparedDataset
from recycleseg.data.preprocess import PreparedCase
from recycleseg.data.sizes import TRAINING_OPTION, screen_note
from recycleseg.files import as_json, read_json_object, write_json, write_text
from recycleseg.metrics.aggregate import finite_mean
from recycleseg.progress import format_duration
from recycleseg.report.figures import StepsRow, save_steps_figure
from recycleseg.run.config import TrainConfig
from recycleseg.run.folder import RunFolder
from recycleseg.run.options import CompileMode
from recycleseg.training.evaluation import Evaluation

PICTURED_CASES = 4


def describe_data(data: PreparedDataset, patch_size: Sequence[int]) -> dict[str, Any]:
    """Preprocessing plan, patch and split as JSON values, because the weights depend on them."""
    content = {**data.plan.to_dict(), "patch_size": patch_size, "split": dict(data.dataset.split)}
    description: dict[str, Any] = as_json(content)
    return description


def write_run_description(
    folder: RunFolder, config: TrainConfig, data: dict[str, Any], environment: dict[str, Any]
) -> None:
    """Write the configuration, the description of the data set, and the environment."""
    write_text(folder.config, yaml.safe_dump(as_json(dataclasses.asdict(config)), sort_keys=False))
    write_json(folder.dataset, data)
    write_json(folder.environment, environment)


def check_same_data(path: Path, now: dict[str, Any]) -> None:
    """Check that a resumed run goes on with the data that it began with.

    Args:
        path: dataset.json of the run.
        now: the present result of `describe_data`.

    Raises:
        ValueError: the data differ.
    """
    saved = read_json_object(path)
    changed = [key for key in now if now[key] != saved.get(key)]
    if changed:
        raise ValueError(
            f"--resume: {', '.join(changed)} of the data set differ from {path}; a run can only "
            "continue with the data that it began with"
        )


def plan_table(
    config: TrainConfig,
    data: PreparedDataset,
    patch_size: Sequence[int],
    *,
    num_parameters: int,
    device: str,
    compile_mode: CompileMode,
    first_step: int,
    seconds: float,
    run_folder: Path,
) -> Table:
    """The plan of the run, for the terminal.

    Args:
        config: of the run.
        data: what the network is trained on.
        patch_size: voxels along each axis.
        num_parameters: of the network.
        device: the device, precision and threads in words.
        compile_mode: of torch.compile, resolved.
        first_step: optimiser steps that are done already.
        seconds: expected time of all further steps.
        run_folder: where the results go.
    """
    dataset = data.dataset
    shapes = [data.shapes[case_id] for case_id in dataset.split["train"]]
    padded = sum(any(map(lt, shape, patch_size)) for shape in shapes)
    optim = config.optim
    rows = {
        "data set": f"{dataset.name} ({dataset.root})",
        "cases": ", ".join(f"{name} {len(cases)}" for name, cases in dataset.split.items()),
        "classes": ", ".join(dataset.classes.names)
        + ("" if dataset.classes.exclusive else " (overlapping)"),
        "channels": ", ".join(dataset.channel_names),
        "spacing": " x ".join(f"{size:g}" for size in data.spacing)
        + f" {data.plan.unit}"
        + ("" if data.plan.unit == "mm" else ", without sizes in mm"),
        "patch": " x ".join(map(str, patch_size))
        + (f" ({padded} training images are smaller: padded)" if padded else ""),
        "strategy": config.strategy,
        "parameters": f"{num_parameters:,}",
        "device": device,
        "torch.compile": compile_mode,
        "steps": f"{first_step} to {optim.steps}, batch {optim.batch_size}"
        + (f" x {optim.accumulation}" if optim.accumulation > 1 else ""),
        "expected time": f"{format_duration(seconds)} and validations",
        "run folder": str(run_folder),
    }
    if data.num_screen_sizes and config.preprocess.pixel_size == "auto":
        rows["pixel size"] = screen_note(
            data.num_screen_sizes, len(data.records), "cases", TRAINING_OPTION
        )
    table = Table(box=None, show_header=False, pad_edge=False)
    for row in rows.items():
        table.add_row(*row)
    return table


class PictureMaker:
    """Keeps the label maps of the first evaluated cases, and draws them."""

    def __init__(self, classes: Classes) -> None:
        self._classes = classes
        self._kept: list[tuple[PreparedCase, list[Tensor]]] = []

    def __call__(self, case: PreparedCase, maps: list[Tensor]) -> None:
        """Take a case and its predicted target after every step."""
        if len(self._kept) < PICTURED_CASES:
            self._kept.append((case, [self._classes.label_map(target) for target in maps]))

    def save(self, path: Path, evaluation: Evaluation, spacing: Sequence[float]) -> None:
        """Save a figure of image, truth and the prediction after every step, with its Dice."""
        rows = []
        for case, maps in self._kept:
            assert case.label is not None  # preprocessing refuses training data without labels
            counts = {case.case_id: evaluation.counts[case.case_id]}
            dice = Evaluation(evaluation.class_names, counts).by_step()
            truth = self._classes.label_map(case.label)
            rows.append(StepsRow(case.case_id, case.image[0], truth, maps, dice))
        aspect = spacing[0] / spacing[1] if len(spacing) == 2 else spacing[1] / spacing[0]
        save_steps_figure(path, rows, aspect=aspect)


def final_table(evaluation: Evaluation, split: str, step: int) -> Table:
    """Mean Dice per class and sampling step, for the terminal."""
    dice = evaluation.dice()
    table = Table(title=f"Dice on the {split} split ({len(dice)} cases), weights of step {step}")
    table.add_column("sampling step", justify="right")
    for name in (*evaluation.class_names, "mean"):
        table.add_column(name, justify="right")
    steps = zip(dice.swapaxes(0, 1), evaluation.by_step(), strict=True)
    for k, (per_case, mean) in enumerate(steps):
        row = [*finite_mean(per_case), mean]
        table.add_row(str(k + 1), *(f"{d:.4f}" for d in row))
    return table
