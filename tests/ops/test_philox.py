"""Philox noise: known answers of the words, and how normal the normals are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recycleseg.ops.philox import philox_normal, philox_words

# Random123 1.14.0, tests/kat_vectors, philox4x32 10: counter, key, words.
KNOWN = [
    "00000000 00000000 00000000 00000000  00000000 00000000  6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    "ffffffff ffffffff ffffffff ffffffff  ffffffff ffffffff  408f276d 41c83b0e a20bc7c6 6d5451fd",
    "243f6a88 85a308d3 13198a2e 03707344  a4093822 299f31d0  d16cfe09 94fdcceb 5001e420 24126ea1",
]


@pytest.mark.parametrize("line", KNOWN)
def test_words_are_the_known_answers(line: str) -> None:
    numbers = [torch.tensor(int(word, 16)) for word in line.split()]
    assert philox_words(numbers[:4], numbers[4:6]) == numbers[6:]


@pytest.fixture(scope="module")
def million() -> Tensor:
    """Normals (B, C, V) = (5, 8, 25000)."""
    return philox_normal((5, 8, 250, 100), seed=1, offset=0).flatten(2)


def test_a_million_normals_have_the_moments_of_normals(million: Tensor) -> None:
    x = million.double().flatten()
    n = x.numel()
    assert n == 10**6
    # Four standard errors each; the fourth moment's variance is 105 - 9.
    assert abs(x.mean()) < 4 / math.sqrt(n)
    assert abs(x.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs(x.pow(3).mean()) < 4 * math.sqrt(15 / n)
    assert abs(x.pow(4).mean() - 3) < 4 * math.sqrt(96 / n)


def test_a_million_normals_have_the_distribution_of_normals(million: Tensor) -> None:
    x = million.double().flatten().sort().values
    n = x.numel()
    cdf = torch.special.ndtr(x)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = torch.maximum((steps[1:] - cdf).max(), (cdf - steps[:-1]).max())
    assert distance * math.sqrt(n) < 1.63  # Kolmogorov-Smirnov at 1 %


def correlation(a: Tensor, b: Tensor) -> float:
    """In standard errors, of two tensors of independent normals."""
    return ((a * b).double().mean() * math.sqrt(a.numel())).item()


def test_classes_voxels_samples_and_offsets_are_independent(million: Tensor) -> None:
    pairs = [(million[:, i], million[:, j]) for i in range(8) for j in range(i)]
    pairs += [(million[i], million[j]) for i in range(5) for j in range(i)]
    pairs += [(million[..., lag:], million[..., :-lag]) for lag in (1, 2, 4, 100, 128, 512)]
    for offset in (1, 2, 2**31, 2**32, 2**59):
        other = philox_normal((5, 8, 250, 100), seed=1, offset=offset).flatten(2)
        pairs += [(million, other), (million[:, 1:], other[:, :-1])]
    other = philox_normal((5, 8, 250, 100), seed=2).flatten(2)
    pairs += [(million, other)]
    for a, b in pairs:
        # 54 pairs, and their squares: the greatest of 108 normals seldom exceeds 4.
        assert abs(correlation(a, b)) < 4
        assert abs(correlation(a.square() - 1, b.square() - 1)) / 2 < 4


def test_same_arguments_draw_the_same() -> None:
    once = philox_normal((2, 5, 3, 4), 7, 8)
    assert once.equal(philox_normal((2, 5, 3, 4), torch.tensor(7), torch.tensor(8)))
    assert once.dtype == torch.float32
    assert once.shape == (2, 5, 3, 4)


def test_an_element_does_not_depend_on_other_classes_or_the_shape_of_space() -> None:
    whole = philox_normal((2, 16, 6, 4), 7, 8)
    assert whole[:, :5].equal(philox_normal((2, 5, 24), 7, 8).view(2, 5, 6, 4))
    assert whole[:1].equal(philox_normal((1, 16, 6, 4), 7, 8))
    assert whole[1:].equal(philox_normal((1, 16, 6, 4), 7, 8, first_row=1))


def test_empty_shapes() -> None:
    assert philox_normal((0, 3, 4), 0).shape == (0, 3, 4)
    assert philox_normal((2, 3, 0), 0).shape == (2, 3, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((2, 65, 3), 0), r"shape: expected \(B, C, \*S\) with C at most 64, got \(2, 65, 3\)"),
        (((2,), 0), "shape: expected"),
        (((2, 3, 4), 2**63), "seed: expected -9223372036854775808 to"),
        (((2, 3, 4), 0, -1), "offset: expected 0 to 1152921504606846975, got -1"),
        (((2, 3, 4), 0, 2**60), "offset: expected 0 to"),
        (((2, 3, 4), torch.zeros(1).long()), r"seed: expected an int or a 0-d int64 tensor .*\(1,"),
        (((2, 3, 4), 0, torch.zeros(())), "offset: expected an int or a 0-d int64 .* got torch.fl"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        philox_normal(*arguments)


def test_traces_in_full_graph() -> None:
    compiled = torch.compile(philox_normal, fullgraph=True, backend="aot_eager")
    arguments = (2, 3, 4), torch.tensor(3), torch.tensor(4)
    assert compiled(*arguments).equal(philox_normal(*arguments))
    assert compiled((2, 3, 4), 3, 4).equal(philox_normal(*arguments))
