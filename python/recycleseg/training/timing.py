"""How long a run takes, and how many steps fit into a given time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import accumulate

from recycleseg.data.cache import PreparedDataset
from recycleseg.processes import Processes
from recycleseg.progress import format_duration
from recycleseg.run.config import TrainConfig
from recycleseg.run.options import OptimConfig, ValidationConfig
from recycleseg.sampling.timing import median_seconds, seconds_per_case
from recycleseg.sampling.volume import VolumeSampler
from recycleseg.training.learner import Learner

NUM_VALIDATIONS = 4
# Validations choose the weights; more time for them is lost for the training.
VALIDATION_SHARE = 0.1
# Estimates of the Dice on patches only show how the training goes.
PATCH_SHARE = 0.01
# A step takes at least so many times as long as a forward pass of its batches, because the backward
# pass takes twice as long as the forward one.
_PASSES_OF_STEP = 3
# A validation's picture and checkpoints take about so long on a CPU core.
SECONDS_TO_WRITE = 2.0
# Fewer steps than this train nothing.
LEAST_STEPS = 10


@dataclass(frozen=True)
class Speed:
    """Measured seconds.

    Attributes:
        step: of one optimiser step.
        validation: of sampling each validation case.
        final: of sampling each case of the table at the end.
    """

    step: float
    validation: tuple[float, ...]
    final: tuple[float, ...]

    def of_validation(self, max_cases: int | None) -> float:
        """Seconds of a validation on at most so many cases; 0 if there are none."""
        if not self.validation:
            return 0.0
        return sum(self.validation[:max_cases]) + SECONDS_TO_WRITE


def measure_speed(
    learner: Learner,
    sampler: VolumeSampler,
    data: PreparedDataset,
    final: str,
    processes: Processes,
) -> Speed:
    """Time of steps and cases. No weight changes; what steps leave behind is made new.

    Args:
        learner: before its first step, or before it goes back to a checkpoint.
        sampler: of whole cases.
        data: of the run.
        final: the part of the data set for the table at the end.
        processes: those of the run, which all must call this.
    """
    # Each try needs all processes.
    of_step = median_seconds(learner.rehearse, learner.device, go_on=processes.any)
    learner.begin_with_these_weights()
    learner.network.eval()
    validation = data.dataset.split["val"]
    seconds = seconds_per_case(
        sampler,
        len(data.dataset.channel_names),
        [data.shapes[case_id] for case_id in (*validation, *data.dataset.split[final])],
        learner.device,
        samples=learner.config.sampling.samples,
    )
    # Processes share the cases. What they plan must be the same in all.
    of_step, seconds = processes.share(lambda: (of_step, seconds))
    seconds = [of_case / processes.size for of_case in seconds]
    return Speed(of_step, tuple(seconds[: len(validation)]), tuple(seconds[len(validation) :]))


def fit_to_time(config: TrainConfig, speed: Speed, seconds: float) -> TrainConfig:
    """Fix the number of steps, if it is 0, and of validations and estimates, if they are open.

    The table at the end has the time that it needs; validations take at most `VALIDATION_SHARE`,
    on fewer cases and less often if necessary, but once on one case; the rest is for training.

    Args:
        config: of the run.
        speed: measured on this machine.
        seconds: time of the whole run.

    Raises:
        ValueError: not even `LEAST_STEPS` steps fit.
    """
    optim, validation, number = config.optim, config.validation, NUM_VALIDATIONS
    if optim.steps == 0:
        validation = replace(validation, max_cases=_fitting_cases(config, speed, seconds))
        steps = _fitting_steps(validation, speed, seconds)
        optim = replace(optim, steps=steps, warmup_steps=min(optim.warmup_steps, steps // 10))
        number = _number_of_validations(validation, speed, seconds)
    every = validation.every or math.ceil(optim.steps / number)
    validation = replace(validation, every=every, patch_every=steps_to_estimate(validation, optim))
    return replace(config, optim=optim, validation=validation)


def steps_to_estimate(validation: ValidationConfig, optim: OptimConfig) -> int | None:
    """Steps between two estimates on patches, which take `PATCH_SHARE` of the time at most.

    Passes of the network are counted and nothing is measured, so a run has the same estimates on
    every machine.
    """
    if validation.patch_every != 0:
        return validation.patch_every
    passes = math.ceil(validation.patches / optim.batch_size) / optim.accumulation
    return math.ceil(passes / _PASSES_OF_STEP / PATCH_SHARE)


def _fitting_cases(config: TrainConfig, speed: Speed, seconds: float) -> int | None:
    if config.validation.max_cases is not None or not speed.validation:
        return config.validation.max_cases
    allowed = VALIDATION_SHARE * seconds / NUM_VALIDATIONS
    return max(1, sum(spent <= allowed for spent in accumulate(speed.validation)))


def _number_of_validations(validation: ValidationConfig, speed: Speed, seconds: float) -> int:
    of_one = speed.of_validation(validation.max_cases)
    fitting = int(VALIDATION_SHARE * seconds / of_one) if of_one else NUM_VALIDATIONS
    return max(1, min(NUM_VALIDATIONS, fitting))


def _fitting_steps(validation: ValidationConfig, speed: Speed, seconds: float) -> int:
    of_validation = speed.of_validation(validation.max_cases)
    of_step, rest = speed.step, seconds - sum(speed.final)
    if validation.every:
        of_step += of_validation / validation.every
    else:
        rest -= _number_of_validations(validation, speed, seconds) * of_validation
    steps = math.floor(rest / of_step)
    if steps < LEAST_STEPS:
        needed = math.ceil(seconds - rest + LEAST_STEPS * of_step)
        raise ValueError(
            f"time: expected at least {format_duration(needed)} for {LEAST_STEPS} steps, the "
            f"validations and the table at the end, got {format_duration(seconds)}"
        )
    return steps


def expected_time(config: TrainConfig, speed: Speed, done: int) -> str:
    """Time of the rest of a run in words.

    Args:
        config: of the run, with its number of steps.
        speed: measured on this machine.
        done: optimiser steps that are done.
    """
    every, steps = config.validation.every, config.optim.steps
    training = speed.step * (steps - done)
    number = math.ceil(steps / every) - done // every if speed.validation else 0
    validations = number * speed.of_validation(config.validation.max_cases)
    final = sum(speed.final)
    parts = [f"training {format_duration(training)}"]
    if number:
        several = "s" if number > 1 else ""
        parts.append(f"{number} validation{several} {format_duration(validations)}")
    parts.append(f"final table {format_duration(final)}")
    return f"about {format_duration(training + validations + final)} ({', '.join(parts)})"
