"""Which part of the cases a process takes, where several processes share them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

ALL = "--part 1/1 takes all cases"
# Kubernetes does not say how many indices a job has. This is what its users call that number.
COMPLETION_COUNT = "JOB_COMPLETION_COUNT"

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """One of several parts of equal size.

    Attributes:
        number: which one, from 1.
        of: how many there are.
        source: what says so.
    """

    number: int = 1
    of: int = 1
    source: str = "--part"

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def share(self, cases: Sequence[T]) -> list[T]:
        """The cases of this part; all parts together have each case once."""
        return list(cases[self.number - 1 :: self.of])

    def described(self, cases: Sequence[object]) -> str:
        """A line for the user."""
        number = len(self.share(cases))
        return f"part {self}: {number} of {len(cases)} cases, because of {self.source}; {ALL}"


def chosen_part(option: str | None, environment: Mapping[str, str] = os.environ) -> Part:
    """The part that `--part` names; without it, the one that the system gave this process.

    torchrun counts first, then Slurm, then Kubernetes.

    Args:
        option: I/N; None if the option is not given.
        environment: variables of the process.

    Raises:
        ValueError: the option or a variable is wrong, in one line.
    """
    if option is not None:
        match = re.fullmatch(r"(\d+)/(\d+)", option, re.ASCII)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"--part: expected I/N with I from 1 to N, such as 2/8, got {option}")
        return Part(int(match[1]), int(match[2]))
    given = {name: value for name, value in environment.items() if value}
    if "RANK" in given and "WORLD_SIZE" in given:
        return _checked(_number(given, "RANK"), _number(given, "WORLD_SIZE"), "RANK", "torchrun")
    if "SLURM_ARRAY_TASK_ID" in given or "SLURM_STEP_NUM_TASKS" in given:
        return _of_slurm(given)
    if "JOB_COMPLETION_INDEX" in given:
        if COMPLETION_COUNT not in given:
            raise ValueError(
                f"{COMPLETION_COUNT}: expected the job's completions, because Kubernetes gives "
                f"JOB_COMPLETION_INDEX alone, got no such variable; set it in the pod, or {ALL}"
            )
        index, count = _number(given, "JOB_COMPLETION_INDEX"), _number(given, COMPLETION_COUNT)
        return _checked(index, count, "JOB_COMPLETION_INDEX", "Kubernetes' indexed job")
    return Part()


def _of_slurm(given: Mapping[str, str]) -> Part:
    """The tasks of a step divide the part of their job array."""
    task = _of_array(given) if "SLURM_ARRAY_TASK_ID" in given else Part()
    # SLURM_NTASKS is also set where the script of a job runs once, so it does not tell a step.
    if "SLURM_STEP_NUM_TASKS" not in given:
        return task
    count = _number(given, "SLURM_STEP_NUM_TASKS")
    step = _checked(_number(given, "SLURM_PROCID"), count, "SLURM_PROCID", "Slurm's job step")
    if "SLURM_ARRAY_TASK_ID" not in given:
        return step
    source = f"{task.source} and {step.source}"
    return Part((task.number - 1) * step.of + step.number, task.of * step.of, source)


def _of_array(given: Mapping[str, str]) -> Part:
    index, first = _number(given, "SLURM_ARRAY_TASK_ID"), _number(given, "SLURM_ARRAY_TASK_MIN")
    step = _number(given, "SLURM_ARRAY_TASK_STEP") if "SLURM_ARRAY_TASK_STEP" in given else 1
    last = _number(given, "SLURM_ARRAY_TASK_MAX")
    evenly = range(first, last + 1, max(step, 1))
    count = given.get("SLURM_ARRAY_TASK_COUNT", str(len(evenly)))
    if index not in evenly or count != str(len(evenly)):
        raise ValueError(
            "SLURM_ARRAY_TASK_ID: expected evenly spaced numbers, as of --array=0-7 or 1-15:2, got "
            f"{index} of {count} from {first} to {last}; give the part as --part I/N, or {ALL}"
        )
    return Part(evenly.index(index) + 1, len(evenly), f"Slurm's job array (task {index})")


def _number(given: Mapping[str, str], name: str) -> int:
    text = given.get(name, "nothing")
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise ValueError(f"{name}: expected a number from 0 on, got {text}; {ALL}")
    return int(text)


def _checked(index: int, count: int, name: str, system: str) -> Part:
    if index >= count:
        raise ValueError(f"{name}: expected a number below {count}, got {index}; {ALL}")
    return Part(index + 1, count, f"{system} ({name}={index})")
