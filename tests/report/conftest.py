"""Small evaluations to report on, and figures to look into."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from tests.report.chromium import Page, find_chromium, open_chromium

from recycleseg.data.volumes import write_volume
from recycleseg.evaluation import FolderScores
from recycleseg.metrics.evaluate import evaluate
from recycleseg.metrics.scores import Scores

Evaluated = tuple[FolderScores, dict[str, list[Path]]]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A tab of a new browser."""
    executable = find_chromium()
    if executable is None:
        pytest.skip("chromium not found; Debian has it: apt-get install chromium")
    with open_chromium(executable, tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


@pytest.fixture
def evaluated(tmp_path: Path) -> Callable[..., Evaluated]:
    """A function that writes label maps and images of boxes, and gives their scores."""

    def make(
        *,
        case_ids: tuple[str, ...] = ("a", "b", "c", "d", "e", "f", "g"),
        labels: Mapping[str, int | tuple[int, ...]] | None = None,
        dims: int = 3,
        sized: bool = True,
        steps: int = 1,
        entropy: bool = False,
        missed: tuple[int, ...] = (),
        extra: tuple[int, ...] = (),
        absent: tuple[int, ...] = (),
    ) -> Evaluated:
        """Make an evaluation.

        Args:
            case_ids: names of the cases.
            labels: name -> value, or values of a region.
            dims: 2 (PNG) or 3 (NIfTI).
            sized: whether the files of 2D images give the size of their pixels.
            steps: number of sampling steps.
            entropy: whether to write entropy maps.
            missed, extra, absent: indices of the cases in which the first label is only in the
                reference, only in the prediction, or in neither.

        Returns:
            The scores, and case_id -> image files.
        """
        labels = {"shell": 1, "core": 2} if labels is None else dict(labels)
        ending = ".nii.gz" if dims == 3 else ".png"
        shape, spacing = ((20, 24, 16), (1.0, 0.5, 2.0)) if dims == 3 else ((20, 24), (0.5, 1.0))
        if not sized:
            spacing = None
        pred_root, ref_root, image_root = (tmp_path / name for name in ("pred", "ref", "images"))
        for folder in (pred_root / "entropy", ref_root, image_root):
            folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        by_step: list[list[Scores]] = [[] for _ in range(steps)]
        for b, case_id in enumerate(case_ids):
            ref = _box(shape, labels, 0)
            preds = [_box(shape, labels, 1 + (b + steps - k) % 3) for k in range(steps)]
            first = min(_values(labels))
            if b in missed or b in absent:
                preds = [np.where(pred == first, 0, pred).astype(np.uint8) for pred in preds]
            if b in extra or b in absent:
                ref = np.where(ref == first, 0, ref).astype(np.uint8)
            name = f"{case_id}{ending}"
            for folder, label in ((pred_root, preds[-1]), (ref_root, ref)):
                write_volume(folder / name, label, spacing=spacing)
            image = (60 + 50 * ref + rng.normal(0, 9, shape)).clip(0, 255).astype(np.uint8)
            write_volume(image_root / f"{case_id}_0000{ending}", image, spacing=spacing)
            if entropy:
                nats = rng.uniform(0, 0.6, shape).astype(np.float32)
                stored = nats if dims == 3 else (nats * 65535).astype(np.uint16)
                write_volume(pred_root / "entropy" / name, stored, spacing=spacing)
            for k, pred in enumerate(preds):
                by_step[k].append(evaluate(pred, ref, spacing=spacing, labels=labels))
        scores = FolderScores(
            case_ids=case_ids,
            labels=labels,
            by_step=tuple(Scores.join(step) for step in by_step),
            prediction_files={c: pred_root / f"{c}{ending}" for c in case_ids},
            reference_files={c: ref_root / f"{c}{ending}" for c in case_ids},
            prediction_roots=(pred_root,),
        )
        return scores, {c: [image_root / f"{c}_0000{ending}"] for c in case_ids}

    return make


def _values(labels: Mapping[str, int | tuple[int, ...]]) -> list[int]:
    entries = (entry if isinstance(entry, tuple) else (entry,) for entry in labels.values())
    return sorted({value for entry in entries for value in entry})


def _box(
    shape: tuple[int, ...], labels: Mapping[str, int | tuple[int, ...]], shift: int
) -> np.ndarray:
    """One box per value, side by side along the second axis, moved by `shift` along the first."""
    label = np.zeros(shape, np.uint8)
    for index, value in enumerate(_values(labels)):
        label[4 + shift : 12 + shift, 4 + 6 * index : 9 + 6 * index, ...] = value
    if len(shape) == 3:
        label[..., :3] = label[..., -3:] = 0
    return label
