"""What predict.json says about the runs that predict."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tiny_runs import write_tiny_run

from recycleseg.data.identity import content_hash
from recycleseg.data.preprocess import Plan
from recycleseg.prediction.record import make_record
from recycleseg.run.config import load_config


def test_record_of_runs(tmp_path: Path) -> None:
    runs = [write_tiny_run(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    configs = [load_config(run / "config.yaml") for run in runs]
    description = json.loads((runs[0] / "dataset.json").read_text())
    made = make_record(
        runs,
        configs,
        Plan.from_dict(description),
        ".nii",
        options={"save_steps": False},
        environment={"python": "3"},
    )
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert [model["run"] for model in made["models"]] == [str(run) for run in runs]
    hashes = [content_hash(run / "checkpoints/best.safetensors") for run in runs]
    assert [model["sha256"] for model in made["models"]] == hashes and len(set(hashes)) == 2
    assert (made["options"]["num_steps"], made["options"]["seed"]) == (2, [0, 1])
    assert made["options"]["save_steps"] is False
    assert made["dataset"] == {
        "labels": {"background": 0, "a": 1, "b": 2},
        "channel_names": {"0": "MRI"},
        "file_ending": ".nii",
    }
    description |= {"class_names": ["whole", "core"], "regions": [[1, 2], [2]]}
    plan = Plan.from_dict(description)
    made = make_record(runs, configs, plan, ".nii", options={}, environment={})
    assert made["dataset"]["labels"] == {
        "background": 0,
        "whole": [1, 2],
        "core": [2],
    }
