"""The fitted exponent of a cost."""

from __future__ import annotations

import numpy as np
import pytest
from growth import fit

SIZES = [32, 64, 128, 256, 512]


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("constant", [0.0, 0.01, 1.0])
def test_a_constant_does_not_hide_the_growth(exponent: float, constant: float) -> None:
    """Also where the constant is the larger part of nearly every measurement."""
    seconds = [constant + 3e-3 * size**exponent for size in SIZES]
    found = fit(SIZES, seconds)
    assert found.exponent == pytest.approx(exponent, abs=0.01)
    assert found.constant == pytest.approx(constant, rel=0.01, abs=1e-3)


def test_noise_of_a_few_percent_moves_it_little() -> None:
    noise = np.random.default_rng(0).normal(1, 0.01, (20, len(SIZES)))
    found = [fit(SIZES, (0.02 + 1e-3 * np.array(SIZES)) * factors).exponent for factors in noise]
    assert np.mean(found) == pytest.approx(1, abs=0.02)
    assert np.max(found) < 1.1


def test_too_few_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 and as many seconds, got 3 and 3"):
        fit([1, 2, 3], [1, 2, 3])
