"""Tables and a picture of benchmarks: python benches/report.py RESULT.json... --out DIR

Reads what `pytest benches --benchmark-json` wrote, writes DIR/report.md and a picture for each
machine, version and commit among the results.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from report_plot import save_plot

# What others are compared with: of one operation, of a whole step.
REFERENCES = ("reference", "plain")
OURS = ("fused", "ours")
# No rivals: a part of ours, and the floor of what reads all its arguments.
NO_RIVALS = (*OURS, "ours_op", "read")


@dataclass(frozen=True)
class Row:
    """One provider's result. seconds: median of a call; num_bytes: that it must move at least."""

    group: str
    provider: str
    seconds: float
    num_bytes: int | None = None
    peak_memory_mb: float | None = None

    @property
    def gb_per_second(self) -> float | None:
        """Least traffic over the time, in 10^9 bytes a second."""
        return None if self.num_bytes is None else self.num_bytes / self.seconds / 1e9


@dataclass
class Section:
    """Results of one machine, version and commit. header: what is said of these, in order."""

    header: dict[str, str]
    rows: list[Row] = field(default_factory=list)

    @property
    def groups(self) -> dict[str, list[Row]]:
        """Rows by group, in the order in which they were measured."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(row.group, []).append(row)
        return groups

    @property
    def copy_gb_per_second(self) -> float | None:
        """Measured copy bandwidth; None where it was not measured."""
        found = [r.gb_per_second for r in self.rows if r.group.split(",")[0] == "copy"]
        return max((speed for speed in found if speed is not None), default=None)


def read_sections(paths: Iterable[Path]) -> list[Section]:
    """Results of the files; those of the same machine, version and commit together."""
    sections: dict[str, Section] = {}
    for path in paths:
        found = read_section(json.loads(path.read_text(encoding="utf-8")))
        section = sections.setdefault(json.dumps(found.header), Section(found.header))
        section.rows += found.rows
    return list(sections.values())


def read_section(content: dict[str, Any]) -> Section:
    """What one result file holds."""
    return Section(describe(content), [read_row(benchmark) for benchmark in content["benchmarks"]])


def read_row(benchmark: dict[str, Any]) -> Row:
    """A row of one entry of "benchmarks"."""
    extra = benchmark["extra_info"]
    return Row(
        benchmark["group"] or benchmark["name"].partition("[")[0],
        str((benchmark["params"] or {}).get("provider", benchmark["name"])),
        benchmark["stats"]["median"],
        extra.get("bytes"),
        extra.get("peak_memory_mb"),
    )


def describe(content: dict[str, Any]) -> dict[str, str]:
    """Machine, versions and commit, as far as the file tells them."""
    machine = content["machine_info"]
    ours = machine.get("recycleseg", {})
    extension = ours.get("extension") or {}
    commit_info = content.get("commit_info") or {}
    commit = ours.get("git_commit") or commit_info.get("id")
    known = {
        "device": ours.get("device"),
        "processor": ours.get("processor") or machine.get("cpu", {}).get("brand_raw"),
        "CPU threads": ours.get("cpu_threads"),
        "system": ours.get("platform") or machine.get("system"),
        "Python": ours.get("python") or machine.get("python_version"),
        "PyTorch": ours.get("torch"),
        "Triton": ours.get("triton"),
        "CUDA of the extension": extension.get("cuda_version"),
        "recycleseg": ours.get("recycleseg"),
        "commit": commit,
    }
    if commit_info.get("dirty") and commit and not commit.endswith("-dirty"):
        known["commit"] = f"{commit}-dirty"
    return {name: str(value) for name, value in known.items() if value is not None}


def of_provider(rows: Sequence[Row], names: Sequence[str]) -> Row | None:
    """The first row of one of these providers."""
    return next((row for row in rows if row.provider in names), None)


def speed_up(row: Row, other: Row | None) -> float | None:
    """How many times faster than the other a row is."""
    return None if other is None else other.seconds / row.seconds


def write_markdown(sections: Sequence[Section], pictures: Sequence[Path]) -> str:
    """The whole report."""
    lines = ["# Benchmarks"]
    for section, picture in zip(sections, pictures, strict=True):
        lines += ["", "## " + section.header.get("device", "unknown device"), ""]
        lines += [f"- {name}: {value}" for name, value in section.header.items()]
        if (copy := section.copy_gb_per_second) is not None:
            lines += [f"- copy bandwidth: {copy:.0f} GB/s, read and written"]
        lines += [
            "",
            "Times are medians of a call. 'x reference' and 'x compiled' say how many times faster "
            "a row is than plain PyTorch and than what torch.compile makes of it. GB/s counts the "
            "bytes that must be moved at least; its share of the copy bandwidth can pass 100 % "
            "where tensors stay in a cache.",
            "",
            f"![speed]({picture.name})",
        ]
        for group, rows in section.groups.items():
            lines += ["", f"### {group}", "", *_table(rows, section.copy_gb_per_second)]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Row], copy: float | None) -> list[str]:
    reference, compiled = of_provider(rows, REFERENCES), of_provider(rows, ("compiled",))
    columns: dict[str, list[str]] = {
        "provider": [row.provider for row in rows],
        "median": [_time(row.seconds) for row in rows],
        "x reference": [_number(speed_up(row, reference), ".2f") for row in rows],
        "x compiled": [_number(speed_up(row, compiled), ".2f") for row in rows],
        "GB/s": [_number(row.gb_per_second, ".1f") for row in rows],
        "of copy": [_number(_share(row.gb_per_second, copy), ".0%") for row in rows],
        "peak memory, MB": [_number(row.peak_memory_mb, ".0f") for row in rows],
    }
    told = {name: cells for name, cells in columns.items() if set(cells) != {"-"}}
    rule = ["---" if name == "provider" else "---:" for name in told]
    cells = [list(told), rule, *zip(*told.values(), strict=True)]
    return ["| " + " | ".join(line) + " |" for line in cells]


def _share(speed: float | None, copy: float | None) -> float | None:
    return None if speed is None or copy is None else speed / copy


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def ratio_table(section: Section) -> str:
    """How many times as long others take as we do, as text: one line an operation.

    Args:
        section: Results of one run.

    Returns:
        Columns for the number of groups of the operation, plain PyTorch, what torch.compile makes
        of it, and all others by name. Ratios are geometric means over the groups that have both.
    """
    lines = [("operation", "timed", "reference", "compiled", "others")]
    for operation, (count, ratios) in _ratios(section).items():
        means = {name: f"{geometric_mean(values):.2f}" for name, values in ratios.items()}
        known = [means.pop(name, "-") for name in ("reference", "compiled")]
        others = ", ".join(f"{name} {mean}" for name, mean in means.items())
        lines.append((operation, str(count), *known, others or "-"))
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:-1], widths[1:-1]), line[-1]])
        for line in lines
    )


def _ratios(section: Section) -> dict[str, tuple[int, dict[str, list[float]]]]:
    """Operation -> in how many groups we were timed, and provider -> its ratio in each of them."""
    found: dict[str, tuple[int, dict[str, list[float]]]] = {}
    for group, rows in section.groups.items():
        ours = of_provider(rows, OURS)
        if ours is None or group.startswith("memory"):
            continue
        operation = group.split(",")[0]
        count, ratios = found.get(operation, (0, {}))
        found[operation] = count + 1, ratios
        for row in rows:
            if row.provider not in NO_RIVALS:
                name = "reference" if row.provider in REFERENCES else row.provider
                ratios.setdefault(name, []).append(row.seconds / ours.seconds)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report and print how many times as long others take."""
    parser = argparse.ArgumentParser(description="Tables and a picture of benchmarks.")
    parser.add_argument("results", nargs="+", type=Path, help="JSON of pytest-benchmark")
    parser.add_argument("--out", type=Path, required=True, help="folder of report.md and pictures")
    options = parser.parse_args(arguments)
    sections = read_sections(options.results)
    options.out.mkdir(parents=True, exist_ok=True)
    pictures = [options.out / f"speed-{number}.png" for number in range(1, len(sections) + 1)]
    for section, picture in zip(sections, pictures, strict=True):
        save_plot(picture, speed_ups(section), title_of(section))
    text = write_markdown(sections, pictures)
    (options.out / "report.md").write_text(text, encoding="utf-8")
    print("\n\n".join(map(ratio_table, sections)))


def speed_ups(section: Section) -> dict[str, dict[str, float]]:
    """Of each group that has a reference: how many times faster each of its providers is."""
    found: dict[str, dict[str, float]] = {}
    for group, rows in section.groups.items():
        if (reference := of_provider(rows, REFERENCES)) is not None:
            found[group] = {row.provider: reference.seconds / row.seconds for row in rows}
    return found


def title_of(section: Section) -> str:
    """One line for the picture."""
    header = section.header
    parts = [header.get("device"), f"PyTorch {header['PyTorch']}" if "PyTorch" in header else None]
    return ", ".join(part for part in parts if part)


if __name__ == "__main__":
    main()
