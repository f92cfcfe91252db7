"""Output folders of all commands: one process at a time, and where --overwrite deletes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.tiny_runs import write_tiny_run

from recycleseg.cli import ensemble, evaluate, predict, train
from recycleseg.data.volumes import write_volume
from recycleseg.folders import OwnFolder
from recycleseg.prediction import folder as prediction_folder

# The lock of a process on another machine.
LOCK = ".lock-gpu-07-0badcafe-42-0123456789ab"
COMMANDS = ("train", "predict", "ensemble", "evaluate")
# The option that names an input of the command -> its folder in `work`.
INPUTS = {
    "train": {"--data": "data", "--init-from": "run", "the cache": "cache"},
    "predict": {"--models": "run", "--input": "scans"},
    "ensemble": {"--input": "maps"},
    "evaluate": {"--pred": "maps", "--ref": "refs", "--compare": "others", "--images": "scans"},
}


@pytest.fixture
def work(tmp_path: Path, data: Path) -> Path:
    """A folder with inputs of all commands."""
    root = tmp_path / "work"
    root.mkdir()
    data.rename(root / "data")
    write_tiny_run(root / "run")
    (root / "cache").mkdir()
    rng = np.random.default_rng(0)
    for name in ("maps", "refs", "others", "scans"):
        (root / name).mkdir()
        values = rng.integers(0, 2, (8, 8, 8)).astype(np.uint8)
        write_volume(root / name / "c.nii.gz", values, spacing=(1.0, 1.0, 1.0))
    (root / "maps/dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 1}}))
    return root


@pytest.fixture
def ran(work: Path) -> Callable[..., int]:
    """Runs a command with an output folder and further options, and gives its exit code."""
    options = {
        "train": ["--data", "data", "--init-from", "run", "--runtime.cache", "cache"],
        "predict": ["-m", "run", "-i", "scans", "--device", "cpu"],
        "ensemble": ["-i", "maps"],
        "evaluate": ["-p", "maps", "-r", "refs", "--compare", "others", "--images", "scans"],
    }
    mains = {"train": train, "predict": predict, "ensemble": ensemble, "evaluate": evaluate}

    def run(command: str, out: Path, *further: str) -> int:
        inputs = [str(work / text) if (work / text).exists() else text for text in options[command]]
        return mains[command].main([*inputs, "--out", str(out), *further])

    return run


def content(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", [[], ["--overwrite"], ["--resume"]])
def test_another_process_works_in_the_folder(
    ran: Callable[..., int],
    work: Path,
    command: str,
    option: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(prediction_folder, "_PATIENCE", 0.1)
    if option == ["--resume"] and command != "train":
        return
    out = work.parent / "out"
    out.mkdir()
    (out / LOCK).touch()
    assert ran(command, out, *option) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"recycle-{command}: error: {out}: expected a folder in which nobody works, got one in "
        f"which process 42 of gpu-07 works; if it has ended there, delete {out / LOCK} and run the "
        "command again"
    ]
    assert [path.name for path in out.iterdir()] == [LOCK]


CASES = [
    (command, option, folder, how)
    for command in COMMANDS
    for option, folder in INPUTS[command].items()
    for how in ("is", "contains")
]


@pytest.mark.parametrize(("command", "option", "folder", "how"), CASES)
def test_overwrite_keeps_away_from_inputs(
    ran: Callable[..., int],
    work: Path,
    command: str,
    option: str,
    folder: str,
    how: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where the program made the folder."""
    where = work / folder
    out = {"is": where, "contains": work.parent / "above"}[how]
    if how == "contains":  # this input alone
        out.mkdir()
        where.rename(out / "input")
        where.symlink_to(out / "input")
    out.mkdir(exist_ok=True)
    if kind := {"train": "a run", "evaluate": "an evaluation"}.get(command):
        OwnFolder(out, kind, {}).mark()
    before = content(work.parent)
    assert ran(command, out, "--overwrite") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--overwrite: expected a folder apart from " in line or "--compare: expected" in line
    assert how in line or "for both" in line
    assert content(work.parent) == before


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", ["working", "home"])
def test_overwrite_keeps_away_from_where_the_user_is(
    ran: Callable[..., int],
    work: Path,
    command: str,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = work.parent / "place"
    (out / "inside").mkdir(parents=True)
    if place == "working":
        monkeypatch.chdir(out / "inside")
    else:
        monkeypatch.setenv("HOME", str(out))
    assert ran(command, out, "--overwrite") == 2
    assert (
        f"--overwrite: expected a folder apart from the {place} folder" in capsys.readouterr().err
    )
    assert [path.name for path in out.iterdir()] == ["inside"]


def test_an_evaluation_keeps_results_of_others(
    ran: Callable[..., int], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """nnU-Net writes summary.json too, and so does a run."""
    out = work.parent / "out"
    out.mkdir()
    (out / "summary.json").write_text("of nnU-Net")
    assert ran("evaluate", out) == 2
    error = capsys.readouterr().err
    assert "got summary.json in" in error and "--overwrite" not in error
    assert ran("evaluate", out, "--overwrite") == 2
    error = capsys.readouterr().err
    assert "expected the folder of an evaluation, with its file .recycleseg, got" in error
    assert [path.read_text() for path in out.iterdir()] == ["of nnU-Net"]
