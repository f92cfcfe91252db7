"""What a run shows: its plan at the start, pictures at validations, the table at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from operator import lt
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.table import Table
from torch import Tensor

from recycleseg.classes import Classes
from recycleseg.data.cache import PreparedDataset
from recycleseg.data.identity import changed_contents
from recycleseg.data.layout import Dataset
from recycleseg.data.patients import is_table
from recycleseg.data.preprocess import Plan, PreparedCase
from recycleseg.data.sizes import TRAINING_OPTION, screen_note
from recycleseg.evaluation.statistics import MIN_CASES, patient_groups
from recycleseg.files import (
    FileError,
    as_json,
    read_json_object,
    shortened,
    write_json,
    write_text,
)
from recycleseg.metrics.aggregate import finite_mean
from recycleseg.report.figures import StepsRow, save_steps_figure
from recycleseg.report.sentences import cases_in_words
from recycleseg.run.config import TrainConfig
from recycleseg.run.folder import RunFolder
from recycleseg.run.options import CompileMode
from recycleseg.training.evaluation import Evaluation
from recycleseg.units import steps

PICTURED_CASES = 4
# More columns than this are not legible in a terminal.
_SHOWN_CLASSES = 12


def describe_data(data: PreparedDataset, patch_size: Sequence[int]) -> dict[str, Any]:
    """Plan, patch, split and contents as JSON values, because the weights depend on them.

    `contents` has the hashes of the training and validation cases.
    """
    split = data.dataset.split
    used = {case_id for part in ("train", "val") for case_id in split.get(part, ())}
    content = {
        **data.plan.to_dict(),
        "patch_size": patch_size,
        "split": dict(split),
        "contents": {case_id: data.contents[case_id] for case_id in sorted(used)},
    }
    description: dict[str, Any] = as_json(content)
    return description


def write_run_description(
    folder: RunFolder,
    config: TrainConfig,
    data: dict[str, Any],
    environment: dict[str, Any],
    plan: str | None,
) -> None:
    """Write the configuration, what is known of data set and environment, and the plan if any."""
    if plan is not None:
        write_text(folder.plan, plan)
    # The run may be used from another working folder.
    files = {"split_file": config.split_file}
    if config.group_by is not None and is_table(config.group_by):
        files["group_by"] = config.group_by
    absolute = {name: str(Path(file).resolve()) for name, file in files.items() if file}
    content = as_json({**dataclasses.asdict(config), **absolute})
    write_text(folder.config, yaml.safe_dump(content, sort_keys=False))
    write_json(folder.dataset, data)
    write_json(folder.environment, environment)


def check_same_data(path: Path, now: dict[str, Any]) -> None:
    """Check that a resumed run goes on with the data that it began with, wherever they are now.

    Runs of earlier versions have no `contents`; only the rest of their description is compared, in
    the present terms. `pixel_size` is not compared, because it is an option of the run.

    Args:
        path: dataset.json of the run.
        now: the present result of `describe_data`.

    Raises:
        FileError: the file is damaged.
        ValueError: the data differ.
    """
    saved = read_json_object(path)
    with suppress(KeyError, TypeError, ValueError):  # of a description that will differ
        saved |= as_json(Plan.from_dict(saved).to_dict())
    compared = [key for key in now if key not in ("contents", "pixel_size")]
    changed = [key for key in compared if now[key] != saved.get(key)]
    contents = saved.get("contents", {})
    if not isinstance(contents, dict) or not all(isinstance(c, dict) for c in contents.values()):
        raise FileError(f"{path}: expected hashes of every case in contents, got something else")
    if cases := changed_contents(contents, now["contents"]):
        changed.insert(0, shortened(cases))
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
    expected_time: str,
    expected_memory: int,
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
        expected_time: of the rest of the run, in words.
        expected_memory: bytes of main memory, or of the GPU.
        run_folder: where the results go.
    """
    dataset = data.dataset
    shapes = [data.shapes[case_id] for case_id in dataset.split["train"]]
    padded = sum(any(map(lt, shape, patch_size)) for shape in shapes)
    optim, ignored = config.optim, dataset.classes.ignore_label
    rows = {
        "data set": f"{dataset.name} ({dataset.root})",
        "cases": ", ".join(_count(dataset, name) for name in dataset.split),
        "split": dataset.split_source,
        "classes": ", ".join(dataset.classes.names)
        + ("" if dataset.classes.exclusive else " (overlapping)")
        + ("" if ignored is None else f"; label {ignored} is ignored"),
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
        "validation": _validations(config, dataset),
        "expected time": expected_time,
        "expected memory": f"about {expected_memory / 2**30:.2f} GiB",
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


def _validations(config: TrainConfig, dataset: Dataset) -> str:
    """How often, and on how many cases."""
    number, validation = len(dataset.split["val"]), config.validation
    if number == 0:
        return "none, because there are no cases for it"
    several = f"{min(validation.max_cases or number, number)} of {number} cases"
    line = f"every {validation.every} steps, {several}"
    if validation.patch_every is None:
        return line
    return f"{line}; {validation.patches} patches every {validation.patch_every} steps"


def _count(dataset: Dataset, part: str) -> str:
    """The number of cases in a part, and of patients if there are fewer."""
    cases = dataset.split[part]
    patients = {dataset.patients.get(case_id, case_id) for case_id in cases}
    fewer = (
        f" of {len(patients)} patient{'s' * (len(patients) > 1)}"
        if len(patients) < len(cases)
        else ""
    )
    return f"{part} {len(cases)}{fewer}"


def final_part(dataset: Dataset, wanted: str) -> str:
    """The part of the split that the table at the end shows: the wanted one if it has cases."""
    return next(part for part in (wanted, "test", "val", "train") if dataset.split[part])


def split_notes(dataset: Dataset, final_split: str) -> list[str]:
    """What the user should know about the split, and what a run with it cannot tell."""
    notes = list(dataset.notes)
    missing = [part for part in ("val", "test") if not dataset.split[part]]
    if "val" in missing:
        notes.append("no validation cases: the last weights are the result, not the best ones")
    shown = final_part(dataset, final_split)
    if shown == "val":
        reason = "no test cases: the" if "test" in missing else "the"
        notes.append(
            f"{reason} table at the end shows validation cases, which chose the weights, so it is "
            "too good for new cases"
        )
    elif shown == "train":
        notes.append(
            "no held-out cases: the table at the end shows training cases, so it says nothing "
            "about new cases"
        )
    return notes


class PictureMaker:
    """Keeps the targets of the first evaluated cases, and draws them."""

    def __init__(self, classes: Classes) -> None:
        self._classes = classes
        self._kept: list[tuple[PreparedCase, list[Tensor]]] = []

    def __call__(self, case: PreparedCase, targets: list[Tensor]) -> None:
        """Take a case and its predicted target after every step."""
        if len(self._kept) < PICTURED_CASES:
            self._kept.append((case, [self._numbers(target) for target in targets]))

    def save(self, path: Path, evaluation: Evaluation) -> None:
        """Save a figure of image, truth and the prediction after every step, with its Dice."""
        rows = []
        for case, predictions in self._kept:
            assert case.label is not None  # preprocessing refuses training data without labels
            counts = {case.case_id: evaluation.counts[case.case_id]}
            target, _ = self._classes.split(case.label)
            row = StepsRow(
                case.case_id,
                case.image[0],
                self._numbers(target),
                predictions,
                Evaluation(evaluation.class_names, counts).by_step(),
                steps(case.spacing, case.image.ndim - 1),
            )
            rows.append(row)
        save_steps_figure(path, rows, evaluation.class_names)

    def _numbers(self, target: Tensor) -> Tensor:
        """Number (*S) of the foreground class to show in each voxel, from 1; 0 for none.

        Of overlapping classes the one with the fewest label values shows, as it lies inside others.
        """
        regions = self._classes.regions
        if regions is None:
            return target
        numbers = torch.zeros_like(target[0])
        for index in sorted(range(len(regions)), key=lambda index: -len(regions[index])):
            numbers[target[index].bool()] = index + 1
        return numbers


def final_table(
    evaluation: Evaluation, split: str, step: int, patients: Mapping[str, str]
) -> Table:
    """Mean Dice per class and sampling step, for the terminal; of many classes only their mean.

    Args:
        evaluation: of the cases.
        split: name of their part of the split.
        step: optimiser step of the weights.
        patients: case_id -> patient; a case without one is its own.
    """
    dice = evaluation.dice()
    groups = patient_groups(tuple(evaluation.counts), patients)
    cases = cases_in_words(groups)
    table = Table(title=f"Dice on the {split} split ({cases}), weights of step {step}")
    table.add_column("sampling step", justify="right")
    names = evaluation.class_names
    captions = ["n: cases with a value"]
    if len(names) > _SHOWN_CLASSES:
        captions.insert(0, f"summary.json has each of the {len(names)} classes")
        names = ()
    if len(np.unique(groups)) < MIN_CASES:
        captions.append("too few for conclusions about others")
    table.caption = "; ".join(captions)
    for name in (*names, "mean"):
        table.add_column(name, justify="right")
    steps = zip(dice.swapaxes(0, 1), evaluation.by_step(), evaluation.num_with_dice(), strict=True)
    for k, (per_case, mean, number) in enumerate(steps):
        of_classes = zip(finite_mean(per_case), np.isfinite(per_case).sum(0), strict=True)
        row = [*(of_classes if names else ()), (mean, number)]
        table.add_row(str(k + 1), *(_counted_dice(d, n) for d, n in row))
    return table


def validation_line(evaluation: Evaluation, step: int) -> str:
    """Mean validation Dice after every sampling step, with its number of cases.

    Args:
        evaluation: of the validation cases.
        step: optimiser step of the weights.
    """
    dice = map(_counted_dice, evaluation.by_step(), evaluation.num_with_dice())
    return f"step {step}: mean validation Dice by sampling step {', '.join(dice)}"


def _counted_dice(dice: float, number: int) -> str:
    return f"{'-' if number == 0 else f'{dice:.4f}'} (n={number})"
