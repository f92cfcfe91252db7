"""The tasks of a study, with commands that only leave their files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from recycleseg.files import FileError
from recycleseg.study import tasks as tasks_module
from recycleseg.study.design import Design
from recycleseg.study.tasks import StudyFolder, Task

# Writes down its arguments, and leaves what the command would leave.
FAKE = """
import json, sys, time
from pathlib import Path
words = sys.argv[1:]
out = Path(words[words.index("--out" if words[0] == "train" else "-o") + 1])
root = Path.cwd()
with open(root / "calls.jsonl", "a") as calls:
    print(json.dumps(words), file=calls)
out.mkdir(parents=True, exist_ok=True)
if (root / "break").exists() and words[0] == (root / "break").read_text():
    print("a first line")
    sys.exit("recycle-x: error: scan.nii: expected this, got that")
if words[0] == "train":
    (out / "config.yaml").touch()
(out / "summary.json").touch()
"""
DESIGN = Design(
    "data",
    "90s",
    seeds=(0, 1),
    strategies=("recycling_max", "supervised"),
    samplers=("ddim",),
    num_steps=(1, 5),
    settings={"model.channels": [8, 16]},
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks_module, "_ENTRY", FAKE)
    monkeypatch.setattr(tasks_module, "_PAUSE", 0.01)
    root = tmp_path / "study"
    root.mkdir()
    made = StudyFolder(root, DESIGN)
    made.write_settings()
    return made


def calls() -> list[list[str]]:
    return [json.loads(line) for line in Path("calls.jsonl").read_text().splitlines()]


def work(folder: StudyFolder) -> list[str]:
    begun: list[Task] = []
    folder.work(begun.append)
    return [task.name for task in begun]


def test_each_task_once_and_after_those_that_it_needs(folder: StudyFolder) -> None:
    begun = work(folder)
    assert begun == [task.name for task in folder.tasks()]
    assert begun[:3] == [
        "train recycling_max, seed 0",
        "score recycling_max/seed_0/ddim-1",
        "score recycling_max/seed_0/ddim-5",
    ]
    assert len(begun) == 4 + 2 * 2 + 2 + 2 * 2 + 1 + 2
    assert work(folder) == []
    assert not list(folder.root.glob(".work-*"))


def test_all_networks_take_the_settings_and_steps_of_the_first(folder: StudyFolder) -> None:
    work(folder)
    first, *others = (words for words in calls() if words[0] == "train")
    assert first[1:7] == ["--config", str(folder.settings), "--time", "90s", "--optim.steps", "0"]
    assert first[7:9] == ["--strategy", "recycling"] and first[9:11] == [
        "--recycling.prev_step",
        "max",
    ]
    assert folder.settings.read_text() == "model:\n  channels:\n  - 8\n  - 16\n"
    config = str(folder.root / "runs/recycling_max/seed_0/config.yaml")
    assert all(words[1:3] == ["--config", config] for words in others)
    assert [words[words.index("--seed") + 1] for words in others] == ["0", "1", "1"]


def test_a_number_of_steps_that_is_given_counts(folder: StudyFolder) -> None:
    given = StudyFolder(folder.root, replace(DESIGN, settings={"optim.steps": 7}))
    first = next(given.tasks()).commands()[0]
    assert "--time" not in first and "--optim.steps" not in first


def test_how_networks_are_sampled(folder: StudyFolder) -> None:
    work(folder)
    predicted = [words for words in calls() if words[0] == "predict"]
    runs = folder.root / "runs"
    assert predicted[1][1:] == [
        *("-m", str(runs / "recycling_max/seed_0"), "-i", "data", "--split", "test"),
        *("-o", str(folder.root / "predictions/recycling_max/seed_0/ddim-5")),
        *("--sampler", "ddim", "--steps", "5", "--save-steps"),
    ]
    (mixed,) = (w for w in predicted if "recycling_max+supervised/seed_1/ddim-5" in " ".join(w))
    assert mixed[2:4] == [str(runs / "recycling_max/seed_1"), str(runs / "supervised/seed_1")]
    assert "--save-steps" not in mixed
    alone = next(w for w in predicted if w[2] == str(runs / "supervised/seed_0"))
    assert "--sampler" not in alone


def test_a_failed_command_ends_the_study_and_the_next_start_goes_on(folder: StudyFolder) -> None:
    Path("break").write_text("evaluate")
    with pytest.raises(FileError) as error:
        work(folder)
    log = folder.root / "logs/scores/recycling_max/seed_0/ddim-1.txt"
    assert str(error.value) == (
        f"{log}: expected score recycling_max/seed_0/ddim-1 to end with exit code 0, got: "
        "recycle-x: error: scan.nii: expected this, got that"
    )
    Path("break").unlink()
    begun = work(folder)
    assert begun[0] == "score recycling_max/seed_0/ddim-1"
    again = [words for words in calls() if words[0] == "evaluate"]
    assert "--overwrite" not in again[0] and again[1][-1] == "--overwrite"


def test_a_training_that_was_stopped_is_resumed(folder: StudyFolder) -> None:
    run = folder.run("recycling_max", 0)
    run.last.parent.mkdir(parents=True)
    run.last.touch()
    work(folder)
    assert calls()[0][1:4] == ["--config", str(run.config), "--resume"]


def test_two_processes_share_the_tasks(folder: StudyFolder) -> None:
    script = (
        "import sys; from tests.study.test_tasks import FAKE, DESIGN\n"
        "from pathlib import Path\n"
        "from recycleseg.study import tasks\n"
        "tasks._ENTRY, tasks._PAUSE = FAKE, 0.01\n"
        "tasks.StudyFolder(Path(sys.argv[1]), DESIGN).work(lambda task: None)\n"
    )
    here = Path(__file__).parents[2]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(folder.root)],
            env={**os.environ, "PYTHONPATH": str(here)},
        )
        for _ in range(2)
    ]
    assert [process.wait(timeout=100) for process in processes] == [0, 0]
    done = [tuple(words) for words in calls()]
    assert len(done) == len({*done}) == sum(len(task.commands()) for task in folder.tasks())


def test_a_study_that_is_stopped_stops_its_command(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks_module, "_ENTRY", "import time; print(1, flush=True); time.sleep(99)")

    def stop(*_: object) -> int:
        raise KeyboardInterrupt

    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    class Waiting(popen):  # type: ignore[misc,valid-type]
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)
            started.append(self)
            self.asked = 0

        def wait(self, timeout: float | None = None) -> int:
            self.asked += 1
            return stop() if self.asked == 1 else int(super().wait(timeout))

    monkeypatch.setattr(tasks_module.subprocess, "Popen", Waiting)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work(folder)
    assert time.monotonic() - start < 50 and started[0].returncode is not None
