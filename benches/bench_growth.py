"""Cost grows with the work and no faster: exponents of CPU seconds.

pytest benches/bench_growth.py --benchmark-only -s     # on an idle machine
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from growth import check_growth
from made_cases import LABELS, link_cases, write_cases
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from recycleseg.data.cache import prepare_dataset
from recycleseg.data.layout import read_dataset
from recycleseg.data.preprocess import PreprocessConfig
from recycleseg.diffusion.process import GaussianDiffusion
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.evaluation.folder import evaluate_folder
from recycleseg.evaluation.summary import summarise_folder
from recycleseg.evaluation.table import metrics_csv
from recycleseg.progress import plain_console
from recycleseg.report.html import write_report
from recycleseg.run.config import TrainConfig
from recycleseg.run.options import RuntimeConfig
from recycleseg.sampling.volume import VolumeSampler
from recycleseg.training.data import load_training_data

Work = Callable[[], Any]
STEPS = 2


def prediction(shape: tuple[int, ...], patch: tuple[int, ...], num_classes: int) -> Work:
    """Sampling of a volume by a network that costs nothing: one tensor is its output."""
    logits = torch.linspace(-1, 1, num_classes).view(1, -1, 1, 1, 1)
    output = logits.expand(1, num_classes, *patch)

    def network(image: Tensor, mask: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        return output.expand(len(image), *output.shape[1:])

    diffusion = GaussianDiffusion(NoiseSchedule("linear", 1001).respace(STEPS))
    sampler = VolumeSampler(network, diffusion, num_classes, True, patch, window_batch=1)
    image = torch.zeros(1, *shape)
    return lambda: sampler(image, torch.Generator().manual_seed(0))


@pytest.fixture
def sizes(full: bool) -> list[int]:
    """Numbers of cases."""
    return [2**n for n in range(1, 12 if full else 9)]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, full: bool) -> Path:
    """A data set of as many cases as the largest number."""
    root = tmp_path_factory.mktemp("cases")
    write_cases(root, 2048 if full else 256)
    return root


def test_prediction_against_voxels(benchmark: BenchmarkFixture, full: bool) -> None:
    """27 windows of more and more voxels, so that only the size of all arrays grows."""
    edges = [8, 12, 16, 24, 32, 48, 64, *((96, 128) if full else ())]
    shapes = {(2 * edge) ** 3: (edge,) * 3 for edge in edges}

    def make(voxels: int) -> Work:
        patch = shapes[voxels]
        return prediction((2 * patch[0],) * 3, patch, 4)

    check_growth(benchmark, "prediction", "voxels", list(shapes), make)


def test_prediction_against_windows(benchmark: BenchmarkFixture, full: bool) -> None:
    """A longer and longer volume, of which every further 12 voxels need 9 more windows."""
    numbers = [9 * 2**n for n in range(9 if full else 7)]

    def make(windows: int) -> Work:
        return prediction((12 * (windows // 9 + 1), 48, 48), (24, 24, 24), 4)

    check_growth(benchmark, "prediction", "windows", numbers, make)


def test_prediction_against_classes(benchmark: BenchmarkFixture, full: bool) -> None:
    numbers = [2**n for n in range(1, 8 if full else 6)]
    check_growth(
        benchmark,
        "prediction",
        "classes",
        numbers,
        lambda classes: prediction((64, 64, 64), (32, 32, 32), classes),
    )


def test_preprocessing_against_cases(
    benchmark: BenchmarkFixture, cases: Path, tmp_path: Path, sizes: list[int]
) -> None:
    def make(number: int) -> Work:
        dataset = read_dataset(link_cases(cases, tmp_path / f"data{number}", number))
        caches = len(list(tmp_path.glob("cache*")))
        return partial(
            prepare_dataset, dataset, PreprocessConfig(), tmp_path / f"cache{caches}", workers=1
        )

    check_growth(benchmark, "preprocessing", "cases", sizes, make)


def test_training_start_against_cases(
    benchmark: BenchmarkFixture, cases: Path, tmp_path: Path, sizes: list[int]
) -> None:
    """All cases are in the cache, as for every run but the first."""
    quiet = plain_console(quiet=True)

    def make(number: int) -> Work:
        data = link_cases(cases, tmp_path / f"data{number}", number)
        runtime = RuntimeConfig(cache=str(tmp_path / f"cache{number}"))
        config = TrainConfig(data=str(data), runtime=runtime)
        if not (tmp_path / f"cache{number}").exists():
            load_training_data(config, quiet)
        return lambda: load_training_data(config, quiet).training_cases()

    check_growth(benchmark, "training start", "cases", sizes, make)


def test_evaluation_against_cases(
    benchmark: BenchmarkFixture, cases: Path, tmp_path: Path, sizes: list[int]
) -> None:
    def make(number: int) -> Work:
        labels = link_cases(cases, tmp_path / f"data{number}", number) / "labelsTr"

        def evaluate() -> None:
            scores = evaluate_folder(labels, labels, labels=LABELS, workers=1)
            summarise_folder(scores)
            metrics_csv(scores)

        return evaluate

    check_growth(benchmark, "evaluation", "cases", sizes, make)


def test_report_against_cases(
    benchmark: BenchmarkFixture, cases: Path, tmp_path: Path, sizes: list[int]
) -> None:
    scores = {}

    def make(number: int) -> Work:
        if number not in scores:
            labels = link_cases(cases, tmp_path / f"data{number}", number) / "labelsTr"
            scores[number] = evaluate_folder(labels, labels, labels=LABELS, workers=1)
        page = tmp_path / "report.html"
        return partial(write_report, page, scores[number], title="growth", images={})

    check_growth(benchmark, "report", "cases", sizes, make)
