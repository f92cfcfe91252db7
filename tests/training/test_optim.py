"""Learning rate and averaged weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from torch import nn

from recycleseg.config import OptimConfig
from recycleseg.training.optim import AveragedWeights, learning_rate

Arrays = dict[str, np.ndarray]


def test_learning_rate_matches_optax(reference: Callable[[str], Arrays]) -> None:
    arrays = reference("k_optimizer")
    ours = [learning_rate(int(step), OptimConfig()) for step in arrays["lr/steps"]]
    # optax interpolates between rates in float32, whose rounding is relative to the peak
    np.testing.assert_allclose(ours, arrays["lr/values"], rtol=1e-6, atol=8e-4 * 6e-8)


def test_learning_rate_warms_up_and_ends() -> None:
    config = OptimConfig(steps=1000, warmup_steps=100, lr_init=1e-5, lr_peak=1e-3, lr_end=1e-6)
    rates = [learning_rate(step, config) for step in range(1001)]
    assert rates[0] == 1e-5
    assert max(rates) == rates[100] == 1e-3
    assert rates[1000] == pytest.approx(1e-6, rel=1e-12)
    assert all(a > b for a, b in zip(rates[100:], rates[101:], strict=False))


def test_averaged_weights_follow_the_formula() -> None:
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(0.0)
    average = AveragedWeights(network, decay=0.9)
    expected = 0.0
    for n in range(200):
        network.weight.data.fill_(float(n))
        average.update(network)
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    assert float(average.weights["weight"]) == pytest.approx(expected, rel=1e-5)
