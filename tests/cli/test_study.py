"""`recycle-study` from its options to its tables."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from recycleseg.cli.study import main
from recycleseg.data.phantom import write_phantom
from recycleseg.locks import AMONG, Holder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("data") / "Phantom", num_cases=(2, 1, 1))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(word) for word in arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("recycle-study: error: ")
    return said.removeprefix("recycle-study: error: ").rstrip()


def test_wrong_options_are_named(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"

    def said(*arguments: object) -> str:
        return refusal(capsys, *arguments, "-o", out)

    assert said() == "DATA: expected a data set, or --quick without one"
    assert said(dataset, "--quick") == "DATA: expected a data set, or --quick without one"
    assert said(tmp_path / "none").startswith("DATA: expected a data set, got")
    assert said(dataset, "--seeds", 0) == "--seeds: expected at least 1, got 0"
    assert said(dataset, "--steps", 0, 5).startswith("--steps: expected numbers of at least 1")
    assert "--budget: expected" in said(dataset, "--budget", "soon")
    assert "--strategies" in said(dataset, "--strategies", "recycle")
    assert "--settings: expected a YAML file" in said(dataset, "--settings", tmp_path / "no.yaml")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("optim:\n  batch_size: 0\n")
    assert "optim.batch_size: expected at least 1, got 0" in said(dataset, "--settings", wrong)
    wrong.write_text("strategy: standard\n")
    assert f"{wrong}: expected options that all trainings share, got strategy, which the" in said(
        dataset, "--settings", wrong
    )
    assert not out.exists()


def test_a_data_set_without_test_cases_has_no_study(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(dataset, tmp_path / "copy")
    split = json.loads((copy / "split.json").read_text())
    split["train"] += split.pop("test")
    (copy / "split.json").write_text(json.dumps({**split, "test": []}))
    said = refusal(capsys, copy, "-o", tmp_path / "study")
    assert said == f"DATA: expected test cases in {copy}, got none"


def test_a_quick_study_and_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "study"
    words = ["--quick", "-o", str(out), "--strategies", "recycling_max", "supervised"]
    settings = tmp_path / "settings.yaml"
    settings.write_text("optim:\n  steps: 12\n")
    words += ["--steps", "2", "--settings", str(settings)]
    assert main(words) == 0, "".join(path.read_text() for path in out.rglob("*.txt"))
    said = capsys.readouterr().out
    assert "5 tasks, 0 of them done" in said
    assert "5 of 5: score recycling_max+supervised/seed_0/ddim-2" in said
    with open(out / "cases.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    labels, cases = {row["label"] for row in rows}, {row["case"] for row in rows}
    # Two steps of recycling alone; the supervised network and the ensemble have one.
    assert len(cases) == 6 and len(rows) == len(cases) * len(labels) * (2 + 1 + 1)
    of_recycling = [row for row in rows if row["strategies"] == "recycling_max"]
    assert {row["step"] for row in of_recycling} == {"1", "2"}
    tables = {path.name: path.read_text() for path in (out / "tables").iterdir()}
    assert sorted(tables) == ["ensembles.csv", "steps.csv", "supervised.csv"]
    (row,) = csv.DictReader(tables["supervised.csv"].splitlines())
    assert row["a"] == "recycling_max (ddim-2)" and row["num_patients"] == "6"

    page = (out / "study.html").read_text()
    assert "<svg" in page and "recycling_max against supervised training" in page

    # The same command again only reads what is there, also while another process works.
    Holder(Path(), "", "gpu-07", "0badcafe", 42, "0123456789ab").file(out, AMONG).touch()
    assert main(words) == 0
    assert "5 tasks, 5 of them done" in capsys.readouterr().out
    assert {path.name: path.read_text() for path in (out / "tables").iterdir()} == tables
    assert f"--out: {out} holds another study: " in refusal(capsys, *words, "--seeds", 2)
