"""Which time steps to train on: uniformly drawn, or where the loss is largest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor


class Timesteps(ABC):
    """Draws time steps with loss weights, and learns from the losses.

    Args:
        num_timesteps: T.

    Attributes:
        learns: whether `update` does anything.
    """

    learns = False

    def __init__(self, num_timesteps: int) -> None:
        self.num_timesteps = num_timesteps

    def sample(
        self,
        batch_size: int,
        t_index_min: int,
        t_index_max: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> tuple[Tensor, Tensor]:
        """Draw time steps.

        Args:
            batch_size: B.
            t_index_min: least index.
            t_index_max: one more than the largest index.
            generator: source of the random numbers.
            device: of the generator and the results.

        Returns:
            t_index (B,) int64, and the weight (B,) float32 of each loss.

        Raises:
            ValueError: the range is empty or not within [0, num_timesteps].
        """
        if not 0 <= t_index_min < t_index_max <= self.num_timesteps:
            raise ValueError(
                f"expected 0 <= t_index_min < t_index_max <= {self.num_timesteps}, "
                f"got t_index_min={t_index_min} and t_index_max={t_index_max}"
            )
        return self._draw(batch_size, t_index_min, t_index_max, generator, device)

    @abstractmethod
    def _draw(
        self,
        batch_size: int,
        t_index_min: int,
        t_index_max: int,
        generator: torch.Generator | None,
        device: torch.device | str,
    ) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def update(self, loss: Tensor, t_index: Tensor) -> None:
        """Take in the losses (B,) at t_index (B,)."""

    def state_dict(self) -> dict[str, Tensor]:
        """Copy of every tensor that has been learnt, to be saved."""
        return {name: x.clone() for name, x in vars(self).items() if isinstance(x, Tensor)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: entries missing, unknown or of another shape.
        """
        expected = self.state_dict()
        if set(state) != set(expected):
            entries = f"entries {sorted(expected)}" if expected else "no state"
            raise ValueError(f"expected {entries}, got {sorted(state)}")
        for name, old in expected.items():
            if state[name].shape != old.shape:
                raise ValueError(
                    f"{name} must have shape {tuple(old.shape)}, got {tuple(state[name].shape)}"
                )
        for name, old in expected.items():
            setattr(self, name, state[name].to(old))


class UniformTimesteps(Timesteps):
    """Every time step of the range equally likely, every loss of weight 1."""

    def _draw(
        self,
        batch_size: int,
        t_index_min: int,
        t_index_max: int,
        generator: torch.Generator | None,
        device: torch.device | str,
    ) -> tuple[Tensor, Tensor]:
        t_index = torch.randint(
            t_index_min, t_index_max, (batch_size,), generator=generator, device=device
        )
        return t_index, torch.ones(batch_size, device=device)

    def update(self, loss: Tensor, t_index: Tensor) -> None:
        """Nothing to learn."""


class ImportanceTimesteps(Timesteps):
    """Time steps drawn in proportion to the root mean square of their loss.

    Nichol & Dhariwal (arXiv 2102.09672, section 3.3, eq. 18), with a running mean of the squared
    loss. Until each time step of the range has had `warmup` losses, those that lack most are drawn
    most, with weight 1: over the whole warm-up that visits each equally often. After it the weight
    is 1 / (p * n), p the probability of the draw among the n steps of the range, which makes the
    expected weighted loss the mean loss of the range. Neither drawing nor updating waits for the
    device.

    Args:
        num_timesteps: T.
        warmup: losses each time step must have had.
        decay: of the running mean of the squared loss.
        uniform_prob: share of draws that is uniform, in (0, 1].
        imgx_compat: as ImgX, weight p * T with p not renormalised over the range, and losses that
            are not finite enter the statistics (by default they are left out).

    Attributes:
        loss_sq: (T,) float32, running mean of the squared loss, on the device of the last draws.
        loss_count: (T,) int64, losses that each time step has had, on that device too.

    Raises:
        ValueError: decay outside [0, 1) or uniform_prob outside (0, 1].
    """

    learns = True

    def __init__(
        self,
        num_timesteps: int,
        *,
        warmup: int = 10,
        decay: float = 0.9,
        uniform_prob: float = 0.01,
        imgx_compat: bool = False,
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        if not 0 < uniform_prob <= 1:
            raise ValueError(f"uniform_prob must be in (0, 1], got {uniform_prob}")
        super().__init__(num_timesteps)
        self.warmup = warmup
        self.decay = decay
        self.uniform_prob = uniform_prob
        self.imgx_compat = imgx_compat
        self.loss_sq = torch.zeros(num_timesteps)
        self.loss_count = torch.zeros(num_timesteps, dtype=torch.int64)

    def _draw(
        self,
        batch_size: int,
        t_index_min: int,
        t_index_max: int,
        generator: torch.Generator | None,
        device: torch.device | str,
    ) -> tuple[Tensor, Tensor]:
        self.loss_sq, self.loss_count = self.loss_sq.to(device), self.loss_count.to(device)
        drawn = slice(t_index_min, t_index_max)
        warming = (self.loss_count[drawn] < self.warmup).any()
        every_p = self.loss_probs()
        p = torch.where(warming, self.warmup_probs(), every_p)[drawn].double()
        p = p / p.sum()

        # inverse of the cumulative distribution; a step of probability 0 is never drawn
        cumulative = p.cumsum(0)
        u = torch.rand(batch_size, dtype=torch.float64, generator=generator, device=device)
        offset = torch.searchsorted(cumulative, u * cumulative[-1], right=True)
        offset = offset.clamp(max=len(p) - 1)
        if self.imgx_compat:
            weight = every_p[drawn][offset] * self.num_timesteps
        else:
            weight = 1 / (p[offset] * len(p))
        weight = torch.where(warming, torch.ones_like(weight), weight)
        return t_index_min + offset, weight.float()

    def update(self, loss: Tensor, t_index: Tensor) -> None:
        """Take in the losses (B,) at t_index (B,); of several at one step the last one counts."""
        loss_sq = loss.detach().float().square()
        valid = loss_sq.isfinite() | self.imgx_compat
        same = t_index.unsqueeze(1) == t_index
        superseded = (same & valid).triu(diagonal=1).any(1)
        mean = self.decay * self.loss_sq[t_index] + (1 - self.decay) * loss_sq
        # writes to one more slot than there are steps, where all that must not count goes: a
        # fixed shape needs no wait for the device, and unique targets make the result certain
        target = torch.where(valid & ~superseded, t_index, self.num_timesteps)
        slots = torch.cat([self.loss_sq, self.loss_sq.new_zeros(1)])
        self.loss_sq = slots.scatter(0, target, mean)[:-1]
        self.loss_count = self.loss_count.scatter_add(0, t_index, valid.long())

    def loss_probs(self) -> Tensor:
        """Probability (T,) of each time step after the warm-up."""
        root = self.loss_sq.sqrt()
        p = (root / root.sum()).nan_to_num(nan=1 / self.num_timesteps)
        return p * (1 - self.uniform_prob) + self.uniform_prob / self.num_timesteps

    def warmup_probs(self) -> Tensor:
        """Probability (T,) of each time step during the warm-up."""
        missing = (self.warmup - self.loss_count).clamp(min=0)
        return (missing / missing.sum()).nan_to_num(nan=1 / self.num_timesteps)
