"""What a run says of its data."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tests.pixel_sizes import set_dpi

from recycleseg.data.preprocess import PreprocessConfig
from recycleseg.data.volumes import PixelSize
from recycleseg.run.config import TrainConfig
from recycleseg.training.trainer import Trainer


@pytest.mark.parametrize(
    ("num_screen", "num_none", "pixel_size", "spacing"),
    [
        (0, 0, "auto", "0.5 x 0.5 mm"),
        (3, 5, "auto", "1 x 1 pixels, without sizes in mm"),
        (3, 0, "ignore", "1 x 1 pixels, without sizes in mm"),
        (8, 0, "file", "0.352734 x 0.352734 mm"),  # 2835 pixels per metre
    ],
)
def test_the_plan_tells_what_it_knows_of_pixel_sizes(
    small_config: TrainConfig,
    tmp_path: Path,
    num_screen: int,
    num_none: int,
    pixel_size: PixelSize,
    spacing: str,
) -> None:
    root = tmp_path / "data"
    shutil.copytree(str(small_config.data), root)
    for case, path in enumerate(sorted((root / "imagesTr").iterdir())):
        if case < num_screen + num_none:
            dpi = 72 if case < num_screen else None
            set_dpi(path, dpi)
            set_dpi(root / "labelsTr" / path.name.replace("_0000", ""), dpi)
    preprocess = PreprocessConfig(pixel_size=pixel_size)
    console = Console(file=(said := io.StringIO()), width=400)
    config = replace(small_config, data=str(root), preprocess=preprocess)
    trainer = Trainer(config, console=console)
    trainer.print_plan(trainer.measure_speed())
    rows = dict(
        line.strip().split("  ", 1) for line in said.getvalue().splitlines() if "  " in line
    )
    assert rows["spacing"].strip() == spacing
    assert ("pixel size" in rows) == (pixel_size == "auto" and num_screen > 0)
    if "pixel size" in rows:
        assert rows["pixel size"].strip() == (
            "3 of 8 cases give 72 or 96 dots per inch, the resolution of a screen, so the size of "
            "their pixels in mm counts as unknown; if it is the real size, use "
            "--preprocess.pixel-size file, otherwise write the real size into the files (PNG: "
            "chunk pHYs; TIFF: resolution)"
        )
