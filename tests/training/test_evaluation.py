"""Counting whole cases, and nnU-Net's summary of it."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recycleseg.classes import Classes
from recycleseg.data.layout import Case, Dataset
from recycleseg.data.preprocess import PreprocessConfig
from recycleseg.data.volumes import read_volume, write_volume
from recycleseg.evaluation import evaluate_folder, summarise_folder
from recycleseg.metrics.overlap import dice
from recycleseg.ops.overlap_counts import overlap_counts
from recycleseg.prediction.predictor import Predictor
from recycleseg.run.config import TrainConfig
from recycleseg.run.options import (
    PatchConfig,
    PostprocessConfig,
    SamplingConfig,
)
from recycleseg.training.evaluation import Evaluation, foreground_counts, summary_of
from recycleseg.training.trainer import Trainer


def make_dataset(regions: tuple[tuple[int, ...], ...] | None = None) -> Dataset:
    names = ("background", "a", "b") if regions is None else ("whole", "core")
    cases = {c: Case(c, (Path(f"{c}_0000.nii.gz"),), Path(f"labelsTr/{c}.nii.gz")) for c in "xyz"}
    return Dataset(
        root=Path(),
        name="Small",
        channel_names=("MRI",),
        file_ending=".nii.gz",
        classes=Classes(names, regions),
        cases=cases,
        split={"train": (), "val": (), "test": ("x", "y", "z")},
    )


def make_evaluation() -> Evaluation:
    # class a: Dice 0.5 then 1 / missed / in neither; class b: always 0.8
    b = [4, 5, 5]
    counts = {
        "x": torch.tensor([[[5, 10, 10], b], [[10, 10, 10], b]]),
        "y": torch.tensor([[[0, 0, 10], b], [[0, 0, 10], b]]),
        "z": torch.tensor([[[0, 0, 0], b], [[0, 0, 0], b]]),
    }
    return Evaluation(("a", "b"), counts, dict.fromkeys("xyz", 100))


def test_means_leave_out_what_does_not_apply_but_not_what_was_missed() -> None:
    evaluation = make_evaluation()
    assert evaluation.dice().shape == (3, 2, 2)
    assert evaluation.by_class() == {"a": pytest.approx(0.5), "b": pytest.approx(0.8)}
    # class a: (0.5 + 0) / 2, then (1 + 0) / 2, over the two cases where it applies
    assert evaluation.by_step() == pytest.approx([(0.25 + 0.8) / 2, (0.5 + 0.8) / 2])
    assert evaluation.mean_dice() == evaluation.by_step()[-1]


def test_summary_has_nnunets_keys() -> None:
    summary = json.loads(json.dumps(summary_of(make_evaluation(), make_dataset()), allow_nan=False))
    assert set(summary["mean"]) == {"1", "2"}
    assert summary["mean"]["1"]["Dice"] == pytest.approx(0.5)
    assert summary["foreground_mean"]["Dice"] == pytest.approx(0.65)
    assert summary["by_step"] == pytest.approx([0.525, 0.65])
    assert (summary["num_nan"]["1"]["Dice"], summary["num_nan"]["2"]["Dice"]) == (1, 0)
    assert summary["class_names"] == {"1": "a", "2": "b"}
    case = summary["metric_per_case"][1]
    assert case["reference_file"] == "y.nii.gz"
    assert case["metrics"]["1"] == {
        "Dice": 0.0,
        "IoU": 0.0,
        "TP": 0,
        "FP": 0,
        "FN": 10,
        "TN": 90,
        "n_pred": 0,
        "n_ref": 10,
    }
    assert summary["metric_per_case"][2]["metrics"]["1"]["Dice"] is None


def test_regions_are_named_by_their_labels() -> None:
    dataset = make_dataset(regions=((1, 2), (2,)))
    assert set(summary_of(make_evaluation(), dataset)["mean"]) == {"(1, 2)", "2"}


def test_counts_of_exclusive_and_overlapping_classes() -> None:
    reference = torch.tensor([[0, 1, 2, 2]], dtype=torch.uint8)
    probs = torch.tensor([[0.6, 0.2, 0.1, 0.5], [0.3, 0.7, 0.5, 0.2], [0.1, 0.1, 0.4, 0.3]])
    exclusive = Classes(("background", "a", "b"))
    counts = foreground_counts(exclusive.decide(probs[:, None]), reference, exclusive)
    assert counts.tolist() == [[1, 2, 1], [0, 0, 2]]
    masks = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 0]], dtype=torch.uint8)
    probs = torch.tensor([[0.4, 0.6, 0.9, 0.5], [0.6, 0.1, 0.7, 0.2]])
    regions = Classes(("whole", "core"), ((1, 2), (2,)))
    counts = foreground_counts(regions.decide(probs[:, None]), masks[:, None], regions)
    assert counts.tolist() == [[3, 3, 3], [1, 2, 1]]  # 0.5 counts as inside


def test_a_class_nowhere_has_no_mean() -> None:
    nothing = Evaluation(("a",), {"x": torch.zeros(1, 1, 3, dtype=torch.int64)}, {"x": 8})
    assert math.isnan(nothing.mean_dice())
    dataset = replace(make_dataset(), classes=Classes(("background", "a")))
    assert summary_of(nothing, dataset)["by_step"] == [None]


@pytest.mark.parametrize(
    ("sampling", "postprocess"),
    [
        (SamplingConfig(num_steps=3), PostprocessConfig()),
        (SamplingConfig(num_steps=3, samples=2, mirror=True), PostprocessConfig()),
        (SamplingConfig(num_steps=3, fusion="trajectory", sampler="ddpm"), PostprocessConfig()),
        (SamplingConfig(num_steps=1, samples=2), PostprocessConfig()),
        (SamplingConfig(num_steps=3), PostprocessConfig(keep_largest="all", fill_holes="all")),
    ],
    ids=["default", "samples", "ddpm", "one step", "postprocess"],
)
def test_prediction_repeats_the_trainers_numbers(
    small_config: TrainConfig, sampling: SamplingConfig, postprocess: PostprocessConfig
) -> None:
    """Every count of the final table, at every step, from the image files alone."""
    config = replace(
        small_config,
        sampling=sampling,
        postprocess=postprocess,
        patch=PatchConfig(size=(16, 16), overlap=0.25),
        preprocess=PreprocessConfig(spacing=(0.6, 0.45)),
        optim=replace(small_config.optim, steps=6),
    )
    summary = Trainer(config).fit()
    assert config.data is not None and config.out is not None
    predictor = Predictor.load(config.out, device="cpu")
    by_step = []
    for case_id, of_case in zip(("disc_6", "disc_7"), summary["metric_per_case"], strict=True):
        data = Path(config.data)
        prediction = predictor(data / f"imagesTr/{case_id}_0000.png", return_steps=True)
        label = torch.from_numpy(read_volume(data / f"labelsTr/{case_id}.png").array)
        counts = [overlap_counts(step[None], label[None], 3)[0, 1:] for step in prediction.steps]
        by_step.append(torch.stack(counts))
        for key, (tp, n_pred, n_ref) in zip("12", counts[-1].tolist(), strict=True):
            metrics = of_case["metrics"][key]
            assert (metrics["TP"], metrics["n_pred"], metrics["n_ref"]) == (tp, n_pred, n_ref)
    of_classes = np.nanmean(dice(torch.stack(by_step).numpy()), axis=0)
    assert of_classes.mean(-1).tolist() == pytest.approx(summary["by_step"], abs=1e-12)


@pytest.mark.parametrize("overlapping", [False, True])
def test_ignored_voxels_are_not_counted(overlapping: bool) -> None:
    names = ("whole", "core") if overlapping else ("background", "a", "b")
    classes = Classes(names, ((1, 2), (2,)) if overlapping else None, ignore_label=3)
    label = torch.tensor([[0, 1, 2, 2, 3, 3]], dtype=torch.uint8)
    predicted = torch.tensor([[1, 1, 2, 0, 2, 0]], dtype=torch.uint8)
    reference, known = classes.split(classes.target(label))
    counts = foreground_counts(classes.target(predicted), reference, classes, known)
    # TP, predicted and reference over the first four voxels
    expected = [[2, 3, 3], [1, 1, 2]] if overlapping else [[1, 2, 1], [1, 1, 2]]
    assert counts.tolist() == expected


SPARSE: dict[str, dict[str, Any]] = {
    "exclusive": {"labels": {"background": 0, "ring": 1, "core": 2, "ignore": 3}},
    "regions": {
        "labels": {"background": 0, "disc": [1, 2], "core": [2], "ignore": 3},
        "regions_class_order": [1, 2],
    },
}


@pytest.mark.parametrize("strategy", ["recycling", "standard", "supervised"])
@pytest.mark.parametrize("description", SPARSE)
def test_scribbles_are_enough_to_train(
    small_config: TrainConfig, tmp_path: Path, description: str, strategy: Any
) -> None:
    """No case has a voxel of background; from the data set to the evaluation of predictions."""
    root = tmp_path / "Dataset002_Scribbles"
    shutil.copytree(str(small_config.data), root)
    content = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**content, **SPARSE[description]}))
    for path in (root / "labelsTr").iterdir():
        label = read_volume(path).array.copy()
        lines = np.arange(label.shape[0])[:, None] % 3 == 0
        label[~lines | (label == 0)] = 3
        write_volume(path, label, spacing=(0.5, 0.5))
    config = replace(
        small_config,
        data=str(root),
        strategy=strategy,
        patch=PatchConfig(size=(16, 16), overlap=0.25),
        sampling=SamplingConfig(num_steps=2),
        optim=replace(small_config.optim, steps=4),
    )
    summary = Trainer(config).fit()
    assert config.out is not None
    lines_of_log = (Path(config.out) / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line) for line in lines_of_log]
    assert all(line["loss"] > 0 for line in losses if "loss" in line)
    assert summary["settings"] == {"ignore_label": 3}

    predictor = Predictor.load(config.out, device="cpu")
    (tmp_path / "predicted").mkdir()
    for case_id in ("disc_6", "disc_7"):
        prediction = predictor(root / f"imagesTr/{case_id}_0000.png")
        assert set(prediction.label.unique().tolist()) <= {0, 1, 2}
        prediction.save(tmp_path / f"predicted/{case_id}.png")
    scores = evaluate_folder(tmp_path / "predicted", root / "labelsTr")
    assert scores.ignore_label == 3
    evaluated = summarise_folder(scores)
    for ours, theirs in zip(summary["metric_per_case"], evaluated["metric_per_case"], strict=True):
        for key, metrics in ours["metrics"].items():
            counted = {name: theirs["metrics"][key][name] for name in metrics}
            if description == "exclusive":  # a painted map cannot hold every set of regions
                assert counted == metrics
            assert sum(counted[n] for n in ("TP", "FP", "FN", "TN")) == int(
                (read_volume(root / "labelsTr" / ours["reference_file"]).array != 3).sum()
            )
