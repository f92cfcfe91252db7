"""What every result file says of the machine that made it."""

from __future__ import annotations

from typing import Any

import pytest

from recycleseg.run.device import choose_device, choose_precision
from recycleseg.run.environment import describe_environment


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Add processor, GPU, versions, commit, threads and precision to the result's header."""
    device = choose_device("auto")
    environment = describe_environment(device, choose_precision("auto", device))
    environment.pop("command")
    machine_info["recycleseg"] = environment


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let a bench print warnings, which tests fail by: they may be of what it compares with."""
    item.add_marker(pytest.mark.filterwarnings("default"))
