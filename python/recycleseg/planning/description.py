"""A plan as YAML, with the reasons as comments."""

from __future__ import annotations

import json

from recycleseg.planning.planner import TrainingPlan


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
