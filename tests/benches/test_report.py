"""The report of benchmarks, from a result written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import report


def benchmark(group: str, provider: str, median: float, **extra: float) -> dict[str, Any]:
    return {
        "group": group,
        "name": f"test_it[{provider}]",
        "params": {"provider": provider},
        "extra_info": extra,
        "stats": {"median": median},
    }


def write_result(path: Path, benchmarks: list[dict[str, Any]], commit: str = "abc123") -> Path:
    ours = {
        "device": "Some GPU",
        "processor": "Some CPU x 2",
        "torch": "2.11.0",
        "triton": "3.6.0",
        "git_commit": commit,
        "extension": {"cuda_version": "13.0"},
    }
    content = {"machine_info": {"recycleseg": ours}, "benchmarks": benchmarks}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def result(tmp_path: Path) -> Path:
    group = "noise_step, amos 1x16"
    return write_result(
        tmp_path / "result.json",
        [
            benchmark("copy, 1 MiB", "clone", 2e-3, bytes=2_000_000),
            benchmark("copy, 1 MiB", "copy_", 1e-3, bytes=2_000_000),
            benchmark(group, "reference", 8e-3, bytes=1_000_000, peak_memory_mb=30.4),
            benchmark(group, "compiled", 4e-3, bytes=1_000_000, peak_memory_mb=20.0),
            benchmark(group, "fused", 1e-3, bytes=1_000_000, peak_memory_mb=10.0),
            benchmark("train step, case A", "plain", 2.5),
            benchmark("train step, case A", "monai", 5.0),
        ],
    )


def table_of(text: str, group: str) -> list[str]:
    lines = text.partition(f"### {group}\n\n")[2].partition("\n\n")[0].splitlines()
    return lines


def test_the_table_of_a_group(result: Path, tmp_path: Path) -> None:
    report.main([str(result), "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert table_of(text, "noise_step, amos 1x16") == [
        "| provider | median | x reference | x compiled | GB/s | of copy | peak memory, MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| reference | 8 ms | 1.00 | 0.50 | 0.1 | 6% | 30 |",
        "| compiled | 4 ms | 2.00 | 1.00 | 0.2 | 12% | 20 |",
        "| fused | 1 ms | 8.00 | 4.00 | 1.0 | 50% | 10 |",
    ]
    # columns of which nothing is known are left out
    assert table_of(text, "train step, case A") == [
        "| provider | median | x reference |",
        "| --- | ---: | ---: |",
        "| plain | 2.5 s | 1.00 |",
        "| monai | 5 s | 0.50 |",
    ]


def test_the_header_names_machine_versions_and_commit(result: Path, tmp_path: Path) -> None:
    report.main([str(result), "--out", str(tmp_path)])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for line in (
        "## Some GPU",
        "- processor: Some CPU x 2",
        "- PyTorch: 2.11.0",
        "- Triton: 3.6.0",
        "- CUDA of the extension: 13.0",
        "- commit: abc123",
        "- copy bandwidth: 2 GB/s, read and written",
    ):
        assert line in text.splitlines()


def test_the_picture(result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.main([str(result), "--out", str(tmp_path)])
    with Image.open(tmp_path / "speed-1.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 800
    assert capsys.readouterr().out.splitlines() == [
        "operation   timed  reference  compiled  others",
        "noise_step      1       8.00      4.00  -",
    ]


def test_files_of_one_machine_and_commit_go_together(result: Path, tmp_path: Path) -> None:
    more = write_result(tmp_path / "more.json", [benchmark("x, y", "reference", 1e-6, bytes=500)])
    other = write_result(tmp_path / "other.json", [benchmark("x, y", "ours", 1e-6)], commit="def")
    first, second = report.read_sections([result, more, other])
    assert first.copy_gb_per_second == pytest.approx(2.0)
    assert first.groups["x, y"][0].gb_per_second == pytest.approx(0.5)
    assert second.copy_gb_per_second is None
    assert second.header["commit"] == "def"
    report.main([str(result), str(more), str(other), "--out", str(tmp_path)])
    assert (tmp_path / "speed-2.png").exists()


def test_a_group_of_the_fused_operation_alone(tmp_path: Path) -> None:
    result = write_result(tmp_path / "result.json", [benchmark("x, y", "fused", 3e-4)])
    report.main([str(result), "--out", str(tmp_path)])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| fused | 300 us |" in text


def test_ratios_are_geometric_means_over_the_groups_of_an_operation(tmp_path: Path) -> None:
    benchmarks = [
        *(benchmark("vote, mean", name, t) for name, t in (("ours", 2.0), ("monai", 4.0))),
        *(benchmark("vote, max", name, t) for name, t in (("ours", 1.0), ("monai", 8.0))),
        benchmark("vote, max", "plain", 3.0),
        # a floor, a part of ours, a group of which the time tells nothing, and one without ours
        benchmark("vote, max", "read", 0.5),
        benchmark("vote, max", "ours_op", 0.5),
        *(benchmark("memory of votes, max", name, 1.0) for name in ("ours", "monai")),
        benchmark("copy, 1 MiB", "clone", 1.0),
    ]
    (section,) = report.read_sections([write_result(tmp_path / "result.json", benchmarks)])
    assert report.ratio_table(section).splitlines() == [
        "operation  timed  reference  compiled  others",
        "vote           2       3.00         -  monai 4.00",
    ]
