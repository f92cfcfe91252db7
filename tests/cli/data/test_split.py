"""`recycle-data split`: what it writes and prints, and wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recycleseg.cli.data import main
from recycleseg.data.layout import read_dataset
from recycleseg.data.splits import SplitRule, shared_patients


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Names of files of ten patients with two scans each; nothing opens the files."""
    root = tmp_path / "Dataset001_Hearts"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for patient in range(10):
        for phase in ("ED", "ES"):
            (root / f"imagesTr/p{patient}_{phase}_0000.nii.gz").touch()
            (root / f"labelsTr/p{patient}_{phase}.nii.gz").touch()
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "heart": 1},
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(description))
    return root


def rows(said: str) -> dict[str, list[int]]:
    """part -> cases and patients, from the printed table."""
    words = [line.split() for line in said.splitlines()]
    return {
        " ".join(row[:-2]): [int(number) for number in row[-2:]]
        for row in words
        if len(row) > 2 and row[-1].isdigit() and row[-2].isdigit()
    }


def test_parts(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["split", str(root), "--test", "0.2", "--seed", "5"]) == 0
    said = capsys.readouterr().out
    assert rows(said) == {"train": [14, 7], "val": [2, 1], "test": [4, 2]}
    assert "20 of 20 cases look like several scans of 10 patients (for example p0_ED and" in said
    assert f"written: {root / 'split.json'}\n" in said
    dataset = read_dataset(root)
    assert [len(cases) for cases in dataset.split.values()] == [14, 2, 4]
    assert (dataset.split_source, dataset.notes) == ("split.json", ())


def test_parts_are_those_of_a_training_without_files(root: Path) -> None:
    drawn = read_dataset(root, SplitRule(seed=3)).split
    assert main(["split", str(root), "--seed", "3"]) == 0
    assert read_dataset(root).split == drawn


def test_folds_as_nnunet_reads_them(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = [read_dataset(root, SplitRule(fold=k, seed=1)).split for k in range(5)]
    assert main(["split", str(root), "--folds", "5", "--seed", "1"]) == 0
    assert rows(capsys.readouterr().out)["fold 4, val"] == [4, 2]
    folds = json.loads((root / "splits_final.json").read_text())
    assert folds == [{part: list(of[part]) for part in ("train", "val")} for of in drawn]
    assert not (root / "split.json").exists()
    assert read_dataset(root, SplitRule(fold=2)).split == drawn[2]


def test_folds_beside_tested_patients(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["split", str(root), "--folds", "4", "--test", "0.2", "--group-by", "^p([0-9])"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert rows(said) == {f"fold {k}, val": [4, 2] for k in range(4)} | {"test": [4, 2]}
    assert "look like" not in said
    written = json.loads((root / "split.json").read_text())
    assert set(written) == {"test", "groups"} and written["groups"]["p3_ES"] == "3"
    for fold in range(4):
        dataset = read_dataset(root, SplitRule(fold=fold))
        assert list(dataset.split["test"]) == written["test"]
        assert [len(cases) for cases in dataset.split.values()] == [12, 4, 4]
        assert shared_patients(dataset.split, dataset.patients) == []


def test_an_existing_split_is_kept(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = {case_id: case_id[1] for case_id in read_dataset(root).cases}
    # A case that is gone is a reason to split again.
    given = {"train": ["gone"], "groups": groups}
    (root / "split.json").write_text(json.dumps(given))
    assert main(["split", str(root)]) == 2
    assert "expected no split, got split.json; use --overwrite" in capsys.readouterr().err
    assert json.loads((root / "split.json").read_text()) == given
    assert main(["split", str(root), "--overwrite"]) == 0
    aside = root / "split-before-1.json"
    assert f"the earlier split is kept as {aside}" in capsys.readouterr().out
    assert json.loads(aside.read_text()) == given
    written = json.loads((root / "split.json").read_text())
    assert written["groups"] == groups
    assert len(written["train"]) == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "11"], "got 11 folds for 20 cases of 10 patients"),
        (["--folds", "1"], "--folds: expected at least 2, got 1"),
        (["--test", "1"], "--test: expected 0 to below 1, got 1"),
        (["--seed", "-1"], "--seed: expected at least 0, got -1"),
        (["--group-by", "ED$"], "finds none in p0_ES, p1_ES"),
        (["--group-by", "none.csv"], "none.csv: expected a table of cases and patients"),
    ],
)
def test_wrong_options_write_nothing(
    root: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["split", str(root), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in root.iterdir()} == {"dataset.json", "imagesTr", "labelsTr"}


def test_groups_without_a_case_are_an_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "split.json").write_text(json.dumps({"train": [], "groups": {}}))
    assert main(["split", str(root), "--overwrite"]) == 2
    said = capsys.readouterr().err
    assert "split.json: groups: expected the patient of every case, got none for" in said
    assert said.count("\n") == 1
