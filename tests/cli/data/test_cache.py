"""`recycle-data cache`: what it prints and deletes, and wrong input."""

from __future__ import annotations

from pathlib import Path

import pytest

from recycleseg.cli.data import main
from recycleseg.data.cache import prepare_dataset
from recycleseg.data.layout import read_dataset
from recycleseg.data.phantom import write_phantom
from recycleseg.data.preprocess import PreprocessConfig


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with the phantom, prepared in two ways."""
    write_phantom(tmp_path / "data", spatial_dims=2)
    dataset = read_dataset(tmp_path / "data")
    for config in (PreprocessConfig(), PreprocessConfig(shape=(32, 32))):
        prepare_dataset(dataset, config, tmp_path / "cache")
    return tmp_path / "cache"


def test_list_and_clear(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--runtime.cache", str(cache)]) == 0
    head, row, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["data", "set", "plans", "cases", "size", "last", "used"]
    cases = len(list(cache.glob("prepared/*"))) // 2
    assert row.split()[1:3] == ["2", str(cases)] and row.endswith("s ago")
    assert total.startswith(f"{cache}: ") and total.endswith("MiB of prepared cases")
    assert main(["cache", "clear", "--runtime.cache", str(cache), "--older-than", "1h"]) == 0
    assert capsys.readouterr().out == f"{cache}: 0.0 MiB freed\n"
    assert main(["cache", "clear", "--runtime.cache", str(cache)]) == 0
    assert "MiB freed" in capsys.readouterr().out
    assert [path.name for path in cache.rglob("*") if path.is_file()] in ([], ["sha256.json"])
    assert main(["cache", "list", "--runtime.cache", str(cache)]) == 0
    assert capsys.readouterr().out == f"{cache}: 0.0 MiB of prepared cases\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clean"], "expected list or clear, got clean"),
        (["clear", "--older-than", "soon"], "--older-than: expected a time with its unit, such as"),
        (["list", "--older-than", "3d"], "--older-than: expected it with clear, got it with list"),
    ],
)
def test_wrong_input(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", *arguments, "--runtime.cache", str(tmp_path)]) == 2
    assert f"recycle-data: error: {message}" in capsys.readouterr().err
