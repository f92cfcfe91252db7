"""CUDA sources compile for the GPUs in use, and no kernel spills registers; needs no GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ARCHITECTURES = ("80", "90", "100")
SOURCES = sorted((ROOT / "csrc").rglob("*.cu"))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.skipif(not SOURCES, reason="needs the source tree")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_compiles_without_spills(source: Path, tmp_path: Path) -> None:
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    command = ["nvcc", "-std=c++17", "-O3", "--threads", "2", "-Xptxas", "-v", *targets]
    run = subprocess.run(
        [*command, "-I", str(ROOT / "csrc"), "-c", str(source), "-o", str(tmp_path / "out.o")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", run.stderr)
    assert len(spills) >= len(ARCHITECTURES)
    assert set(spills) == {("0", "0")}
