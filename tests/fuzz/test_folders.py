"""Damaged input folders of every command: one line for each fault, and never a traceback."""

from __future__ import annotations

import json
import random
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.fuzz.folder_mutations import mutate
from tests.fuzz.harness import SECONDS
from tests.tiny_runs import write_tiny_run

from recycleseg.cli import _common
from recycleseg.cli.data import main as data
from recycleseg.cli.ensemble import main as ensemble
from recycleseg.cli.evaluate import main as evaluate
from recycleseg.cli.predict import main as predict
from recycleseg.cli.train import main as train
from recycleseg.data.probabilities import write_probabilities
from recycleseg.data.volumes import write_volume

Main = Callable[[Sequence[str]], int]
Write = Callable[[Path], None]


def write_discs(folder: Path) -> None:
    """A data set of four small images."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    label = np.zeros((8, 8), np.uint8)
    label[2:5, 3:6] = 1
    for case in range(4):
        image = np.roll(100 * label + 50, case, axis=0).astype(np.uint8)
        write_volume(folder / f"imagesTr/d{case}_0000.png", image, spacing=(0.5, 0.5))
        write_volume(folder / f"labelsTr/d{case}.png", np.roll(label, case, 0), spacing=(0.5, 0.5))
    description = {
        "name": "Discs",
        "channel_names": {"0": "ultrasound"},
        "labels": {"background": 0, "disc": 1},
        "numTraining": 4,
        "file_ending": ".png",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    split = {"train": ["d0", "d1"], "val": ["d2"], "test": ["d3"], "groups": {}}
    split["groups"] = {f"d{case}": f"p{case}" for case in range(4)}
    (folder / "split.json").write_text(json.dumps(split))


def write_images(folder: Path) -> None:
    """Two scans, one of them in compressed form."""
    folder.mkdir()
    image = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    for name in ("a_0000.nii.gz", "b_0000.nii"):
        write_volume(folder / name, image, spacing=(1.0, 1.0, 1.0))


def write_maps(folder: Path) -> None:
    """Label maps of two cases with their probabilities and dataset.json."""
    folder.mkdir()
    label = np.zeros((6, 5), np.uint8)
    label[1:3, 1:4] = 1
    for case in "ab":
        write_volume(folder / f"{case}.png", label, spacing=(1.0, 1.0))
        foreground = 0.8 * label + 0.1
        probs = np.stack([1 - foreground, foreground]).astype(np.float32)
        write_probabilities(folder / f"{case}.npz", probs)
    description = {"labels": {"background": 0, "disc": 1}, "file_ending": ".png"}
    (folder / "dataset.json").write_text(json.dumps({**description, "channel_names": {"0": "x"}}))


TRAIN = [
    *("--patch.size=[8,8]", "--model.channels=[8,8]", "--model.num_res_blocks=1"),
    *("--model.num_heads=2", "--optim.steps=1", "--optim.batch_size=1", "--sampling.num_steps=1"),
    *("--runtime.device=cpu", "--runtime.precision=float32", "--runtime.threads=1"),
    "--runtime.cache=cache",
]


def write_trained_run(folder: Path) -> None:
    """A run of one step on the data set of `write_discs`, to its end."""
    write_discs(folder.with_name("first"))
    assert train(["--data=first", f"--out={folder}", *TRAIN]) == 0


def write_run(folder: Path) -> None:
    """A run folder with random weights."""
    write_tiny_run(folder)


# Name -> command, its arguments, and what writes the folders that they name. The first is damaged.
TARGETS: dict[str, tuple[Main, list[str], dict[str, Write]]] = {
    "train": (train, ["--data=damaged", "--out=out", *TRAIN], {"damaged": write_discs}),
    "train --resume": (
        train,
        ["--data=sound", "--out=damaged", "--resume", *TRAIN],
        {"damaged": write_trained_run, "sound": write_discs},
    ),
    "train --init-from": (
        train,
        ["--data=sound", "--out=out", "--init-from=damaged", *TRAIN],
        {"damaged": write_trained_run, "sound": write_discs},
    ),
    "predict, run": (
        predict,
        ["-m", "damaged", "-i", "images", "-o", "out", "--device", "cpu"],
        {"damaged": write_run, "images": write_images},
    ),
    "predict, images": (
        predict,
        ["-m", "run", "-i", "damaged", "-o", "out", "--device", "cpu"],
        {"damaged": write_images, "run": write_run},
    ),
    "ensemble": (
        ensemble,
        ["-i", "damaged", "sound", "-o", "out", "--save-probabilities"],
        {"damaged": write_maps, "sound": write_maps},
    ),
    "evaluate, predictions": (
        evaluate,
        ["-p", "damaged", "-r", "sound", "-o", "out", "--workers", "1", "--no-report"],
        {"damaged": write_maps, "sound": write_maps},
    ),
    "evaluate, references": (
        evaluate,
        ["-p", "sound", "-r", "damaged", "-o", "out", "--workers", "1", "--no-report"],
        {"damaged": write_maps, "sound": write_maps},
    ),
    "data check": (data, ["check", "damaged"], {"damaged": write_discs}),
    "data show": (data, ["show", "damaged", "-o", "sheet.png"], {"damaged": write_discs}),
    "data split": (data, ["split", "damaged", "--overwrite"], {"damaged": write_discs}),
    "data plan": (data, ["plan", "damaged", "--time", "1h"], {"damaged": write_discs}),
    "data convert": (
        data,
        ["convert", "damaged/imagesTr", "damaged/labelsTr", "out"],
        {"damaged": write_discs},
    ),
}


def complaint(code: int, error: str) -> str:
    """What is wrong with an exit code and the text on stderr, or nothing."""
    if code not in (0, 2, 3):
        return f"exit code {code}"
    first, *others = error.splitlines() or [""]
    if "Traceback" in error or "nobody expected" in error:
        return "a fault of the program"
    if first and not first.startswith("recycle-"):
        return "a line that does not name the command"
    if any(not line.startswith("  ") for line in others):
        return "more than one line"
    if first and not any(folder in error for folder in ("damaged", "sound")):
        return "no file or folder is named"
    return ""


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_folders(
    target: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    count: Callable[[str], None],
) -> None:
    main, arguments, folders = TARGETS[target]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_common, "cache_root", lambda: tmp_path / "memo")
    torch.set_num_threads(1)
    for name, write in folders.items():
        write(tmp_path / f"whole {name}")
        shutil.copytree(f"whole {name}", name)
    assert main(arguments) == 0, capsys.readouterr().err
    end, wrong, number = time.process_time() + SECONDS, [], 0
    while time.process_time() < end or number < 3:
        for name in (*folders, "out", "cache", "memo"):
            remove(tmp_path / name)
        for name in folders:
            shutil.copytree(f"whole {name}", name)
        damage = mutate(tmp_path / "damaged", random.Random(number))
        capsys.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as for a user, whose program goes on
            code = main(arguments)
        error = capsys.readouterr().err
        if problem := complaint(code, error):
            wrong.append(f"damage {number} ({', '.join(damage)}): {problem}: {error}")
        number += 1
    count(f"recycle-{target}: {number} damaged folders, {len(wrong)} answered badly")
    assert not wrong, "\n".join(wrong)


def remove(path: Path) -> None:
    """Delete a file, link or folder."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
