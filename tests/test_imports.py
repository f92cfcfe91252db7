"""Imports go one way, so that each room can be read and changed without those above it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Where the names of modules begin. The folder kernels/ gets its package when it is installed.
PACKAGES = {"recycleseg": ROOT / "python" / "recycleseg", "recycleseg.kernels": ROOT / "kernels"}
BENCHES = {"": ROOT / "benches"}

# Lowest first. A room imports from itself and from lower layers alone.
LAYERS = [
    {"_C", "kernels", "names", "rows"},
    {"files", "locks", "parts", "progress", "units", "watchdog"},
    {"_ext", "classes", "errors", "folders", "limits", "workers"},
    {"ops", "processes"},
    {"data", "losses", "metrics", "models"},
    {"diffusion"},
    {"sampling"},
    {"run"},
    {"planning"},
    {"prediction"},
    {"evaluation"},
    {"report"},
    {"study", "training"},
    {"cli"},
]
# Not rooms: the public API, gathered from all of them, and the YAML presets.
OPEN = {"__init__", "presets"}


def modules_in(packages: Mapping[str, Path]) -> dict[str, Path]:
    """Dotted name of every module -> its file; of the compiled one its stub."""
    found = {}
    for package, folder in packages.items():
        for path in [*folder.rglob("*.py"), *folder.rglob("*.pyi")]:
            parts = [*filter(None, [package]), *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports_of(path: Path, modules: Mapping[str, Path]) -> set[str]:
    """Modules that a file imports, wherever it does so: also in functions and for types alone."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in modules else str(node.module))
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name in modules and modules[name] != path}


def room_of(module: str) -> str:
    """First name after `recycleseg.`."""
    return (module.split(".") + ["__init__"])[1]


def upward_imports(modules: Mapping[str, Path]) -> list[tuple[str, str]]:
    """Pairs of modules of which the first imports the second against the order of LAYERS."""
    rank = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
    found = []
    for module, path in modules.items():
        room = room_of(module)
        if room in OPEN:
            continue
        assert room in rank, f"{room} has no place in LAYERS"
        for other in imports_of(path, modules):
            if room_of(other) != room and rank[room_of(other)] >= rank[room]:
                found.append((module, other))
    return sorted(found)


def circles(modules: Mapping[str, Path]) -> Iterator[list[str]]:
    """Modules that import each other, over however many others: each circle that a walk meets."""
    graph = {module: sorted(imports_of(path, modules)) for module, path in modules.items()}
    done: set[str] = set()

    def walk(module: str, trail: list[str]) -> Iterator[list[str]]:
        if module in trail:
            yield [*trail[trail.index(module) :], module]
        elif module not in done:
            for other in graph[module]:
                yield from walk(other, [*trail, module])
            done.add(module)

    for module in graph:
        yield from walk(module, [])


def test_a_file_imports_no_room_above_its_own() -> None:
    assert upward_imports(modules_in(PACKAGES)) == []


@pytest.mark.parametrize("packages", [PACKAGES, BENCHES], ids=["package", "benches"])
def test_no_files_import_each_other(packages: Mapping[str, Path]) -> None:
    assert list(circles(modules_in(packages))) == []


def small_package(root: Path, files: Mapping[str, str]) -> dict[str, Path]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return modules_in({"recycleseg": root})


@pytest.mark.parametrize(
    ("importing", "imported"),
    [("data/a.py", "cli/b.py"), ("data/a.py", "metrics/b.py"), ("classes.py", "ops/b.py")],
)
def test_an_upward_import_is_refused(tmp_path: Path, importing: str, imported: str) -> None:
    other = "recycleseg." + imported.removesuffix(".py").replace("/", ".")
    modules = small_package(tmp_path, {importing: f"import {other}\n", imported: ""})
    ((first, second),) = upward_imports(modules)
    assert (modules[first], second) == (tmp_path / importing, other)


@pytest.mark.parametrize(
    "text",
    [
        "import recycleseg.data.a\n",
        "from recycleseg.data import a\n",
        "def f():\n    from recycleseg.data.a import x\n",
        "import typing\n\nif typing.TYPE_CHECKING:\n    from recycleseg.data.a import X\n",
    ],
    ids=["module", "name", "in a function", "for types"],
)
@pytest.mark.parametrize("between", [False, True])
def test_a_circle_is_refused(tmp_path: Path, text: str, between: bool) -> None:
    files = {"data/a.py": "from recycleseg.data.b import y\n", "data/b.py": text}
    if between:
        files |= {"data/b.py": "import recycleseg.data.c\n", "data/c.py": text}
    assert list(circles(small_package(tmp_path, files))) != []
    (tmp_path / "data" / ("c.py" if between else "b.py")).write_text("", encoding="utf-8")
    assert list(circles(modules_in({"recycleseg": tmp_path}))) == []


def test_only_ext_imports_the_compiled_module() -> None:
    modules = modules_in(PACKAGES)
    importers = {n for n, path in modules.items() if "recycleseg._C" in imports_of(path, modules)}
    assert importers == {"recycleseg._ext"}


def c_sources() -> list[Path]:
    return [path for path in (ROOT / "csrc").rglob("*") if path.is_file()]


def test_only_the_bindings_include_pybind11() -> None:
    pattern = re.compile(r"#\s*include\s*[<\"](pybind11|Python\.h)")
    includers = [p.name for p in c_sources() if pattern.search(p.read_text(encoding="utf-8"))]
    assert includers == ["bindings.cpp"]


def test_csrc_and_its_build_use_no_torch() -> None:
    sources = [*c_sources(), ROOT / "CMakeLists.txt"]
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
