"""The notebook runs from its first cell to its last, and shows what it tells of."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "quickstart.ipynb"
# A map of background has 0, this short training about 0.87.
LEAST_DICE = 0.5


def outputs_of(notebook: Any) -> tuple[str, int]:
    """What all cells printed, and how many pictures they drew."""
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    text = "".join(o["text"] for o in outputs if o["output_type"] == "stream")
    return text, sum("image/png" in o.get("data", {}) for o in outputs)


def check(notebook: Any) -> None:
    assert [o for cell in notebook.cells for o in cell.get("outputs", ()) if "ename" in o] == []
    text, pictures = outputs_of(notebook)
    assert pictures == 2
    found = re.search(r"Dice by sampling step: \[(.+)\]", text)
    assert found is not None
    by_step = [float(value) for value in found[1].split(",")]
    assert len(by_step) == 5 and min(by_step) > LEAST_DICE


def test_the_committed_notebook_holds_its_outputs() -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    check(notebook)
    content = NOTEBOOK.read_text(encoding="utf-8")
    assert len(content) < 300_000 and "/tmp" not in content and "/home" not in content


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "nbclient or ipykernel is not installed"
    pytest.importorskip("ipykernel", reason=reason)
    with warnings.catch_warnings():
        # Jupyter's own, and those of the event loop that it runs.
        warnings.simplefilter("ignore")
        nbclient = pytest.importorskip("nbclient", reason=reason)
        nbformat = pytest.importorskip("nbformat", reason=reason)
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        for folder in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
            monkeypatch.setenv(folder, str(tmp_path / folder))
        monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # minutes on cores that others use too
        resources = {"metadata": {"path": str(tmp_path)}}
        nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    check(notebook)
