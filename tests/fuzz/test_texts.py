"""Damaged JSON, YAML, tables and checkpoints: read or refused by name, in little memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.fuzz.harness import fuzz
from tests.fuzz.mutations import damaged, damaged_json, damaged_text
from tests.tiny_runs import write_tiny_run

from recycleseg.classes import Classes
from recycleseg.data.formats.tiff import write_tiff
from recycleseg.data.layout import read_dataset
from recycleseg.data.patients import named_patients
from recycleseg.data.split_files import read_given_split, read_groups
from recycleseg.data.volumes import Volume, read_volume
from recycleseg.evaluation.labels import find_labels
from recycleseg.evaluation.pairs import describe_origin, find_images
from recycleseg.evaluation.table import read_evaluation
from recycleseg.prediction.members import read_member
from recycleseg.prediction.model import load_plan
from recycleseg.prediction.record import differences, read_record
from recycleseg.run.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from recycleseg.run.config import load_config
from recycleseg.run.yaml_file import read_yaml

CASES = ("a_0", "a_1", "b_0")
DATASET = {
    "name": "Tiny",
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "whole": [1, 2], "core": 2},
    "regions_class_order": [1, 2],
    "file_ending": ".nii.gz",
}
RECORD: dict[str, Any] = {
    "models": [{"run": "runs/a", "sha256": "0" * 64}],
    "options": {"num_steps": 2, "seed": [0, 1], "save_steps": False},
    "dataset": {"labels": {"background": 0, "a": 1}, "file_ending": ".nii"},
    "images": {"a_0": ["a_0_0000.nii"]},
    "contents": {"a_0": ["0" * 64]},
    "failed": {},
    "seconds": {"a_0": 1.5},
    "environment": {"python": "3"},
}


def write_cases(root: Path) -> None:
    """Empty files of images and labels."""
    for case in CASES:
        for name in (f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()


@pytest.mark.parametrize("listed", [False, True], ids=["found", "listed"])
def test_dataset_json(tmp_path: Path, listed: bool) -> None:
    root = tmp_path / "set"
    write_cases(root)
    files = {c: {"images": [f"imagesTr/{c}_0000.nii.gz"], "label": f"labelsTr/{c}.nii.gz"}
             for c in CASES}  # fmt: skip
    content = {**DATASET, "dataset": files} if listed else DATASET
    inputs = damaged_json(content)
    read = lambda _: read_dataset(root)  # noqa: E731
    fuzz(
        f"dataset.json {'listed' if listed else ''}",
        root / "dataset.json",
        inputs,
        read,
        named="set",
    )


@pytest.mark.parametrize("name", ["split.json", "splits_final.json"])
def test_split_files(tmp_path: Path, name: str) -> None:
    parts: Any = {
        "train": ["a_0"],
        "val": ["a_1"],
        "test": ["b_0"],
        "groups": {"a_0": "a", "b_0": 3},
    }
    if name == "splits_final.json":
        parts = [{"train": ["a_0", "a_1"], "val": ["b_0"]}, {"train": ["b_0"], "val": ["a_1"]}]

    def read(path: Path) -> None:
        read_given_split(tmp_path, CASES)
        read_given_split(tmp_path, CASES, path)
        if name == "split.json":
            read_groups(tmp_path)

    fuzz(name, tmp_path / name, damaged_json(parts), read)


def test_labels_of_an_evaluation(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        find_labels(tmp_path, tmp_path)
        content = json.loads(path.read_bytes())
        Classes.of(content.get("labels"), str(path), content.get("regions_class_order"))

    fuzz("dataset.json of labels", tmp_path / "dataset.json", damaged_json(DATASET), read)


def test_records_of_predictions(tmp_path: Path) -> None:
    (tmp_path / "a_0.nii.gz").touch()

    def read(path: Path) -> None:
        describe_origin([tmp_path])
        find_images([tmp_path], CASES)
        find_labels(tmp_path, tmp_path)
        read_member(tmp_path)
        differences(read_record(path), RECORD)

    fuzz("predict.json", tmp_path / "predict.json", damaged_json(RECORD), read)


def test_description_of_a_run(tmp_path: Path) -> None:
    path = write_tiny_run(tmp_path / "run") / "dataset.json"
    fuzz("dataset.json of a run", path, damaged_json(json.loads(path.read_text())), load_plan)


def test_configuration_of_a_run(tmp_path: Path) -> None:
    path = write_tiny_run(tmp_path / "run") / "config.yaml"
    fuzz("config.yaml", path, damaged_text(path.read_bytes()), load_config)


def test_yaml(tmp_path: Path) -> None:
    sound = (
        b"optim: &o {steps: 10, lr: 1e-3}\nmodel:\n  channels: [8, 16]\nx: {<<: *o, y: '2'}\n- 1\n"
    )
    fuzz("YAML", tmp_path / "x.yaml", damaged_text(sound), read_yaml)


def test_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    tensors = {f"network/{name}": torch.ones(2, 3) for name in "abc"}
    save_checkpoint(path, Checkpoint(tensors, {"step": 1}))
    content = path.read_bytes()
    start = content[: int.from_bytes(content[:8], "little") + 8]
    inputs = damaged(content, [(0, "<Q")]) | damaged_text(start).map(
        lambda header: header + content[len(start) :]
    )
    fuzz("checkpoint", path, inputs, load_checkpoint)


def test_table_of_patients(tmp_path: Path) -> None:
    table = "".join(f'{case},"patient {case[0]}"\n' for case in CASES).encode()
    read = lambda path: named_patients(str(path), CASES)  # noqa: E731
    fuzz("table of patients", tmp_path / "x.csv", damaged_text(table), read)


@pytest.mark.parametrize("name", ["metrics.csv", "summary.json"])
def test_evaluation(tmp_path: Path, name: str) -> None:
    case = {"prediction_file": "pred/a.nii", "reference_file": "ref/a.nii"}
    settings = {"tolerances_mm": [1.0], "percentile": 95.0, "definitions": ["voxel"],
                "border_is_outside": True}  # fmt: skip
    summary = {"settings": settings, "class_names": {"1": "a"}, "unit": "mm",
               "metric_per_case": [case, case], "reference_sha256": {"a": "0"}}  # fmt: skip
    table = b"case,step,label,dice,hd95\na,1,a,0.5,2.5\nb,1,a,nan,inf\n"
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "metrics.csv").write_bytes(table)
    read_evaluation(tmp_path)
    inputs = damaged_text(table) if name == "metrics.csv" else damaged_json(summary)
    read = lambda _: read_evaluation(tmp_path)  # noqa: E731
    # The two files are compared with each other, so a message may name the sound one.
    fuzz(f"{name} of an evaluation", tmp_path / name, inputs, read, named=str(tmp_path))


def test_voxel_size_beside_a_tiff(tmp_path: Path) -> None:
    grid = Volume(np.zeros((4, 3, 2)), (1.0, 2.0, 3.0), None, tmp_path)
    write_tiff(tmp_path / "x.tif", np.zeros((4, 3, 2), np.uint8), grid, None)
    inputs = damaged_json({"spacing": [3.0, 2.0, 1.0]})
    fuzz("CASE.json", tmp_path / "x.json", inputs, lambda _: read_volume(tmp_path / "x.tif"))
