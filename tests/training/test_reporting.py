"""A resumed run goes on with the same data wherever they are, and names what has changed."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from tests.pixel_sizes import set_dpi

from recycleseg.data.volumes import read_volume, write_volume
from recycleseg.run.config import TrainConfig
from recycleseg.training.evaluation import Evaluation
from recycleseg.training.reporting import final_table, validation_line
from recycleseg.training.trainer import Trainer


@pytest.fixture
def config(small_config: TrainConfig, tmp_path: Path) -> TrainConfig:
    """A run on a data set of its own, which is begun."""
    data = shutil.copytree(small_config.data or "", tmp_path / "data")
    config = replace(small_config, data=str(data))
    trainer(config).start(resume=False, overwrite=False)
    return config


def trainer(config: TrainConfig) -> Trainer:
    return Trainer(config, console=Console(file=io.StringIO()))


def resume(config: TrainConfig) -> None:
    trainer(config).start(resume=True, overwrite=False)


def moved(data: Path) -> str:
    return str(data.rename(data.with_name("renamed")))


def copied(data: Path) -> str:
    return str(shutil.copytree(data, data.parent / "deep/copy", copy_function=shutil.copyfile))


@pytest.mark.parametrize(
    "spelling",
    [
        lambda data: f"{data}/",
        lambda data: os.path.relpath(data),
        lambda data: f"{data.parent}/./data/../data",
        moved,
        copied,
    ],
)
def test_the_same_data_go_on(config: TrainConfig, spelling: Callable[[Path], str]) -> None:
    other = spelling(Path(config.data or ""))
    assert other != config.data
    resume(replace(config, data=other))
    saved = json.loads((Path(config.out or "") / "dataset.json").read_text())
    assert list(saved["contents"]) == [f"disc_{case}" for case in range(6)]


def test_changed_cases_are_named(config: TrainConfig) -> None:
    data = Path(config.data or "")
    rng = np.random.default_rng(1)
    for name, values in (("labelsTr/disc_4.png", 3), ("imagesTr/disc_1_0000.png", 256)):
        volume = read_volume(data / name)
        array = rng.integers(0, values, volume.array.shape).astype(np.uint8)
        write_volume(data / name, array, spacing=volume.spacing)
    with pytest.raises(ValueError, match="--resume: image of disc_1, label of disc_4 of the data"):
        resume(config)


def test_changed_test_cases_do_not_matter(config: TrainConfig) -> None:
    path = Path(config.data or "") / "imagesTr/disc_7_0000.png"
    shutil.copyfile(path.with_name("disc_6_0000.png"), path)
    resume(config)


@pytest.mark.parametrize("sized", [True, False])
def test_run_of_an_earlier_version_goes_on(
    small_config: TrainConfig, tmp_path: Path, sized: bool
) -> None:
    data = shutil.copytree(small_config.data or "", tmp_path / "data")
    for image in data.glob("*/*.png") if not sized else ():
        set_dpi(image, None)
    config = replace(small_config, data=str(data))
    trainer(config).start(resume=False, overwrite=False)
    path = Path(config.out or "") / "dataset.json"
    saved = json.loads(path.read_text())
    old = {key: saved[key] for key in saved if key not in ("contents", "pixel_size")}
    if not sized:
        old["spacing"] = [1.0, 1.0]  # what an unknown size counted as
    path.write_text(json.dumps(old))
    resume(config)
    assert json.loads(path.read_text()) == saved
    path.write_text(json.dumps({**old, "spacing": [0.75, 0.75]}))
    with pytest.raises(ValueError, match="--resume: spacing of the data set differ"):
        resume(config)


def test_the_final_table_of_many_classes_is_legible() -> None:
    for number, columns in ((12, 14), (200, 2)):
        names = tuple(f"class {index}" for index in range(number))
        counts = {"a": torch.ones(5, number, 3, dtype=torch.int64)}
        table = final_table(Evaluation(names, counts, {"a": 9}), "test", 7, {})
        assert len(table.columns) == columns
        assert list(table.columns[-1].cells) == ["1.0000 (n=1)"] * 5
    assert table.caption == (
        "summary.json has each of the 200 classes; n: cases with a value; too few for conclusions "
        "about others"
    )


def test_counts_stand_beside_every_mean() -> None:
    full, absent = [[2, 2, 2], [1, 2, 2]], [[0, 0, 0], [1, 2, 2]]
    counts = {f"p{i // 2}_{i % 2}": torch.tensor([full, full if i else absent]) for i in range(12)}
    evaluation = Evaluation(("a", "b"), counts, dict.fromkeys(counts, 9))
    table = final_table(evaluation, "test", 7, {})
    assert table.title == "Dice on the test split (12 cases), weights of step 7"
    assert table.caption == "n: cases with a value"
    assert [list(column.cells) for column in table.columns[1:]] == [
        ["1.0000 (n=12)", "1.0000 (n=11)"],
        ["0.5000 (n=12)"] * 2,
        ["0.7500 (n=12)"] * 2,
    ]
    grouped = final_table(evaluation, "test", 7, {c: c[:2] for c in list(counts)[:10]})
    assert "(12 cases of 7 patients)" in str(grouped.title)
    few = final_table(
        evaluation,
        "test",
        7,
        {c: c[1] for c in list(counts)[:10]}
        | {c: "q" for c in list(counts)[10:]}
        | {c: "r" for c in list(counts)[:4]},
    )
    assert "(12 cases of 5 patients)" in str(few.title)
    assert few.caption == "n: cases with a value; too few for conclusions about others"
    assert validation_line(evaluation, 5) == (
        "step 5: mean validation Dice by sampling step 0.7500 (n=12), 0.7500 (n=12)"
    )
    nothing = Evaluation(("a",), {"x": torch.zeros(1, 1, 3, dtype=torch.int64)}, {"x": 9})
    assert validation_line(nothing, 5).endswith("by sampling step - (n=0)")
