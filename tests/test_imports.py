"""Imports go one way, so that each room can be read and changed without those above it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "python" / "recycleseg"

# Lowest first; a room may import from lower layers, and from the others of its own.
LAYERS = [
    {"_C"},
    {"_ext"},
    {"kernels"},
    {"data"},
    {"ops"},
    {"losses", "diffusion", "metrics"},
    {"models"},
    {"config", "config_ranges", "checkpoint", "compiling"},
    {"factory", "inference", "report", "evaluation"},
    {"training"},
    {"cli"},
]
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
# Rooms that may import these alone.
CLOSED: dict[str, set[str]] = {"_ext": {"_C"}, "kernels": set(), "data": set()}
# Not rooms: the public API, gathered from all of them, and the YAML presets.
OPEN = {"__init__", "presets"}
SOURCES = sorted(PACKAGE.rglob("*.py")) + sorted((ROOT / "kernels").rglob("*.py"))


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE if PACKAGE in path.parents else ROOT)
    return relative.parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> Iterator[str]:
    """First name after `recycleseg.` of every import in the file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            room = rest.partition(".")[0]
            if package == "recycleseg" and room in RANK:
                yield room


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if room_of(p) not in OPEN], ids=lambda p: str(p.relative_to(ROOT))
)
def test_a_file_imports_no_room_above_its_own(path: Path) -> None:
    room = room_of(path)
    assert room in RANK, f"{room} has no place in LAYERS"
    others = set(imported_rooms(path)) - {room}
    assert {other for other in others if RANK[other] > RANK[room]} == set()
    if room in CLOSED:
        assert others <= CLOSED[room]


def test_only_ext_imports_the_compiled_module() -> None:
    importers = {path.name for path in SOURCES if "_C" in imported_rooms(path)}
    assert importers == {"_ext.py"}


def test_only_the_bindings_include_pybind11() -> None:
    includers = {
        path.name
        for path in (ROOT / "csrc").rglob("*.?pp")
        if re.search(r"#\s*include\s*[<\"](pybind11|Python\.h)", path.read_text(encoding="utf-8"))
    }
    assert includers == {"bindings.cpp"}


def test_csrc_and_its_build_use_no_torch() -> None:
    sources = [*(ROOT / "csrc").rglob("*.*"), ROOT / "CMakeLists.txt"]
    pattern = re.compile(r"#\s*include\s*[<\"](torch|ATen|c10)|find_package\(\s*Torch|\bat::")
    assert [p.name for p in sources if pattern.search(p.read_text(encoding="utf-8"))] == []


def test_folders_of_csrc_include_common_and_counts_alone() -> None:
    allowed = {"common": set(), "counts": {"common"}}
    for path in (ROOT / "csrc").glob("*/*"):
        own = path.parent.name
        included = set(re.findall(r'#include "(\w+)/', path.read_text(encoding="utf-8")))
        assert included <= {own} | allowed.get(own, {"common", "counts"}), path


def test_importing_the_package_waits_for_no_module_that_few_calls_use() -> None:
    names = ["scipy.stats", "scipy.ndimage", "matplotlib.figure"]
    code = f"import recycleseg, sys; print([n for n in {names} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
