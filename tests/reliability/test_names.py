"""Every source of names with every hostile name: shown, written to its place, obeyed by nothing."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.hostile_names import FILES, HOSTILE, controls, everything_in
from tests.tiny_runs import write_tiny_run

from recycleseg.classes import Classes
from recycleseg.cli import _common, ensemble, evaluate, predict, train
from recycleseg.cli import data as data_command
from recycleseg.data.cache import prepare_dataset
from recycleseg.data.layout import read_dataset
from recycleseg.data.preprocess import PreprocessConfig
from recycleseg.data.volumes import read_volume, write_volume
from recycleseg.evaluation.table import read_evaluation
from recycleseg.names import case_problem, file_name, printable
from recycleseg.planning.description import plan_yaml
from recycleseg.prediction.case_records import read_with_cases
from recycleseg.prediction.folder import PredictionFolder
from recycleseg.prediction.process import process_cases
from recycleseg.report.contact_sheet import Panel, save_contact_sheet
from recycleseg.report.curve import read_metrics, save_learning_curve
from recycleseg.report.figures import StepsRow, save_steps_figure
from recycleseg.run.config import TrainConfig
from recycleseg.run.folder import run_root
from recycleseg.run.options import RuntimeConfig
from recycleseg.training.logging import RunLogger

hostile = pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
# A folder of many kinds at once.
FOLDER = "d [/b] \x1b[31m\n\u202e<script>=1 \udce9"
Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands work in a folder of the test, and write no hashes to the cache of the user."""
    (tmp_path / "deep/work").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep/work")
    monkeypatch.setattr(_common, "cache_root", lambda: tmp_path / "user_cache")


def square(shift: int = 0) -> np.ndarray:
    label = np.zeros((16, 16), np.uint8)
    label[4 : 10 + shift, 4:10] = 1
    return label


def write_map(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, array, spacing=(1.0, 1.0))


def write_maps(folder: Path, *case_ids: str, shift: int = 0) -> None:
    for case_id in case_ids:
        write_map(folder / f"{case_id}.png", square(shift))


def write_data(root: Path, case_ids: Sequence[str], name: str = "D", label: str = "a") -> Path:
    """A 2D data set whose names are given."""
    write_maps(root / "labelsTr", *case_ids)
    write_maps(root / "imagesTr", *(f"{case_id}_0000" for case_id in case_ids))
    description = {
        "name": name,
        "channel_names": {"0": label},
        "labels": {"background": 0, label: 1},
        "file_ending": ".png",
    }
    (root / "dataset.json").write_text(json.dumps(description))
    return root


def shown_by(output: Output) -> str:
    """What a command printed, in which nothing acts."""
    captured = output.readouterr()
    text = captured.out + captured.err
    assert not controls(text)
    assert "Traceback" not in text
    return text


class Tags(HTMLParser):
    """Attributes, types of scripts and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.attributes: set[str] = set()
        self.scripts: list[str | None] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes |= {name for name, _ in attrs}
        if tag == "script":
            self.scripts.append(dict(attrs).get("type"))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def check_page(path: Path, names: Iterable[str]) -> None:
    page = path.read_text(encoding="utf-8")
    assert not controls(page)
    parsed = Tags(page)
    assert parsed.scripts == ["application/json", None]
    assert not {a for a in parsed.attributes if a.startswith("on")}
    text = "".join(parsed.texts)
    assert all(printable(name) in text for name in names)


def check_cells(path: Path) -> None:
    with path.open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    for cell in cells:
        assert not controls(cell)
        assert not re.match(r"[=@\t\r\uff1d]|[+-](?!\d|inf)|[+-].*[=+@]", cell), cell


def test_evaluate_class_names(tmp_path: Path, capsys: Output) -> None:
    """All hostile names as classes of one evaluation, and of a comparison with it."""
    pixels = np.arange(256).reshape(16, 16) // 4
    labels = {name: value for value, name in enumerate(HOSTILE.values(), 1)}
    pixels[pixels > len(labels)] = 0
    for folder, shift in (("pred", 1), ("ref", 0)):
        for case_id in ("c0", "c1"):
            array = np.roll(pixels, shift, axis=1).astype(np.uint8)
            write_map(tmp_path / folder / f"{case_id}.png", array)
    out, two = tmp_path / "out", tmp_path / "two"
    arguments = ["-p", str(tmp_path / "pred"), "-r", str(tmp_path / "ref"), "--workers", "1"]
    arguments += ["--labels", json.dumps(labels)]
    assert evaluate.main([*arguments, "-o", str(out), "--no-report"]) == 0
    names = ["--names", "A </h2><script>[/b]\x1b[31m", "B \n=1"]
    assert evaluate.main([*arguments, "-o", str(two), "--compare", str(out), *names]) == 0
    text = shown_by(capsys)
    # Long names are folded in their cells.
    assert all(printable(name)[:12].strip() in text for name in labels)
    check_page(two / "report.html", [*labels, *names[1:]])
    check_cells(two / "metrics.csv")
    summary = json.loads((two / "summary.json").read_text())
    assert list(summary["class_names"].values()) == list(labels)
    assert tuple(read_evaluation(two).labels) == tuple(labels)


def test_evaluate_cases(tmp_path: Path, capsys: Output) -> None:
    """All hostile names of files: a name that no case may have costs this case alone."""
    pred, ref, out = tmp_path / FOLDER / "pred", tmp_path / "ref", tmp_path / "out"
    for folder, shift in ((pred, 1), (ref, 0)):
        write_maps(folder, *FILES.values(), shift=shift)
    arguments = ["-p", str(pred), "-r", str(ref), "-o", str(out), "--workers", "1"]
    assert evaluate.main(arguments) == 3
    text = shown_by(capsys)
    summary = json.loads((out / "summary.json").read_text())
    scored = {Path(case["prediction_file"]).stem for case in summary["metric_per_case"]}
    sound = {name for name in FILES.values() if not case_problem(name)}
    refused = {printable(name) for name in set(FILES.values()) - sound}
    assert scored == set(read_evaluation(out).case_ids) == sound
    assert set(summary["failed"]) == refused
    assert all(f"{name}: expected a case name" in text for name in refused)
    check_page(out / "report.html", [*FILES.values(), FOLDER])
    check_cells(out / "metrics.csv")


def predict_stub(case_id: str) -> Any:
    volume = read_volume(Path("image.png"))
    label = torch.from_numpy(volume.array)
    nothing = {"probs": None, "entropy": label.float(), "disagreement": None}
    return SimpleNamespace(label=label, steps=[label], volume=volume, names={"a": 1}, **nothing)


@hostile
def test_files_of_predictions_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    """Also the names of cases that dataset.json lists, which need not be names of files."""
    work = Path.cwd()
    write_volume(work / "image.png", square(), spacing=(1.0, 1.0))
    (tmp_path / "deep/outside.png").write_text("mine")
    before = everything_in(tmp_path)
    cases = ("first", name, "last")
    for overwrite in (False, True):
        folder = PredictionFolder(
            work / "out",
            {"options": {}, "dataset": {"labels": {"background": 0, "a": 1}}},
            endings=dict.fromkeys(cases, ".png"),
            images={case_id: ["image.png"] for case_id in cases},
            sources=[],
        )
        left = folder.open(overwrite=overwrite)
        outcomes = {o.case_id: o.failure for o in process_cases(left, predict_stub, folder)}
        assert outcomes.pop("first") is None and outcomes.pop("last") is None
        failure = outcomes.pop(name)
        assert (failure is None) == (case_problem(name) is None)
    new = {
        path for path in everything_in(tmp_path) - before if not path.startswith("deep/work/out")
    }
    assert not new and (tmp_path / "deep/outside.png").read_text() == "mine"
    written = {path.name for path in (work / "out").iterdir()}
    expected = {"first", "last"} | ({name} if failure is None else set())
    assert written == {"predict.json", "entropy", "steps"} | {f"{case}.png" for case in expected}


def test_outputs_of_two_cases_never_replace_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exists = Path.exists

    def ignoring_case(path: Path) -> bool:
        beside = path.parent.iterdir() if path.parent.is_dir() else ()
        return exists(path) or path.name.casefold() in [p.name.casefold() for p in beside]

    write_volume(Path("image.png"), square(), spacing=(1.0, 1.0))
    for system, refused in ((exists, []), (ignoring_case, ["A"])):
        monkeypatch.setattr(Path, "exists", system)
        folder = PredictionFolder(
            tmp_path / f"out{len(refused)}",
            {"options": {}, "dataset": {"labels": {"background": 0, "a": 1}}},
            endings={"a": ".png", "A": ".png", "b": ".png"},
            images={},
            sources=[],
        )
        left = folder.open(overwrite=False)
        assert sorted(left) == ["A", "a", "b"]
        outcomes = list(process_cases(left, predict_stub, folder))
        assert [o.case_id for o in outcomes if o.failure] == refused
        assert not list(folder.root.glob(".*"))
    failed = read_with_cases(folder.root / "predict.json")["failed"]["A"]
    assert "the file system of" in failed and "that of case a" in failed


def test_data_commands(tmp_path: Path, capsys: Output) -> None:
    name = "../[/b]\x1b[31m"
    root = write_data(tmp_path / FOLDER, ["c0", *FILES.values()], name=name, label=name)
    table = tmp_path / "patients.csv"
    sound = [c for c in ("c0", *FILES.values()) if not case_problem(c) and c == c.strip()]
    patients = [[c, f"{what} of {c}"] for c, what in zip(sound, HOSTILE.values(), strict=False)]
    with table.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file).writerows([row for row in patients if "\n" not in row[1]])
    for verb in (["check", "--all"], ["check"], ["split"], ["show"]):
        code = data_command.main([verb[0], str(root), *verb[1:]])
        assert code == (3 if verb == ["show"] else 0), verb
        text = shown_by(capsys)
        assert r"\x1b[31mred\x1b[0m: expected a case name" in text
        if "--all" in verb:
            refused = [n for n in FILES.values() if case_problem(n)]
            assert all(f"{printable(n)}: expected a case name" in text for n in refused)
    # The table lacks patients; the message quotes them and the path.
    assert data_command.main(["split", str(root), "--overwrite", "--group-by", str(table)]) == 2
    shown_by(capsys)
    assert {"c0", *FILES.values()} - set(read_dataset(root).cases) == set(refused)
    assert everything_in(Path.cwd()) == {f"{root.name}.png"}


def test_split_files_may_name_the_cases_that_are_left_out(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", ["c0", "c1", "caf\udce9"])
    folds = [{"train": ["c0", "caf\udce9"], "val": ["c1"]}, {"train": ["c1"], "val": ["caf\udce9"]}]
    for name, content in (("splits_final.json", folds), ("split.json", folds[0])):
        (root / name).write_text(json.dumps(content))
        assert read_dataset(root).split == {"train": ("c0",), "val": ("c1",), "test": ()}


@hostile
def test_listed_cases(name: str, tmp_path: Path) -> None:
    """The names of cases that dataset.json lists; their files may be anywhere."""
    root = write_data(tmp_path / "d", ["c0", "c1"])
    content = json.loads((root / "dataset.json").read_text())
    files = {"images": ["imagesTr/c0_0000.png"], "label": "labelsTr/c0.png"}
    content["dataset"] = {"c0": files, name: files}
    (root / "dataset.json").write_text(json.dumps(content))
    found = read_dataset(root)
    assert set(found.cases) == {"c0"} | (set() if case_problem(name) else {name})
    assert bool(found.left_out) == bool(found.notes and "left out 1" in found.notes[0])
    cache = tmp_path / "deep/cache"
    before = everything_in(tmp_path)
    prepared = prepare_dataset(found, PreprocessConfig(), cache)
    for case_id in found.cases:
        assert prepared.case(case_id).image.shape == (1, 16, 16)
    assert all(p.startswith("deep/cache") for p in everything_in(tmp_path) - before)


@hostile
def test_names_of_data_sets_make_no_paths(name: str, tmp_path: Path) -> None:
    assert run_root(None, name, "recycling").parent == Path("runs")
    root = write_data(tmp_path / "d", ["c0", "c1"], name=name, label=name)
    before = everything_in(tmp_path)
    prepared = prepare_dataset(read_dataset(root), PreprocessConfig(), tmp_path / "deep/cache")
    assert all(
        entry.parent.parent == tmp_path / "deep/cache" for entry in prepared.entries.values()
    )
    assert prepared.plan.classes.names == ("background", name)
    assert all(p.startswith("deep/cache") for p in everything_in(tmp_path) - before)


@hostile
def test_plans_in_yaml(name: str) -> None:
    choice = SimpleNamespace(option="model.channels", value=[8, 16], reason=f"for {name}")
    text = plan_yaml(SimpleNamespace(choices=[choice]), f"Plan for {name}")  # type: ignore[arg-type]
    assert yaml.safe_load(text) == {"model": {"channels": [8, 16]}}
    assert len(text.splitlines()) == 3 and not controls(text)


def test_logs_and_pictures(tmp_path: Path) -> None:
    names = list(HOSTILE.values())
    with RunLogger(tmp_path / "metrics.jsonl", tmp_path / "tb", 0) as logger:
        logger.log(1, {"loss": 1.0, "lr": 0.1})
        logger.log(2, {"val_dice": 0.5, **{f"val_dice/{name}": 0.5 for name in names}})
    line = read_metrics(tmp_path / "metrics.jsonl")[1]
    assert [key.removeprefix("val_dice/") for key in line][2:] == names
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= {f"val_dice/{printable(name)}" for name in names}
    before = everything_in(tmp_path)
    save_learning_curve(tmp_path / "curve.png", tmp_path / "metrics.jsonl")
    label = torch.from_numpy(square())
    worst = [HOSTILE[what] for what in ("mathematics", "lone surrogate", "long", "forged line")]
    rows = [StepsRow(n, label.float(), label, [label], [0.5], (1.0, 1.0)) for n in worst]
    save_steps_figure(tmp_path / "steps.png", rows, names)
    panels = [Panel(f"{name}, axial", square(), square(), 1.0, ("", "")) for name in worst]
    save_contact_sheet(tmp_path / "sheet.png", panels, {name: 1 for name in names})
    assert everything_in(tmp_path) - before == {"curve.png", "steps.png", "sheet.png"}


def test_ensemble_of_folders_and_cases(tmp_path: Path, capsys: Output) -> None:
    members = [tmp_path / f"{FOLDER}{k}" for k in range(2)]
    for shift, member in enumerate(members):
        write_maps(member, *FILES.values(), shift=shift)
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"labels": {"background": 0, FOLDER: 1}}))
    out = tmp_path / "out"
    assert ensemble.main(["-i", *map(str, members), "-o", str(out), "--labels", str(labels)]) == 3
    text = shown_by(capsys)
    failed = [name for name in FILES.values() if case_problem(name)]
    assert all(printable(name) in text for name in (*failed, FOLDER))
    sound = {f"{name}.png" for name in FILES.values() if not case_problem(name)}
    assert everything_in(out) == {"predict.json", *sound}


def test_convert(tmp_path: Path, capsys: Output) -> None:
    for folder in ("images", "masks"):
        write_maps(tmp_path / folder, *FILES.values())
    out = tmp_path / "new"
    given = ["convert", *(str(tmp_path / f) for f in ("images", "masks")), str(out)]
    code = data_command.main([*given, "--name", FOLDER, "--labels", json.dumps({FOLDER: 1})])
    assert code == 0, shown_by(capsys)
    shown_by(capsys)
    renamed = {n: file_name(n) for n in FILES.values() if case_problem(n)}
    cases = set(read_dataset(out).cases)
    assert len(cases) == len(FILES) and set(renamed.values()) <= cases
    assert len({case_id.casefold() for case_id in cases}) == len(cases)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 2D run whose classes have all hostile names at once."""
    root = tmp_path_factory.mktemp("runs") / "[/b] \x1b[31m"
    names = ("background", *HOSTILE.values())
    return write_tiny_run(root, classes=Classes(names), spatial_dims=2, channel_names=("$[/x]",))


def test_predict_goes_on_with_the_other_cases(
    tiny_run: Path, tmp_path: Path, capsys: Output
) -> None:
    names = list(FILES.values())
    write_maps(tmp_path / "scans", *names)
    arguments = ["-m", str(tiny_run), "-i", str(tmp_path / "scans"), "-o", str(tmp_path / "out")]
    assert predict.main([*arguments, "--device", "cpu", "--steps", "1"]) == 3
    text = shown_by(capsys)
    sound = {name for name in names if not case_problem(name)}
    assert all(printable(name) in text for name in set(names) - sound)
    assert everything_in(tmp_path / "out") == {"predict.json", *(f"{name}.png" for name in sound)}
    record = json.loads((tmp_path / "out/predict.json").read_text())
    assert set(record["failed"]) == set(names) - sound


def test_predict_names_the_cases_that_a_data_set_leaves_out(
    tiny_run: Path, tmp_path: Path, capsys: Output
) -> None:
    root, out = write_data(tmp_path / "d", ["c0", "c1", "caf\udce9"]), tmp_path / "out"
    arguments = ["-m", str(tiny_run), "-i", str(root), "-o", str(out), "--device", "cpu"]
    assert predict.main([*arguments, "--steps", "1", "--split", "all"]) == 3
    assert r"caf\xe9: expected a case name in UTF-8" in shown_by(capsys)
    assert everything_in(out) == {"predict.json", "c0.png", "c1.png"}


def test_a_terminal_that_cannot_write_a_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("pred", "ref"):
        write_maps(tmp_path / folder, "c0")
    written = {name: io.BytesIO() for name in ("stdout", "stderr")}
    for name, stream in written.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding="ascii"))
    arguments = ["-p", str(tmp_path / "pred"), "-r", str(tmp_path / "ref"), "--no-report"]
    for labels, code in (({"\u5de6": 1}, 0), ({"\u5de6": 2}, 2)):
        out = str(tmp_path / f"out{code}")
        assert evaluate.main([*arguments, "-o", out, "--labels", json.dumps(labels)]) == code
    assert evaluate.main([*arguments, "-o", "\u5de6", "--labels", "\u5de6"]) == 2
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    assert all(rb"\u5de6" in content.getvalue() for content in written.values())


@pytest.mark.parametrize("option", ["data", "out", "cache", "split_file", "init_from"])
def test_texts_that_the_files_of_a_run_cannot_hold(option: str) -> None:
    path = "/caf\udce9"
    options: dict[str, Any] = {option: path}
    if option == "cache":
        options = {"runtime": RuntimeConfig(cache=path)}
    with pytest.raises(ValueError, match=rf"{option}: expected text in UTF-8, got /caf\\xe9$"):
        TrainConfig(**options)


def test_train_refuses_a_data_set_that_its_files_cannot_name(
    tmp_path: Path, capsys: Output
) -> None:
    root = write_data(tmp_path / "caf\udce9", ["c0", "c1"])
    assert train.main(["--data", str(root)]) == 2 and everything_in(Path.cwd()) == set()
    assert rf"data: expected text in UTF-8, got {tmp_path}/caf\xe9" in shown_by(capsys)


def test_train_with_hostile_names_everywhere(tmp_path: Path, capsys: Output) -> None:
    cases = ["c0", "c1", *FILES.values()]
    root = write_data(tmp_path / FOLDER[:-2], cases, name="../../[/b]\x1b[31m")
    content = json.loads((root / "dataset.json").read_text())
    content["labels"] = {"background": 0, **{n: k for k, n in enumerate(HOSTILE.values(), 1)}}
    content["channel_names"] = {"0": "$[/x]\x1b[31m"}
    (root / "dataset.json").write_text(json.dumps(content))
    options = {
        **{"data": root, "optim.steps": 1, "validation.every": 1, "sampling.num_steps": 1},
        **{"model.channels": [8], "model.num_heads": 2, "runtime.threads": 1},
        **{"runtime.cache": tmp_path / "cache", "runtime.device": "cpu", "final_split": "val"},
    }
    before = everything_in(tmp_path)
    assert train.main([f"--{key}={value}" for key, value in options.items()]) == 0
    text = shown_by(capsys)
    assert "left out" in text and r"\x1b[31mred\x1b[0m: expected a case name" in text
    (run,) = Path("runs").iterdir()
    assert run == run_root(None, "../../[/b]\x1b[31m", "recycling")
    assert not controls((run / "plan.yaml").read_text())
    assert yaml.safe_load((run / "config.yaml").read_text())["data"] == str(root)
    new = everything_in(tmp_path) - before
    assert all(p.startswith(("deep/work/runs", "cache", "user_cache")) for p in new)
    # The run can be used.
    assert train.main(["--config", str(run / "config.yaml"), "--resume"]) == 0
    scan = str(root / "imagesTr/c0_0000.png")
    assert predict.main(["-m", str(run), "-i", scan, "-o", str(tmp_path / FOLDER / "out")]) == 0
    shown_by(capsys)
