"""A plan as YAML, with the reasons as comments."""

from __future__ import annotations

import yaml

from recycleseg.names import printable
from recycleseg.planning.planner import TrainingPlan


def plan_yaml(plan: TrainingPlan, title: str) -> str:
    """The planned options as a file for `recycle-train --config`.

    Args:
        plan: the plan.
        title: first line, a comment.
    """
    lines = [f"# {printable(title)}"]
    for group in dict.fromkeys(choice.option.split(".")[0] for choice in plan.choices):
        lines.append(f"{group}:")
        for choice in plan.choices:
            owner, _, name = choice.option.partition(".")
            if owner == group:
                lines.append(f"  {name}: {_value(choice.value)}  # {printable(choice.reason)}")
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    """A value in one line of YAML."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).split("\n")[0]
