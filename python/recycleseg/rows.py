"""Which rows of a batch a process has, where several processes share it."""

from __future__ import annotations

from typing import NamedTuple


class Rows(NamedTuple):
    """Some rows of a batch, one after the other.

    Attributes:
        first: number of the first.
        num: how many.
        batch: how many the batch has.
    """

    first: int
    num: int
    batch: int

    @classmethod
    def all(cls, batch: int) -> Rows:
        """All rows of a batch."""
        return cls(0, batch, batch)

    @classmethod
    def of_process(cls, rank: int, processes: int, batch: int) -> Rows:
        """The share of process `rank`; shares differ by one row at most."""
        first, end = (batch * i // processes for i in (rank, rank + 1))
        return cls(first, end - first, batch)

    @property
    def slice(self) -> slice:
        """Takes these rows from a tensor of the whole batch."""
        return slice(self.first, self.first + self.num)

    @property
    def share(self) -> float:
        """Of the batch; their mean loss has this weight in that of the batch."""
        return self.num / self.batch
