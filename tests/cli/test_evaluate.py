"""`recycle-evaluate`: what it writes and prints, and wrong input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.pixel_sizes import write_png

from recycleseg.cli.evaluate import main
from recycleseg.data.volumes import read_volume, write_volume

NUM_CASES = 10  # so that p = 2 / 2^10 stays below 0.05 when adjusted for 8 tests


def write_maps(folder: Path, shift: int) -> Path:
    """Boxes that differ from case to case, moved by `shift` voxels."""
    folder.mkdir(parents=True)
    for case in range(NUM_CASES):
        label = np.zeros((14, 8, 8), np.uint8)
        label[2 + shift : 7 + shift, 1:6, 1:6] = 1
        label[3 + shift : 5 + shift, 2:4, 2:4] = 2
        label[0, 0, :case] = 1
        write_volume(folder / f"c{case}.nii.gz", label, spacing=(1.0, 1.0, 1.0))
    return folder


@pytest.fixture
def pred(tmp_path: Path) -> Path:
    return write_maps(tmp_path / "pred", 1)


@pytest.fixture
def ref(tmp_path: Path) -> Path:
    ref = write_maps(tmp_path / "data/labelsTr", 0)
    labels = {"background": 0, "organ": [1, 2], "tumour": [2]}
    (ref.parent / "dataset.json").write_text(json.dumps({"labels": labels}))
    return ref


@pytest.fixture
def arguments(pred: Path, ref: Path, tmp_path: Path) -> list[str]:
    return ["-p", str(pred), "-r", str(ref), "-o", str(tmp_path / "out"), "--no-report"]


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_a_folder(
    arguments: list[str], pred: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    said = capsys.readouterr().out
    out = tmp_path / "out"
    names = [".recycleseg", "metrics.csv", "summary.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert f"{out}: summary.json, metrics.csv" in said
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["mean"]) == {"(1, 2)", "2"}
    assert summary["mean"]["2"]["Dice"] == 0.5
    assert summary["metric_per_case"][0]["prediction_file"] == str(pred / "c0.nii.gz")
    header = (out / "metrics.csv").read_text().splitlines()[0]
    assert header.startswith("case,step,label,dice,")
    assert f"means of {NUM_CASES} cases; n: cases with a value" in said
    assert any(line.split()[:2] == ["tumour", "0.5000"] for line in said.splitlines())


def test_options(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--tolerance-mm", "1", "2.5", "--definitions", "surfel", "--workers", "2"]
    labels = ["--labels", '{"all": [1, 2], "tumour": 2}']
    assert main([*arguments, *options, *labels]) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["settings"]["tolerances_mm"] == [1.0, 2.5]
    assert summary["settings"]["definitions"] == ["surfel"]
    assert summary["class_names"] == {"(1, 2)": "all", "2": "tumour"}
    assert "surfel_nsd_2.5mm" in capsys.readouterr().out


def test_lengths_of_images_without_size_are_in_pixels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = np.zeros((20, 20), np.uint8)
    label[4:12, 4:12] = 1
    for case, dpi in enumerate((None, 72)):
        write_png(tmp_path / f"pred/c{case}.png", np.roll(label, 1, axis=0), dpi)
        write_png(tmp_path / f"ref/c{case}.png", label, dpi)
    out = tmp_path / "out"
    arguments = ["-p", str(tmp_path / "pred"), "-r", str(tmp_path / "ref"), "-o", str(out)]
    assert main([*arguments, "--tolerance-mm", "1", "2"]) == 0
    said = capsys.readouterr().out
    assert "no file gives a pixel size that counts, so all lengths are in pixels" in said
    assert "1 of 2 cases give 72 or 96 dots per inch, the resolution of a screen" in said
    assert "distances in pixels" in said and "nsd_2pixels" in said
    table = (out / "metrics.csv").read_text()
    assert "pred_area_pixels" in table and "mm" not in table
    assert json.loads((out / "summary.json").read_text())["settings"]["tolerances_pixels"] == [1, 2]
    assert "1 pixels, 2 pixels" in (out / "report.html").read_text()
    assert main([*arguments, "--pixel-size", "file", "--overwrite"]) == 2
    assert "expected the size of the pixels in all cases or in none" in error_of(capsys)


def test_steps_are_shown(
    arguments: list[str], pred: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step, shift in ((1, 2), (2, 1)):
        write_maps(pred / f"steps/step_{step}", shift)
    assert main(arguments) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert len(summary["by_step"]) == 2 and summary["by_step"][0] < summary["by_step"][1]
    assert "mean Dice after each sampling step" in capsys.readouterr().out


@pytest.mark.parametrize("evaluated_before", [False, True])
def test_comparison_with_predictions_or_an_evaluation(
    arguments: list[str],
    ref: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    evaluated_before: bool,
) -> None:
    other = write_maps(tmp_path / "perfect", 0)
    if evaluated_before:
        before = tmp_path / "before"
        assert main(["-p", str(other), "-r", str(ref), "-o", str(before), "--no-report"]) == 0
        other = before
    capsys.readouterr()
    assert main([*arguments, "--compare", str(other)]) == 0
    said = capsys.readouterr().out
    comparison = json.loads((tmp_path / "out/comparison.json").read_text())
    assert (comparison["a"], comparison["b"]) == ("pred", "perfect")
    assert {row["verdict"] for row in comparison["rows"]} <= {
        "perfect better",
        "no difference shown",
    }
    (tumour,) = (r for r in comparison["rows"] if (r["label"], r["metric"]) == ("tumour", "dice"))
    assert (tumour["difference"], tumour["verdict"]) == (-0.5, "perfect better")
    assert f"A: pred, B: perfect; {NUM_CASES} cases that both have" in said
    assert "B better" in said and "no difference shown" in said


def test_names_of_a_comparison(arguments: list[str], tmp_path: Path) -> None:
    other = write_maps(tmp_path / "perfect", 0)
    assert main([*arguments, "--compare", str(other), "--names", "old", "new"]) == 0
    comparison = json.loads((tmp_path / "out/comparison.json").read_text())
    assert (comparison["a"], comparison["b"]) == ("old", "new")


def test_bad_cases_are_listed_at_the_end(
    arguments: list[str], pred: Path, ref: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pred / "c1.nii.gz").write_bytes(b"DICM")
    label = read_volume(pred / "c3.nii.gz").array
    write_volume(pred / "c3.nii.gz", label[:-1], spacing=(1.0, 1.0, 1.0))
    assert main(arguments) == 3
    first, *lines = error_of(capsys).splitlines()
    assert first == "recycle-evaluate: 2 cases could not be evaluated"
    assert lines[0].startswith(f"  - {pred / 'c1.nii.gz'}: expected a whole .nii.gz file, got")
    assert lines[1] == (
        f"  - {pred / 'c3.nii.gz'}: expected shape (14, 8, 8) as {ref / 'c3.nii.gz'}, "
        "got (13, 8, 8)"
    )
    assert len(lines) == 2
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert len(summary["metric_per_case"]) == NUM_CASES - 2
    assert list(summary["failed"]) == ["c1", "c3"]


def test_results_are_not_overwritten_unasked(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*arguments, "--compare", str(write_maps(tmp_path / "perfect", 0))]) == 0
    (out / "notes.txt").write_text("precious")
    capsys.readouterr()
    assert main(arguments) == 2
    assert error_of(capsys) == (
        "recycle-evaluate: error: --out: expected a folder without results, got summary.json, "
        f"metrics.csv, comparison.json in {out}; use --overwrite to replace them, or choose "
        "another folder\n"
    )
    assert main([*arguments, "--overwrite"]) == 0
    assert (
        f"kept in {out}, because recycleseg did not make it: notes.txt" in capsys.readouterr().out
    )
    assert sorted(path.name for path in out.iterdir()) == [
        ".recycleseg",
        "metrics.csv",
        "notes.txt",
        "summary.json",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--compare", "gone"], "--compare: expected predictions or an evaluation, got gone, whi"),
        (["--names", "a", "b"], "--names: expected --compare with it, got no --compare"),
        (["--images", "gone"], "--images, --no-report: expected at most one of them, got both"),
        (["--labels", "gone"], "--labels: expected a JSON file or {...}, got gone"),
        (["--labels", '{"a": "b"}'], "--labels: labels: expected name -> value"),
        (["--tolerence-mm", "1"], "unknown option --tolerence-mm; did you mean --tolerance-mm?"),
        (["--tolerance-mm", "one"], "--tolerance-mm: expected a number, got 'one'"),
        (["--tolerance-mm", "-1"], "--tolerance-mm: expected different, finite mm from 0 on, got"),
        (["--definitions", "voxels"], "--definitions: expected voxel or surfel, got 'voxels'"),
        (["--definitions", "voxel", "voxel"], "--definitions: expected different ones, got"),
        (["--workers", "0"], "--workers: expected at least 1, got 0"),
        (["--device", "tpu"], "--device: expected cpu or cuda, got 'tpu'"),
        (["--pred", "gone"], "--pred: expected predictions, got gone, which does not exist"),
        (["--ref", "gone"], "--ref: expected references, got gone, which does not exist"),
    ],
)
def test_wrong_options(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    replaced = {"--pred": "-p", "--ref": "-r"}.get(options[0])
    if replaced is not None:
        at = arguments.index(replaced)
        arguments = [*arguments[:at], *arguments[at + 2 :]]
    assert main([*arguments, *options]) == 2
    error = error_of(capsys)
    assert error.startswith(f"recycle-evaluate: error: {message}")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_comparing_with_what_is_overwritten(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--compare", str(tmp_path)]) == 2  # a folder without label maps
    assert "expected predictions (.nii.gz, .nii, .png, " in error_of(capsys)
    assert (tmp_path / "out/summary.json").exists()  # the first results are not lost
    options = ["--compare", str(tmp_path / "out"), "--overwrite"]
    assert main([*arguments, *options]) == 2
    assert "--compare: expected another folder than --out" in error_of(capsys)


def test_the_report_gets_scores_images_and_comparison(
    arguments: list[str], pred: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def write_report(path: Path, scores: Any, **options: Any) -> None:
        path.write_text("<html>")
        calls.append({"scores": scores, **options})

    monkeypatch.setattr("recycleseg.cli.evaluate.write_report", write_report)
    arguments.remove("--no-report")
    images = tmp_path / "images"
    images.mkdir()
    paths = [images / "c0_0000.nii.gz", images / "c0_0001.nii.gz"]
    for path in paths:
        path.touch()
    listed = {"images": {"c0": [str(path) for path in paths]}}
    (pred / "predict.json").write_text(json.dumps(listed))
    other = write_maps(tmp_path / "perfect", 0)
    assert main([*arguments, "--compare", str(other)]) == 0
    assert main([*arguments, "--images", str(images), "--overwrite"]) == 0
    first, second = calls
    assert first["images"] == second["images"] == {"c0": tuple(paths)}
    assert (first["comparison"].name_b, second["comparison"]) == ("perfect", None)
    assert first["scores"].prediction_roots == (pred,)
    assert all(isinstance(value, str) for value in first["details"].values())
    assert (tmp_path / "out/report.html").exists()
    assert main([*arguments, "--images", str(tmp_path / "data"), "--overwrite"]) == 2


def test_images_are_looked_for_before_the_evaluation(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delattr("recycleseg.cli.evaluate.plan_evaluation")
    arguments.remove("--no-report")
    assert main([*arguments, "--images", str(tmp_path / "data")]) == 2
    assert "data: expected images c0_0000<ending> or c0<ending> of the cases" in error_of(capsys)
    assert not (tmp_path / "out").exists()


def test_an_ignore_label(arguments: list[str], pred: Path, ref: Path, tmp_path: Path) -> None:
    for path in ref.glob("*.nii.gz"):
        label = read_volume(path).array.copy()
        label[:4] = 3
        write_volume(path, label, spacing=(1.0, 1.0, 1.0))
    labels = ["--labels", '{"organ": [1, 2], "tumour": 2, "ignore": 3}']
    arguments = [*arguments, "--compare", str(pred), "--names", "a", "b", *labels]
    arguments.remove("--no-report")
    assert main(arguments) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["settings"]["ignore_label"] == 3
    assert summary["class_names"] == {"(1, 2)": "organ", "2": "tumour"}
    case = summary["metric_per_case"][0]["metrics"]["(1, 2)"]
    # of 14x8x8 voxels the first four rows are ignored; rows 4 to 6 are in both, row 7 in pred alone
    assert (case["TP"], case["FP"], case["FN"], case["TN"]) == (75, 25, 0, 540)
    assert "label 3" in (tmp_path / "out/report.html").read_text(encoding="utf-8")
