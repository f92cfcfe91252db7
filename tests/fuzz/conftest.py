"""At the end of the tests: how many damaged inputs each reader was given."""

from __future__ import annotations

import pytest
from tests.fuzz.harness import SECONDS, TARGETS, TRIED, function_of


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Count the targets that share a time."""
    TARGETS.update(function_of(item.nodeid) for item in items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of inputs of each target, and how many of them were refused."""
    if not TRIED:
        return
    terminalreporter.section(f"damaged inputs tried, {SECONDS:g} s for each reader")
    for name, tried in sorted(TRIED.items()):
        terminalreporter.write_line(f"{name}: {tried.number}, refused {tried.refused}")
    terminalreporter.write_line(f"together: {sum(tried.number for tried in TRIED.values())}")
