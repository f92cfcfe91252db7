"""The learning curve from metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from recycleseg.report.curve import save_learning_curve


def write(path: Path, lines: list[dict[str, Any]], end: str = "") -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + end)
    return path


def test_every_number_of_the_log_is_drawn(tmp_path: Path, drawn: list[Figure]) -> None:
    lines: list[dict[str, Any]] = [
        {"step": s, "loss": 2.0 if s == 40 else 1 / s, "lr": 1e-3 / s} for s in range(1, 101)
    ]
    lines[60]["loss"] = None  # was not finite
    for step, a, b in ((50, 0.5, None), (100, 0.8, 0.6)):
        of_classes = {"val_dice/_a": a, "val_dice/b$": b}
        lines.append({"step": step, "val_dice": 0.7, "val_dice_by_step": [0.1, 0.7], **of_classes})
    path = tmp_path / "curve.png"
    save_learning_curve(path, write(tmp_path / "metrics.jsonl", lines, '{"step": 101, "lo'))
    loss, dice, rate = drawn[0].axes
    raw, smoothed = loss.lines
    known = [line for line in lines if line.get("loss") is not None]
    assert list(raw.get_xdata()) == [line["step"] for line in known]
    assert list(raw.get_ydata()) == [line["loss"] for line in known]
    smooth = np.asarray(smoothed.get_ydata())
    assert len(smooth) == 99 and smooth[38:43].max() < 0.05  # one large loss does not move it
    assert loss.get_ylim()[1] < 2.0
    assert [list(line.get_xdata()) for line in dice.lines] == [[50, 100]] * 3
    assert list(dice.lines[0].get_ydata()) == [0.5, 0.8]
    np.testing.assert_array_equal(dice.lines[1].get_ydata(), [np.nan, 0.6])
    assert list(dice.lines[2].get_ydata()) == [0.7, 0.7]
    legend = dice.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["_a", "b$", "mean"]
    assert list(rate.lines[0].get_ydata()) == [line["lr"] for line in lines[:100]]
    with Image.open(path) as picture:
        assert picture.format == "PNG"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_counts_stand_beside_every_mean(tmp_path: Path, drawn: list[Figure]) -> None:
    lines: list[dict[str, Any]] = [
        {"step": 1, "val_dice": 0.5, "val_dice/a": 0.5, "val_num": 4, "val_num/a": 3},
        {"step": 2, "val_dice": 0.6, "val_dice/a": 0.6, "val_num": 4, "val_num/a": 4},
    ]
    save_learning_curve(tmp_path / "curve.png", write(tmp_path / "metrics.jsonl", lines))
    legend = drawn[0].axes[1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a (n=3 to 4)", "mean (n=4)"]


def test_estimates_on_patches_are_dashed(tmp_path: Path, drawn: list[Figure]) -> None:
    """Also before the first validation; classes have the colours of their validations."""
    patches: list[dict[str, Any]] = [
        {"step": step, "patch_dice": 0.3, "patch_dice/a": 0.2, "patch_dice/b": step / 10}
        for step in (1, 2)
    ]
    validation = {"step": 2, "val_dice": 0.5, "val_dice/a": 0.4, "val_dice/b": 0.6}
    for lines in (patches, [*patches, validation]):
        save_learning_curve(tmp_path / "curve.png", write(tmp_path / "metrics.jsonl", lines))
    legends = (["mean, patches"], ["a", "b", "mean", "mean, patches"])
    for figure, names in zip(drawn, legends, strict=True):
        axes = figure.axes[1]
        dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert [list(line.get_ydata()) for line in dashed] == [[0.2, 0.2], [0.1, 0.2], [0.3, 0.3]]
        legend = axes.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == names
        of_classes = [line.get_color() for line in axes.lines if line not in dashed][:2]
        assert of_classes in ([], [line.get_color() for line in dashed[:2]])
    assert [text.get_text() for text in drawn[0].axes[1].texts] == ["no validation yet"]


def test_more_classes_than_colours_differ_by_marker(tmp_path: Path, drawn: list[Figure]) -> None:
    of_classes = {f"val_dice/{n}": n / 30 for n in range(30)}
    lines = [{"step": step, "val_dice": 0.5, **of_classes} for step in (1, 2)]
    save_learning_curve(tmp_path / "curve.png", write(tmp_path / "metrics.jsonl", lines))
    dice = drawn[0].axes[1]
    looks = {(line.get_color(), line.get_marker()) for line in dice.lines}
    assert len(looks) == 31


@pytest.mark.parametrize("lines", [[], [{"step": 1, "loss": None, "lr": 1e-3}]])
def test_a_run_that_has_just_begun(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    save_learning_curve(tmp_path / "curve.png", write(tmp_path / "metrics.jsonl", lines))
    save_learning_curve(tmp_path / "none.png", tmp_path / "missing.jsonl")
    assert (tmp_path / "curve.png").is_file() and (tmp_path / "none.png").is_file()
