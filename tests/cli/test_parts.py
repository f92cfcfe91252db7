"""`--part` of recycle-predict and recycle-evaluate, and the systems that say which part it is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tiny_runs import write_tiny_run

from recycleseg.cli.evaluate import main as evaluate
from recycleseg.cli.predict import main as predict
from recycleseg.data.volumes import write_volume
from recycleseg.parts import chosen_part
from recycleseg.run.device import own_gpu

OTHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "JOB_COMPLETION_INDEX", "JOB_COMPLETION_COUNT")


@pytest.fixture(autouse=True)
def no_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may themselves run where a system sets these variables."""
    for name in os.environ:
        if name in OTHERS or name.startswith("SLURM_"):
            monkeypatch.delenv(name)


def array(index: int, first: int = 0, last: int = 7, step: int = 1, count: int = 8) -> Any:
    names = ("ID", "MIN", "MAX", "STEP", "COUNT")
    values = (index, first, last, step, count)
    return {f"SLURM_ARRAY_TASK_{n}": str(v) for n, v in zip(names, values, strict=True)}


def step(process: int, count: int) -> dict[str, str]:
    return {"SLURM_PROCID": str(process), "SLURM_STEP_NUM_TASKS": str(count)}


# In the script of a job of four tasks, where only one process runs.
SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}
TORCHRUN = {"RANK": "2", "WORLD_SIZE": "4"}
KUBERNETES = {"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETION_COUNT": "5"}
GIVEN: dict[str, tuple[Mapping[str, str], str, str]] = {
    "nothing": ({}, "1/1", "--part"),
    "torchrun": (TORCHRUN, "3/4", "torchrun (RANK=2)"),
    "one process": ({"RANK": "0", "WORLD_SIZE": "1"}, "1/1", "torchrun (RANK=0)"),
    "torchrun in an array": ({**array(5), **TORCHRUN}, "3/4", "torchrun (RANK=2)"),
    "a rank alone": ({"RANK": "2"}, "1/1", "--part"),
    "array": (array(5), "6/8", "Slurm's job array (task 5)"),
    "array from 1": (array(8, 1, 8), "8/8", "Slurm's job array (task 8)"),
    "array by 2": (array(5, 1, 15, 2), "3/8", "Slurm's job array (task 5)"),
    "two of an array": (array(9, 4, 9, 5, 2), "2/2", "Slurm's job array (task 9)"),
    "script": ({**array(5), **SCRIPT}, "6/8", "Slurm's job array (task 5)"),
    "script without array": (SCRIPT, "1/1", "--part"),
    "step": (step(3, 4), "4/4", "Slurm's job step (SLURM_PROCID=3)"),
    "step of an array": (
        {**array(1, 0, 2, 1, 3), **step(3, 4)},
        "8/12",
        "Slurm's job array (task 1) and Slurm's job step (SLURM_PROCID=3)",
    ),
    "kubernetes": (KUBERNETES, "3/5", "Kubernetes' indexed job (JOB_COMPLETION_INDEX=2)"),
    "empty": ({**dict.fromkeys(array(1), ""), "RANK": "", "WORLD_SIZE": ""}, "1/1", "--part"),
}


@pytest.mark.parametrize(("environment", "part", "source"), GIVEN.values(), ids=GIVEN)
def test_the_system_says_which_part(environment: dict[str, str], part: str, source: str) -> None:
    found = chosen_part(None, environment)
    assert (str(found), found.source) == (part, source)
    assert str(chosen_part("2/3", environment)) == "2/3"


def test_an_array_has_the_last_number_alone() -> None:
    known = array(6)
    del known["SLURM_ARRAY_TASK_COUNT"], known["SLURM_ARRAY_TASK_STEP"]
    assert str(chosen_part(None, known)) == "7/8"


GPUS: dict[str, tuple[int, Mapping[str, str], str]] = {
    "torchrun": (4, {"LOCAL_RANK": "2"}, "cuda:2"),
    "more processes than GPUs": (2, {"LOCAL_RANK": "5"}, "cuda:1"),
    "one is visible": (1, {"LOCAL_RANK": "2"}, "auto"),
    "none": (0, {"LOCAL_RANK": "2"}, "auto"),
    "step": (4, {"SLURM_LOCALID": "3", "SLURM_STEP_NUM_TASKS": "8"}, "cuda:3"),
    "script": (4, {"SLURM_LOCALID": "0"}, "auto"),
    "nothing": (4, {}, "auto"),
}


@pytest.mark.parametrize(("gpus", "environment", "device"), GPUS.values(), ids=GPUS)
def test_each_process_takes_its_own_gpu(
    gpus: int, environment: dict[str, str], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert own_gpu("auto") == device
    assert own_gpu("cpu") == "cpu" and own_gpu("cuda:1") == "cuda:1"


@pytest.mark.parametrize("number", [1, 2, 3, 7, 12])
def test_every_case_is_in_one_part(number: int) -> None:
    cases = [f"c{k}" for k in range(10)]
    parts = [chosen_part(f"{k}/{number}").share(cases) for k in range(1, number + 1)]
    assert sorted(case for part in parts for case in part) == cases
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


ALL = "--part 1/1 takes all cases"
WRONG = {
    **{
        text: (text, {}, f"--part: expected I/N with I from 1 to N, such as 2/8, got {text}")
        for text in ("0/4", "5/4", "3", "a/b", "-1/4", "1/0", "1/4/2", "1.5/4", " 1/4")
    },
    "rank": (
        None,
        {"RANK": "4", "WORLD_SIZE": "4"},
        f"RANK: expected a number below 4, got 4; {ALL}",
    ),
    "text": (
        None,
        {"RANK": "first", "WORLD_SIZE": "4"},
        f"RANK: expected a number from 0 on, got first; {ALL}",
    ),
    "list": (
        None,
        array(3, 0, 17, 1, 3),
        "SLURM_ARRAY_TASK_ID: expected evenly spaced numbers, as of --array=0-7 or 1-15:2, got 3 "
        f"of 3 from 0 to 17; give the part as --part I/N, or {ALL}",
    ),
    "array without range": (
        None,
        {"SLURM_ARRAY_TASK_ID": "3"},
        f"SLURM_ARRAY_TASK_MIN: expected a number from 0 on, got nothing; {ALL}",
    ),
    "step without number": (
        None,
        {"SLURM_STEP_NUM_TASKS": "4"},
        f"SLURM_PROCID: expected a number from 0 on, got nothing; {ALL}",
    ),
    "kubernetes": (
        None,
        {"JOB_COMPLETION_INDEX": "3"},
        "JOB_COMPLETION_COUNT: expected the job's completions, because Kubernetes gives "
        f"JOB_COMPLETION_INDEX alone, got no such variable; set it in the pod, or {ALL}",
    ),
    "kubernetes' count": (
        None,
        {"JOB_COMPLETION_INDEX": "3", "JOB_COMPLETION_COUNT": "3"},
        f"JOB_COMPLETION_INDEX: expected a number below 3, got 3; {ALL}",
    ),
}


@pytest.mark.parametrize(("option", "environment", "line"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_wrong_part_is_one_line(
    option: str | None,
    environment: dict[str, str],
    line: str,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    write_scans(tmp_path / "a", "c0")
    words = {"predict": ["-m", "a", "-i", "a"], "evaluate": ["-p", "a", "-r", "a"]}[command]
    words = [str(tmp_path / word) if word == "a" else word for word in words]
    words += ["-o", str(tmp_path / "out"), *([] if option is None else [f"--part={option}"])]
    assert {"predict": predict, "evaluate": evaluate}[command](words) == 2
    assert capsys.readouterr().err == f"recycle-{command}: error: {line}\n"
    assert not (tmp_path / "out").exists()


def write_scans(folder: Path, *case_ids: str) -> Path:
    folder.mkdir()
    for seed, case_id in enumerate(case_ids):
        image = np.random.default_rng(seed).integers(0, 3, (8, 8)).astype(np.uint8)
        write_volume(folder / f"{case_id}.png", image, spacing=None)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "predict.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_parts_of_a_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_tiny_run(tmp_path / "run", spatial_dims=2)
    scans = write_scans(tmp_path / "scans", *(f"c{k}" for k in range(5)))
    (scans / "c4.png").write_bytes(b"no image")
    words = ["-m", str(run), "-i", str(scans), "--device", "cpu", "-o"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert predict([*words, str(whole)]) == 3
    assert "because of" not in capsys.readouterr().out
    for index, number, others in ((1, 2, "0 of 3"), (0, 2, "1 of 3"), (2, 1, "3 of 4")):
        with monkeypatch.context() as patch:
            for name, value in array(index, 0, 2, 1, 3).items():
                patch.setenv(name, value)
            assert predict([*words, str(out)]) == (3 if index == 1 else 0)
        said = capsys.readouterr().out
        assert said.splitlines()[0] == (
            f"part {index + 1}/3: {number} of 5 cases, because of Slurm's job array (task {index})"
            "; --part 1/1 takes all cases"
        )
        assert f"of the other parts {others} cases are there" in said
    assert contents(out) == contents(whole)
    told, known = (json.loads((f / "predict.json").read_text()) for f in (out, whole))
    assert sorted(told["seconds"]) == ["c0", "c1", "c2", "c3"]
    assert (told["failed"], told["contents"]) == (known["failed"], known["contents"])
    # A part that died is taken up by the same command, or by one for all.
    (out / "c2.png").unlink()
    assert predict([*words, str(out), "--part", "3/3"]) == 0
    assert "predicted 1, already there 0, failed 0" in capsys.readouterr().out
    (out / "c2.png").unlink()
    assert predict([*words, str(out), "--part", "1/1"]) == 3
    assert contents(out) == contents(whole)
    assert predict([*words, str(out), "--part", "2/3", "--overwrite"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "recycle-predict: error: --overwrite: expected all cases, got part 2/3 because of --part; "
        "choose another --out, or delete the folder by hand"
    )
    assert contents(out) == contents(whole)


def write_maps(root: Path, name: str, seed: int) -> Path:
    """Label maps with steps, some of which miss a structure or have it where no reference has."""
    rng = np.random.default_rng(seed)
    for folder in (name, f"{name}/steps/step_1", f"{name}/steps/step_2"):
        (root / folder).mkdir(parents=True)
        for case in range(7):
            label = np.zeros((12, 12), np.uint8)
            top, left = rng.integers(1, 5, 2)
            label[top : top + 5, left : left + 4] = 1
            if case and (case + seed) % 3:
                label[top + 1, left + 1] = 2
            path = root / folder / f"p{case // 2}_{case}.png"
            write_volume(path, label, spacing=(0.7, 0.7))
    return root / name


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
@pytest.mark.parametrize("extra", ["plain", "compare", "compare an evaluation"])
def test_parts_of_an_evaluation(
    tmp_path: Path, order: tuple[int, ...], extra: str, capsys: pytest.CaptureFixture[str]
) -> None:
    maps, other = write_maps(tmp_path, "maps", 0), write_maps(tmp_path, "other", 1)
    reference = write_maps(tmp_path, "reference", 2)
    (maps / "p1_3.png").write_bytes(b"no image")
    words = ["-p", str(maps), "-r", str(reference), "--tolerance-mm", "1", "2.5"]
    if extra == "compare an evaluation":
        before = tmp_path / "before"
        assert evaluate(["-p", str(other), "-r", str(reference), "-o", str(before)]) == 0
        words += ["--compare", str(before)]
        words.remove("2.5")  # which is not in that evaluation
    elif extra == "compare":
        words += ["--compare", str(other), "--names", "ours", "theirs"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert evaluate([*words, "-o", str(whole)]) == 3
    told = capsys.readouterr()
    for k, number in enumerate(order):
        assert not (out / "summary.json").exists()
        code = evaluate([*words, "-o", str(out), "--part", f"{number}/3"])
        said = capsys.readouterr()
        assert f"part {number}/3: {3 if number == 1 else 2} of 7 cases, because of --part" in (
            said.out
        )
        if k < 2:
            left = ", ".join(f"{n}/3" for n in sorted(order[k + 1 :]))
            assert f"part {number}/3 is there, not yet {left}\n" in said.out
            assert code == (3 if number == 1 else 0)  # p1_3 is the fourth case
    assert code == 3 and said.err == told.err
    assert contents(out) == contents(whole)
    assert b"inf" in (out / "metrics.csv").read_bytes()
    assert b"nan" in (out / "metrics.csv").read_bytes()


def test_parts_of_other_files_or_options_are_not_joined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps, reference = write_maps(tmp_path, "maps", 0), write_maps(tmp_path, "reference", 2)
    words = ["-p", str(maps), "-r", str(reference), "--no-report", "-o", str(tmp_path / "out")]
    assert evaluate([*words, "--part", "1/2"]) == 0
    assert evaluate([*words, "--part", "2/2", "--tolerance-mm", "2"]) == 0
    assert capsys.readouterr().out.endswith("part 2/2 is there, not yet 1/2\n")
    (maps / "p0_0.png").write_bytes((maps / "p0_1.png").read_bytes())
    assert evaluate([*words, "--part", "2/2"]) == 0
    assert capsys.readouterr().out.endswith("part 2/2 is there, not yet 1/2\n")
    (tmp_path / "out/parts/2-of-2.json").write_text('{"of": 3')
    assert evaluate([*words, "--part", "1/2"]) == 0
    assert capsys.readouterr().out.endswith("part 1/2 is there, not yet 2/2\n")
    assert evaluate([*words, "--part", "2/2"]) == 0
    names = [".recycleseg", "metrics.csv", "summary.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert evaluate([*words, "--part", "2/2"]) == 2
    assert "--out: expected a folder without results" in capsys.readouterr().err
    assert evaluate([*words, "--part", "2/2", "--overwrite"]) == 0
    assert (tmp_path / "out/summary.json").exists()  # until the last part is there


def test_more_parts_than_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maps, reference = write_maps(tmp_path, "maps", 0), write_maps(tmp_path, "reference", 2)
    words = ["-p", str(maps), "-r", str(reference), "--no-report", "-o"]
    assert evaluate([*words, str(tmp_path / "whole")]) == 0
    for number in range(9, 0, -1):
        assert evaluate([*words, str(tmp_path / "out"), "--part", f"{number}/9"]) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
