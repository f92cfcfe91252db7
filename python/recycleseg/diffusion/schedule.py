"""Noise schedules: the variance added at each time step and everything that follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recycleseg.ops._arrays import refuse_mask

# A beta of 1 would leave nothing of the image; Nichol & Dhariwal clip theirs here.
MAX_COSINE_BETA = 0.999


class NoiseSchedule:
    """Variances beta_t of q(x_t | x_{t-1}) for t_index 0 ... T-1, and the arrays derived from them.

    All arrays have shape (T,) and lie on the CPU; they are float64 but for ``train_t_index``.

    Args:
        name: ``linear``, ``quadratic`` (linear in sqrt(beta)), ``cosine`` (Nichol & Dhariwal,
            arXiv 2102.09672, eq. 17), ``imgx_cosine`` (what ImgX takes for it: betas rise from
            ``beta_start`` to ``beta_end`` as 1 - f(t)), ``warmup10`` or ``warmup50`` (quadratic
            over the first 10 % or 50 % of the steps, then constant).
        num_timesteps: T, at least 2.
        beta_start: beta at t_index 0; the cosine schedule does not use it.
        beta_end: beta at t_index T-1; the cosine schedule does not use it.

    Attributes:
        num_timesteps: T.
        num_train_timesteps: T of the schedule of training, from which `respace` takes steps.
        train_t_index: int64 index that each step has in the schedule of training.
        betas: beta_t.
        alphas: 1 - betas.
        alphas_cumprod: products of the alphas up to each step.
        alphas_cumprod_prev: the same up to the step before; first value 1.
        posterior_mean_coef_start: weight of x_0 in the mean of q(x_{t-1} | x_t, x_0), eq. 7 of Ho
            et al. (arXiv 2006.11239).
        posterior_mean_coef_t: weight of x_t in it.
        posterior_variance: variance of q(x_{t-1} | x_t, x_0).
        posterior_log_variance_clipped: its logarithm, with the value of t_index 1 at t_index 0,
            where the variance is 0; of a single step, log beta.

    Raises:
        ValueError: an unknown name, fewer than 2 steps, or betas that are not in (0, 1).
    """

    def __init__(
        self,
        name: str = "linear",
        num_timesteps: int = 1001,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
    ) -> None:
        if num_timesteps < 2:
            raise ValueError(f"num_timesteps must be at least 2, got {num_timesteps}")
        if not 0 < beta_start <= beta_end < 1:
            raise ValueError(
                "expected 0 < beta_start <= beta_end < 1, "
                f"got beta_start={beta_start} and beta_end={beta_end}"
            )
        if name not in _BETAS:
            raise ValueError(f"unknown schedule name {name!r}, expected one of {sorted(_BETAS)}")
        self._set_betas(_BETAS[name](num_timesteps, beta_start, beta_end))

    @classmethod
    def from_betas(
        cls,
        betas: Tensor | Sequence[float],
        *,
        train_t_index: Tensor | None = None,
        num_train_timesteps: int | None = None,
    ) -> NoiseSchedule:
        """Schedule with the given betas (T,), each in (0, 1).

        Args:
            betas: variances, converted to float64.
            train_t_index: (T,) index of each step in training; 0 ... T-1 if absent.
            num_train_timesteps: number of steps in training; T if absent.

        Raises:
            ValueError: betas of another shape or range, indices that do not fit.
        """
        refuse_mask("betas", betas)
        schedule = cls.__new__(cls)
        schedule._set_betas(
            torch.as_tensor(betas, dtype=torch.float64).cpu(), train_t_index, num_train_timesteps
        )
        return schedule

    def respace(self, num_sampling_steps: int) -> NoiseSchedule:
        """Shorter schedule through evenly spaced steps of this one, the first and the last kept.

        The kept steps keep their ``alphas_cumprod``. Indices are rounded to the nearest step, so
        that any number of steps will do. A single step is the last one, which leads from T-1 to x_0
        at once.

        Args:
            num_sampling_steps: number of steps to keep, 1 ... T.

        Raises:
            ValueError: a number outside that range.
        """
        if not 1 <= num_sampling_steps <= self.num_timesteps:
            raise ValueError(
                f"num_sampling_steps must be in [1, {self.num_timesteps}], the length of the "
                f"schedule, got {num_sampling_steps}"
            )
        gaps, last = num_sampling_steps - 1, self.num_timesteps - 1
        if gaps:
            # round(i * last / gaps) in integers: halves go up, whatever the floating point does
            keep = (2 * torch.arange(num_sampling_steps) * last + gaps) // (2 * gaps)
        else:
            keep = torch.tensor([last])
        alphas_cumprod = self.alphas_cumprod[keep]
        previous = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
        return NoiseSchedule.from_betas(
            1 - alphas_cumprod / previous,
            train_t_index=self.train_t_index[keep],
            num_train_timesteps=self.num_train_timesteps,
        )

    def _set_betas(
        self,
        betas: Tensor,
        train_t_index: Tensor | None = None,
        num_train_timesteps: int | None = None,
    ) -> None:
        if betas.ndim != 1 or len(betas) < 1:
            raise ValueError(
                f"betas must have shape (T,) with T at least 1, got {tuple(betas.shape)}"
            )
        if not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError(
                f"betas must lie in (0, 1), got {float(betas.min())} ... {float(betas.max())}"
            )
        self.num_timesteps = len(betas)
        self.num_train_timesteps = num_train_timesteps or len(betas)
        self.train_t_index = torch.arange(len(betas)) if train_t_index is None else train_t_index
        if self.train_t_index.shape != betas.shape:
            raise ValueError(
                f"train_t_index must have shape {tuple(betas.shape)} as betas, "
                f"got {tuple(self.train_t_index.shape)}"
            )
        if not bool(
            ((self.train_t_index >= 0) & (self.train_t_index < self.num_train_timesteps)).all()
        ):
            raise ValueError(
                f"train_t_index must lie in [0, {self.num_train_timesteps}), "
                f"got {int(self.train_t_index.min())} ... {int(self.train_t_index.max())}"
            )

        one = betas.new_ones(1)
        self.betas = betas
        self.alphas = 1 - betas
        self.alphas_cumprod = self.alphas.cumprod(0)
        self.alphas_cumprod_prev = torch.cat([one, self.alphas_cumprod[:-1]])
        remaining = 1 - self.alphas_cumprod
        self.posterior_mean_coef_start = betas * self.alphas_cumprod_prev.sqrt() / remaining
        self.posterior_mean_coef_t = self.alphas.sqrt() * (1 - self.alphas_cumprod_prev) / remaining
        self.posterior_variance = betas * (1 - self.alphas_cumprod_prev) / remaining
        # The value at t_index 0 only has to be finite where no noise is added.
        at_0 = self.posterior_variance[1:2] if len(betas) > 1 else betas
        self.posterior_log_variance_clipped = torch.cat([at_0, self.posterior_variance[1:]]).log()


def _linear(num_timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    return torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64)


def _quadratic(num_timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    return _linear(num_timesteps, math.sqrt(beta_start), math.sqrt(beta_end)).square()


def _warmup(divisor: int) -> Callable[[int, float, float], Tensor]:
    def betas(num_timesteps: int, beta_start: float, beta_end: float) -> Tensor:
        ramp = _quadratic(max(num_timesteps // divisor, 1), beta_start, beta_end)
        return torch.cat([ramp, ramp.new_full((num_timesteps - len(ramp),), beta_end)])

    return betas


def _cosine_alphas_cumprod(time: Tensor) -> Tensor:
    """f(t) of Nichol & Dhariwal, eq. 17, for times in [0, 1]."""
    return ((time + 0.008) / 1.008 * (math.pi / 2)).cos().square()


def _cosine(num_timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    time = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
    f = _cosine_alphas_cumprod(time)
    return (1 - f[1:] / f[:-1]).clamp(max=MAX_COSINE_BETA)


def _imgx_cosine(num_timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    time = torch.arange(num_timesteps, dtype=torch.float64) / (num_timesteps - 1)
    rise = 1 - _cosine_alphas_cumprod(time)
    rise[0] = 0
    return rise * (beta_end - beta_start) + beta_start


_BETAS: dict[str, Callable[[int, float, float], Tensor]] = {
    "linear": _linear,
    "quadratic": _quadratic,
    "cosine": _cosine,
    "imgx_cosine": _imgx_cosine,
    "warmup10": _warmup(10),
    "warmup50": _warmup(2),
}
