"""The run folder: whatever a kill leaves in it, there is a way to go on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import recycleseg
from recycleseg.folders import MARKER
from recycleseg.run.folder import RunFolder

NEW_RUN = [
    MARKER,
    "checkpoints/best.safetensors",
    "checkpoints/last.safetensors",
    "config.yaml",
    "dataset.json",
    "environment.json",
    "metrics.jsonl",
    "pictures/validation-000001.png",
    "plan.yaml",
    "summary.json",
    "tensorboard/events.out.tfevents.1",
]


@pytest.fixture(scope="module")
def after_kills(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    script = Path(__file__).with_name("begin_and_kill.py")
    package = Path(recycleseg.__file__).parent
    root = tmp_path_factory.mktemp("killed") / "run"
    command = [sys.executable, str(script), str(package), str(root)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_no_state_that_a_kill_leaves_is_a_dead_end(after_kills: list[dict[str, Any]]) -> None:
    for state in after_kills:
        assert state["overwrite"], state
        if state["work"] == "evaluation":
            assert state["files"] == [MARKER, "metrics.csv", "summary.json", "thesis.txt"], state
        else:
            kept = ["thesis.txt"] if state["work"] == "overwrite" else []
            assert state["files"] == sorted([*NEW_RUN, *kept]), state
    counts = {state["work"]: state["change"] for state in after_kills}
    assert min(counts.values()) >= 8  # changes of the folder at which it was killed


def test_a_run_that_had_not_begun_begins_by_the_same_command(
    after_kills: list[dict[str, Any]],
) -> None:
    for state in after_kills:
        if state["work"] == "start":
            assert state["start"] or state["resume"], state


def test_nobody_resumes_half_a_run(after_kills: list[dict[str, Any]]) -> None:
    """Checkpoint, configuration, data and log are of the same run, the old or the new one."""
    for state in after_kills:
        if state.get("resume"):
            config, dataset, last, best, metrics = state["parts"]
            assert config == dataset == last and last in ("old", "new"), state
            assert best in ("", last), state
            assert bool(metrics) or last == "new", state


def write(root: Path, *names: str) -> RunFolder:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("content")
    return RunFolder(root)


def refusal(folder: RunFolder, *, overwrite: bool = False, **inputs: Path) -> str:
    with pytest.raises(ValueError) as error:
        folder.open(resume=False, overwrite=overwrite, inputs=inputs)
    return str(error.value)


def test_empty_folders_of_a_run_hold_nothing(tmp_path: Path) -> None:
    for name in ("checkpoints", "pictures"):
        (tmp_path / name).mkdir()
    RunFolder(tmp_path).check(resume=False, overwrite=False)
    RunFolder(tmp_path).check(resume=False, overwrite=True)


def test_a_run_of_an_earlier_version_is_kept_until_it_is_resumed(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", "config.yaml", "checkpoints/last.safetensors")
    assert "with its file .recycleseg, got" in refusal(folder, overwrite=True)
    assert "delete it by hand" in refusal(folder, overwrite=True)
    assert "exists and is not empty" in refusal(folder)
    folder.open(resume=True, overwrite=False)
    assert folder.config.is_file() and folder.last.is_file()
    assert folder.open(resume=False, overwrite=True) == []
    assert not folder.last.exists()


def test_a_config_yaml_is_no_sign_of_a_run(tmp_path: Path) -> None:
    """Many programs write a file of this name."""
    folder = write(tmp_path / "project", "config.yaml", "imagesTr/a.nii.gz", "dataset.json")
    refusal(folder, overwrite=True)
    assert (tmp_path / "project/imagesTr/a.nii.gz").exists() and folder.dataset.exists()


def test_best_weights_alone_are_work(tmp_path: Path) -> None:
    """Whoever deletes the last checkpoint to save space keeps the result."""
    folder = RunFolder(tmp_path / "run")
    folder.open(resume=False, overwrite=False)
    write(folder.root, "config.yaml", "checkpoints/best.safetensors")
    assert "exists and is not empty" in refusal(folder)
    assert folder.best.exists()


def test_inputs_in_the_folder_are_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open(resume=False, overwrite=False)
    write(folder.root, "config.yaml", "data/imagesTr/a.nii.gz")
    said = refusal(folder, overwrite=True, data=folder.root / "data")
    assert "apart from data, got" in said and "contains it" in said
    (note,) = folder.open(resume=False, overwrite=True)
    assert note.endswith("because recycleseg did not make it: data")
    assert (folder.root / "data/imagesTr/a.nii.gz").exists()
