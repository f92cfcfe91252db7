"""Shared fixtures: where the arrays of ImgX and the real data are found; counts at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from recycleseg.ops.build_info import build_info
from recycleseg.run.factory import CACHE

SHARED = Path(__file__).resolve().parents[2] / "shared"
REFERENCE_ROOT = Path(os.environ.get("RECYCLESEG_REFERENCE", SHARED / "reference"))
DATA_ROOT = Path(os.environ.get("RECYCLESEG_DATA", SHARED / "data"))

_COUNTS = pytest.StashKey[list[str]]()


def pytest_report_header() -> str:
    """Say at the top which versions are tested."""
    info = build_info()
    return ", ".join(f"{name} {info[name]}" for name in ("recycleseg", "torch", "triton"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from or written to the cache of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE, str(tmp_path_factory.mktemp("user_cache")))
        yield


@pytest.fixture(scope="session")
def count(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Say something at the end of the tests."""
    return pytestconfig.stash.setdefault(_COUNTS, []).append


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the counts."""
    for line in config.stash.get(_COUNTS, []):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def reference() -> Callable[[str], dict[str, np.ndarray]]:
    """Loader of one file of arrays computed by ImgX: name without suffix -> key -> array."""

    def load(name: str) -> dict[str, np.ndarray]:
        path = REFERENCE_ROOT / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"arrays computed by ImgX not found at {path}; set RECYCLESEG_REFERENCE")
        with np.load(path) as arrays:
            return {key: arrays[key] for key in arrays.files}

    return load


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of real data sets in the nnU-Net raw layout."""
    if not DATA_ROOT.is_dir():
        pytest.skip(f"real data not found at {DATA_ROOT}; set RECYCLESEG_DATA")
    return DATA_ROOT


@pytest.fixture(scope="session")
def channels_first() -> Callable[[np.ndarray], torch.Tensor]:
    """Converter from a channel-last array (B, *S, C) to a tensor (B, C, *S)."""
    return lambda array: torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))
