"""What a study consists of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from recycleseg.files import FileError
from recycleseg.run.config import TrainConfig
from recycleseg.run.settings import settings_of
from recycleseg.study.design import (
    STRATEGIES,
    Design,
    check_same_design,
    read_design,
)

DESIGN = Design("data", "10m", seeds=(0, 1, 2), settings={"model.channels": [8, 16]})


def test_every_strategy_is_one_that_recycle_train_knows() -> None:
    known = dict(settings_of(TrainConfig))
    for options in STRATEGIES.values():
        for name, value in options.items():
            assert known[name].read(value) == value


def test_networks_and_their_predictions() -> None:
    assert len(list(DESIGN.networks())) == 18
    assert next(DESIGN.networks()) == ("recycling_max", 0)
    names = [p.name for p in DESIGN.predictions_of("standard", 2)]
    assert names[:2] == ["standard/seed_2/ddim-1", "standard/seed_2/ddim-2"] and len(names) == 8
    assert [p.name for p in DESIGN.predictions_of("supervised", 1)] == [
        "supervised/seed_1/direct-1"
    ]


def test_ensembles_have_two_different_networks() -> None:
    ensembles = list(DESIGN.ensembles())
    assert all(len(set(e.members)) == 2 for e in ensembles)
    names = {e.name for e in ensembles}
    assert len(names) == len(ensembles) == 3 * (8 + 1 + 8)
    members = {e.name: e.members for e in ensembles}
    assert members["supervised+supervised/seed_2/direct-1"] == (
        ("supervised", 2),
        ("supervised", 0),
    )
    two = [e.members for e in replace(DESIGN, seeds=(0, 1)).ensembles()]
    assert two.count((("supervised", 0), ("supervised", 1))) == 1
    assert (("supervised", 1), ("supervised", 0)) not in two
    one = list(replace(DESIGN, seeds=(4,)).ensembles())
    assert {e.strategies for e in one} == {"recycling_max+supervised"}


def test_a_study_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    DESIGN.write(path)
    assert read_design(path) == DESIGN
    check_same_design(path, DESIGN)
    with pytest.raises(ValueError, match=r"seeds is \[0, 1, 2\] there, \[0\] now"):
        check_same_design(path, replace(DESIGN, seeds=(0,)))


@pytest.mark.parametrize("text", ["3", "data: x\n", "data: x\ntime: 1m\nother: 2\n", "[]"])
def test_another_file_is_no_design(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(FileError, match="study.yaml: expected a study's design"):
        read_design(path)
