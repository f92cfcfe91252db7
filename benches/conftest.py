"""Which benches run, what their results say of the machine, and the table of ratios at the end."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from recycleseg.run.device import choose_device, choose_precision
from recycleseg.run.environment import describe_environment
from report import ratio_table, read_section

LEFT_OUT = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --full."""
    parser.addoption(
        "--full",
        action="store_true",
        help="run all benches: every shape, input and rival, and memory too (hours without a GPU)",
    )


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether all is to be measured."""
    wanted: bool = request.config.getoption("--full")
    return wanted


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what waits for --full."""
    if config.getoption("--full"):
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    config.stash[LEFT_OUT] = len(left_out)
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker("full")]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let a bench print warnings, which tests fail by: they may be of what it compares with."""
    known = [line for line in item.config.getini("filterwarnings") if line != "error"]
    item.add_marker(pytest.mark.filterwarnings("default", *known))


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Add processor, GPU, versions, commit, threads and precision to the result's header."""
    device = choose_device("auto")
    environment = describe_environment(device, choose_precision("auto", device))
    environment.pop("command")
    machine_info["recycleseg"] = environment


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the ratios of what was timed, on which machine, and what was left out."""
    session = config._benchmarksession  # type: ignore[attr-defined]
    if not session.benchmarks:
        return
    section = read_section(
        config.hook.pytest_benchmark_generate_json(
            config=config,
            benchmarks=session.benchmarks,
            include_data=False,
            machine_info=session.get_machine_info(),
            commit_info=config.hook.pytest_benchmark_generate_commit_info(config=config),
        )
    )
    terminalreporter.section("recycleseg beside others")
    write = terminalreporter.write_line
    write(", ".join(f"{name} {value}" for name, value in section.header.items()))
    write("")
    write("How many times as long others take as recycleseg: above 1, recycleseg is faster.")
    write(ratio_table(section))
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports)
    left_out = [f"{count} ({reason})" for reason, count in reasons.items()]
    if number := config.stash.get(LEFT_OUT, 0):
        left_out.insert(0, f"{number} (--full runs them)")
    write("Left out: " + (", ".join(left_out) or "nothing"))
