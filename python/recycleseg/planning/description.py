"""A plan in words: a table for the terminal, and YAML with the reasons as comments."""

from __future__ import annotations

import json

from rich.table import Table
from rich.text import Text

from recycleseg.planning.planner import TrainingPlan


def plan_table(plan: TrainingPlan) -> Table:
    """One row per planned option: name, value, reason."""
    table = Table(box=None, pad_edge=False)
    for title in ("option", "plan", "because"):
        table.add_column(title)
    for choice in plan.choices:
        row = (choice.option, _value(choice.value), choice.reason)
        table.add_row(*(Text(cell) for cell in row))
    return table


def plan_yaml(plan: TrainingPlan, title: str) -> str:
    """The planned options as a file for `recycle-train --config`.

    Args:
        plan: the plan.
        title: first line, a comment.
    """
    lines = [f"# {title}"]
    for group in dict.fromkeys(choice.option.split(".")[0] for choice in plan.choices):
        lines.append(f"{group}:")
        for choice in plan.choices:
            owner, _, name = choice.option.partition(".")
            if owner == group:
                lines.append(f"  {name}: {_value(choice.value)}  # {choice.reason}")
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    """JSON, which is YAML too."""
    return json.dumps(value)
