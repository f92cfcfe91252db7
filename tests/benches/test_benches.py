"""The benches themselves: what runs without --full, and that their imports go one way."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

BENCHES = Path(__file__).resolve().parents[2] / "benches"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(BENCHES).with_suffix("").parts)


def imported_modules(path: Path) -> set[str]:
    """Of all imports in the file, wherever they stand, with the names that they import."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_imports_go_one_way() -> None:
    files = {module_name(path): path for path in BENCHES.rglob("*.py")}
    imports = {name: imported_modules(path) & files.keys() for name, path in files.items()}
    assert imports["workloads"] == {"step_cases", "rivals.monai"}
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError where they go in a circle


def test_every_bench_has_a_part_that_runs_without_full() -> None:
    command = [sys.executable, "-m", "pytest", str(BENCHES), "--collect-only", "-q"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        check=True,
        cwd=BENCHES.parent,
    )
    collected = [line for line in done.stdout.splitlines() if "::" in line]
    files = {Path(line.partition("::")[0]).name for line in collected}
    assert files == {path.name for path in BENCHES.glob("bench_*.py")}
    assert len(collected) <= 90  # each takes seconds, and with torch.compile up to a minute
