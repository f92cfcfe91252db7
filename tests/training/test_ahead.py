"""What comes next is made while the device is busy, and is the same as without."""

from __future__ import annotations

from threading import Event

import pytest

from recycleseg.training.data import Ahead


def test_the_next_ones_are_made_during_a_step() -> None:
    made = [Event() for _ in range(8)]

    def make(index: int) -> int:
        made[index].set()
        return index**2

    ahead = Ahead(make, depth=2)
    for index in range(5):
        assert ahead(index) == index**2
        # The step runs; meanwhile the next two are made, and no more.
        assert made[index + 1].wait(60) and made[index + 2].wait(60)
        assert not made[index + 3].is_set()


def test_any_order_gives_the_same() -> None:
    ahead = Ahead(lambda index: index + 1, depth=3)
    assert [ahead(i) for i in (0, 1, 2, 0, 7, 8, 3, 3)] == [1, 2, 3, 1, 8, 9, 4, 4]


def test_an_error_comes_with_the_index_that_it_belongs_to() -> None:
    def make(index: int) -> int:
        if index == 2:
            raise ValueError("case two is damaged")
        return index

    ahead = Ahead(make)
    assert [ahead(0), ahead(1)] == [0, 1]
    with pytest.raises(ValueError, match="case two"):
        ahead(2)
    assert ahead(3) == 3
