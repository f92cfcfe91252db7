"""The picture of a prediction at every sampling step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recycleseg.report.figures import PALETTE, StepsRow, save_steps_figure


def row(case_id: str, shape: tuple[int, ...], steps: int) -> StepsRow:
    truth = torch.zeros(shape, dtype=torch.uint8)
    middle = tuple(slice(n // 4, n // 2) for n in shape)
    truth[middle] = 1
    return StepsRow(case_id, torch.zeros(shape), truth, [truth] * steps, [1.0] * steps)


@pytest.mark.parametrize("shape", [(20, 16), (20, 16, 8)])
def test_picture_has_a_column_per_step(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "steps.png"
    save_steps_figure(path, [row("a", shape, 5), row("b", shape, 5)])
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    colour = np.array([int(PALETTE[0][i : i + 2], 16) for i in (1, 3, 5)]) // 2
    tinted = (np.abs(pixels - colour) <= 1).all(-1)
    # Truth and five steps are blocks of tinted pixels; the column of the image has none.
    columns = tinted.any(0).astype(int)
    assert (np.diff(columns) == 1).sum() == 6


def test_constant_image_and_nothing_labelled(tmp_path: Path) -> None:
    empty = StepsRow("empty", torch.ones(6, 6), torch.zeros(6, 6), [torch.zeros(6, 6)], [0.0])
    save_steps_figure(tmp_path / "steps.png", [empty])
    assert (tmp_path / "steps.png").stat().st_size > 0
