"""What is built, installed and shipped, and what is said where a part of it is missing."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from recycleseg import _ext
from recycleseg.ops import build_info

ROOT = Path(__file__).resolve().parents[1]
NVCC = shutil.which("nvcc")

needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not on PATH")


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, **options
    )


def run_python(code: str, *flags: str) -> str:
    result = run(sys.executable, *flags, "-c", code)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_build_info_is_plain_json() -> None:
    info = build_info()
    assert set(info) == {"recycleseg", "torch", "triton", "extension"}
    assert json.loads(json.dumps(info)) == info


@pytest.mark.skipif(not _ext.HAS_CPP, reason="the compiled extension is not built")
def test_build_config_says_whether_cuda_is_in() -> None:
    config = _ext.C.build_config()
    assert config["cuda"] is _ext.HAS_CUDA
    assert hasattr(_ext.C, "overlap_counts_cuda") is _ext.HAS_CUDA
    assert (config["cuda_version"] is not None) is _ext.HAS_CUDA
    assert (config["cuda_architectures"] is not None) is _ext.HAS_CUDA


def signature(function: ast.FunctionDef) -> tuple[list[str], int, str]:
    """Names of the parameters, how many have a default, and the type that is returned."""
    arguments = function.args
    assert function.returns is not None and not arguments.kwonlyargs
    returned = ast.unparse(function.returns).split("[")[0]
    return [each.arg for each in arguments.args], len(arguments.defaults), returned


@pytest.mark.skipif(not _ext.HAS_CPP, reason="the compiled extension is not built")
def test_the_stub_says_what_the_extension_has() -> None:
    stub = ast.parse((Path(_ext.__file__).parent / "_C.pyi").read_text())
    written = {f.name: signature(f) for f in stub.body if isinstance(f, ast.FunctionDef)}
    if not _ext.HAS_CUDA:
        written = {name: f for name, f in written.items() if not name.endswith("_cuda")}
    there = {}
    for name, function in vars(_ext.C).items():
        if not name.startswith("__"):
            (parsed,) = ast.parse(f"def {function.__doc__.splitlines()[0]}: ...").body
            assert isinstance(parsed, ast.FunctionDef) and parsed.name == name
            there[name] = signature(parsed)
    assert written == there


def test_without_the_extension_the_package_works_and_says_what_is_missing() -> None:
    output = run_python(
        """
import sys
sys.modules["recycleseg._C"] = None
import torch
from recycleseg import _ext
from recycleseg.ops import build_info, overlap_counts

assert not _ext.HAS_CPP and not _ext.HAS_CUDA and build_info()["extension"] is None
label = torch.tensor([[0, 1, 1]])
assert overlap_counts(label, label, 2).tolist() == [[[1, 1, 1], [2, 2, 2]]]
for backend in ("cpp", "cuda"):
    try:
        overlap_counts(label, label, 2, backend=backend)
    except RuntimeError as error:
        print(error)
"""
    )
    lines = output.splitlines()
    assert len(lines) == 2
    for backend, line in zip(("cpp", "cuda"), lines, strict=True):
        assert line.startswith(f"backend='{backend}' needs recycleseg's compiled extension")
        assert "recycleseg._C" in line  # the reason
        assert "pip install ." in line  # how to get it


def environment_without_nvcc(folder: Path) -> dict[str, str]:
    """This environment, where each folder on PATH that has nvcc is swapped for a copy without."""
    path = []
    for index, entry in enumerate(os.environ["PATH"].split(os.pathsep)):
        if (Path(entry) / "nvcc").exists():
            mirror = folder / str(index)
            mirror.mkdir(parents=True)
            for program in Path(entry).iterdir():
                if program.name != "nvcc":
                    (mirror / program.name).symlink_to(program)
            entry = str(mirror)
        path.append(entry)
    kept = {k: v for k, v in os.environ.items() if k not in ("CUDACXX", "CUDA_PATH", "CUDA_HOME")}
    return kept | {"PATH": os.pathsep.join(path)}


def configure(build: Path, cuda: str, env: dict[str, str] | None = None) -> tuple[bool, str]:
    pybind11 = pytest.importorskip("pybind11")
    cmake = shutil.which("cmake")
    if cmake is None or shutil.which("ninja") is None:
        pytest.skip("cmake and ninja are not on PATH")
    definitions = {
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "Python_EXECUTABLE": sys.executable,
        "RECYCLESEG_CUDA": cuda,
    }
    options = [f"-D{name}={value}" for name, value in definitions.items()]
    result = run(cmake, "-S", ROOT, "-B", build, "-G", "Ninja", *options, env=env)
    return result.returncode == 0, " ".join((result.stdout + result.stderr).split())


def test_auto_without_nvcc_builds_for_the_cpu_and_later_finds_nvcc(tmp_path: Path) -> None:
    ok, output = configure(tmp_path / "build", "AUTO", environment_without_nvcc(tmp_path / "bin"))
    assert ok, output
    assert "recycleseg: building for the CPU alone (nvcc not found)" in output
    if NVCC is not None:
        ok, output = configure(tmp_path / "build", "AUTO")
        assert ok, output
        assert "recycleseg: building for the CPU and for CUDA" in output


def test_on_without_nvcc_is_an_error_that_says_so(tmp_path: Path) -> None:
    ok, output = configure(tmp_path / "build", "ON", environment_without_nvcc(tmp_path / "bin"))
    assert not ok
    assert "RECYCLESEG_CUDA=ON, but no working nvcc was found" in output


def test_off_builds_for_the_cpu(tmp_path: Path) -> None:
    ok, output = configure(tmp_path / "build", "OFF")
    assert ok, output
    assert "recycleseg: building for the CPU alone (RECYCLESEG_CUDA=OFF)" in output


def test_any_other_value_is_an_error(tmp_path: Path) -> None:
    ok, output = configure(tmp_path / "build", "yes")
    assert not ok
    assert "RECYCLESEG_CUDA: expected AUTO, ON or OFF, got 'yes'" in output


@needs_nvcc
@pytest.mark.parametrize("source", sorted((ROOT / "csrc").rglob("*.cu")), ids=lambda p: p.stem)
def test_cuda_sources_compile_without_a_warning(source: Path, tmp_path: Path) -> None:
    result = run(
        NVCC, "-std=c++17", "-arch=sm_80", "--Werror=all-warnings", "-Xcompiler=-Wall,-Wextra",
        "-I", ROOT / "csrc", "-c", source, "-o", tmp_path / "object.o",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


BUILD = """
import scikit_build_core.build as backend
settings = {{"cmake.define.RECYCLESEG_CUDA": "OFF", "cmake.build-type": "Debug"}}
print(backend.build_{kind}({folder!r}, settings))
"""
SHOW_INSTALLED = """
import json, site, sys
site.addsitedir({folder!r})
sys.path.append({libraries!r})
import recycleseg.kernels, recycleseg.ops
from importlib.resources import files
presets = sorted(p.name for p in (files("recycleseg") / "presets").iterdir())
print(json.dumps([recycleseg.__file__, recycleseg.kernels.__file__, presets,
                  recycleseg.ops.build_info()["extension"] is not None]))
"""


def build(kind: str, source: Path, folder: Path) -> Path:
    result = run(sys.executable, "-c", BUILD.format(kind=kind, folder=str(folder)), cwd=source)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / result.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def unpacked_sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("scikit_build_core")
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", ROOT, folder)) as archive:
        # Python before 3.11.4 knows no filter, Python from 3.12 on warns without one.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder, **safely)
    (source,) = (path for path in folder.iterdir() if path.is_dir())
    return source


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_installed_from_the_sdist_everything_is_there(
    kind: str, unpacked_sdist: Path, tmp_path: Path
) -> None:
    wheel = build(kind, unpacked_sdist, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    # -S leaves out the packages of this environment, where recycleseg may be installed already.
    output = run_python(
        SHOW_INSTALLED.format(
            libraries=sysconfig.get_path("purelib"), folder=str(tmp_path / "installed")
        ),
        "-S",
    )
    package, kernels, presets, has_extension = json.loads(output)
    if kind == "wheel":
        home = tmp_path / "installed" / "recycleseg"
        assert Path(kernels) == home / "kernels" / "__init__.py"
        assert (home / "py.typed").exists()
    else:
        home = unpacked_sdist / "python" / "recycleseg"
        assert Path(kernels) == unpacked_sdist / "kernels" / "__init__.py"
    assert Path(package) == home / "__init__.py"
    assert presets == sorted(path.name for path in (ROOT / "python/recycleseg/presets").iterdir())
    assert has_extension
