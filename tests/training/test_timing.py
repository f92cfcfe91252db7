"""How many steps fit into a time, and what a run says of its time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recycleseg.run.config import TrainConfig
from recycleseg.run.options import OptimConfig, ValidationConfig
from recycleseg.training.timing import Speed, expected_time, fit_to_time, steps_to_estimate

OPEN = TrainConfig(optim=OptimConfig(steps=0), validation=ValidationConfig(every=0))
SPEED = Speed(step=0.5, validation=(3.0, 3.0, 3.0), final=(10.0, 10.0))


def test_training_has_what_the_rest_leaves() -> None:
    fitted = fit_to_time(OPEN, SPEED, 600.0)
    # 4 validations of 9 + 2 s (9 is less than a tenth) and 20 s of the table leave 536 s.
    assert fitted.optim.steps == 1072
    assert (fitted.validation.every, fitted.validation.max_cases) == (268, 3)
    assert fitted.optim.warmup_steps == OPEN.optim.warmup_steps


def test_validations_take_a_tenth_at_most_but_one_case() -> None:
    slow = replace(SPEED, validation=(6.0, 6.0, 6.0))
    assert fit_to_time(OPEN, slow, 600.0).validation.max_cases == 2
    slow = replace(SPEED, validation=(40.0, 40.0))
    assert fit_to_time(OPEN, slow, 600.0).validation.max_cases == 1
    asked = replace(OPEN, validation=ValidationConfig(every=0, max_cases=2))
    assert fit_to_time(asked, slow, 600.0).validation.max_cases == 2


def test_slow_validations_are_fewer() -> None:
    slow = replace(SPEED, validation=(28.0, 28.0))
    fitted = fit_to_time(OPEN, slow, 600.0)  # a tenth is 60 s: two of 30 s
    assert fitted.validation.max_cases == 1
    assert fitted.optim.steps == int((600 - 20 - 2 * 30) / 0.5)
    assert fitted.validation.every == fitted.optim.steps // 2
    slowest = replace(SPEED, validation=(200.0,))
    fitted = fit_to_time(OPEN, slowest, 600.0)
    assert fitted.validation.every == fitted.optim.steps == int((600 - 20 - 202) / 0.5)


def test_validations_at_a_given_interval_are_paid_by_the_steps() -> None:
    config = replace(OPEN, validation=ValidationConfig(every=100))
    fitted = fit_to_time(config, SPEED, 600.0)
    assert fitted.optim.steps == int(580 / (0.5 + 11 / 100))
    assert fitted.validation.every == 100


def test_short_runs_warm_up_for_a_tenth() -> None:
    fitted = fit_to_time(OPEN, SPEED, 89.0).optim  # one validation of 5 s, 20 s of the table
    assert (fitted.steps, fitted.warmup_steps) == (128, 12)


def test_given_steps_stay() -> None:
    config = replace(OPEN, optim=OptimConfig(steps=30))
    fitted = fit_to_time(config, SPEED, 1.0)
    assert fitted.optim == config.optim
    # 8 patches are four passes of a batch of 2: 4/3 of a step at most, 1 % of 134.
    assert fitted.validation == replace(config.validation, every=8, patch_every=134)


def test_the_steps_pay_for_estimates_on_patches() -> None:
    """A step of recycling takes four passes; at least three are counted."""
    assert steps_to_estimate(ValidationConfig(), OptimConfig(batch_size=2)) == 134
    assert steps_to_estimate(ValidationConfig(), OptimConfig(batch_size=8)) == 34
    assert steps_to_estimate(ValidationConfig(), OptimConfig(batch_size=2, accumulation=4)) == 34
    assert steps_to_estimate(ValidationConfig(patches=9), OptimConfig(batch_size=8)) == 67
    assert steps_to_estimate(ValidationConfig(patch_every=7), OptimConfig()) == 7
    assert steps_to_estimate(ValidationConfig(patch_every=None), OptimConfig()) is None


def test_a_run_without_validation_cases() -> None:
    alone = Speed(step=1.0, validation=(), final=(10.0,))
    fitted = fit_to_time(OPEN, alone, 110.0)
    assert (fitted.optim.steps, fitted.validation.max_cases) == (100, None)
    expected = "about 1 min 50 s (training 1 min 40 s, final table 10 s)"
    assert expected_time(fitted, alone, 0) == expected


def test_too_little_time_is_refused_with_the_time_that_is_needed() -> None:
    message = "time: expected at least 30 s for 10 steps, the validations .* got 20 s"
    with pytest.raises(ValueError, match=message):
        fit_to_time(OPEN, SPEED, 20.0)


def test_expected_time_counts_what_is_left() -> None:
    fitted = fit_to_time(OPEN, SPEED, 600.0)
    assert expected_time(fitted, SPEED, 0) == (
        "about 10 min 0 s (training 8 min 56 s, 4 validations 44 s, final table 20 s)"
    )
    assert expected_time(fitted, SPEED, 268) == (
        "about 7 min 35 s (training 6 min 42 s, 3 validations 33 s, final table 20 s)"
    )
    assert expected_time(fitted, SPEED, 1072) == "about 20 s (training 0 s, final table 20 s)"
