"""Folders of small label maps whose scores are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.maps import cube_map, write_map

from recycleseg.evaluation import FolderScores
from recycleseg.metrics import Scores


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions of c0 (perfect), c1 (shifted by 1), c2 (label 2 missed); references c0 to c4."""
    pred, ref = tmp_path / "pred", tmp_path / "ref"
    for case in range(5):
        write_map(ref / f"c{case}.nii.gz", cube_map())
    write_map(pred / "c0.nii.gz", cube_map())
    write_map(pred / "c1.nii.gz", cube_map(shift=1))
    write_map(pred / "c2.nii.gz", cube_map(core=False))
    return pred, ref


@pytest.fixture
def make_scores() -> Callable[..., FolderScores]:
    """FolderScores of one label from the values of metrics, one number per case."""

    def make(root: str, cases: str = "", **metrics: list[float]) -> FolderScores:
        num = len(next(iter(metrics.values())))
        case_ids = tuple(cases.split()) or tuple(f"c{i}" for i in range(num))
        scores = Scores(
            labels=("tumour",),
            table={
                name: np.array(values, dtype=float)[:, None] for name, values in metrics.items()
            },
            batched=True,
            spacing=None,
            tolerances_mm=(1.0,),
            percentile=95.0,
            definitions=("voxel",),
            border_is_outside=True,
        )
        files = {case_id: Path(root, case_id) for case_id in case_ids}
        return FolderScores(case_ids, {"tumour": 1}, (scores,), files, files, (Path(root),))

    return make
