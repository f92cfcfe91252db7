"""The training strategies: what the network sees, and what its output is compared with.

`recycling` is the proposal of Fu et al., MELBA 2023:016, section 3.2; `standard` noises the
truth (Ho et al. 2020); `self_conditioning` feeds a first prediction back (Chen et al. 2023);
`supervised` is the same network without mask and time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from recycleseg.diffusion.gaussian import GaussianDiffusion
from recycleseg.diffusion.samplers import Network
from recycleseg.diffusion.timesteps import Timesteps
from recycleseg.losses import SegmentationLoss


class Draws(Protocol):
    """Where a strategy takes its random numbers from."""

    def t_index(self, batch_size: int, low: int, high: int) -> tuple[Tensor, Tensor]:
        """Return t_index (B,) in [low, high) and the loss weight (B,) of each draw."""

    def noise(self, like: Tensor) -> Tensor:
        """Return standard normal noise of the shape, dtype and device of `like`."""

    def uniform(self, batch_size: int) -> Tensor:
        """Return (B,) uniform numbers in [0, 1)."""


@dataclass(frozen=True)
class RandomDraws:
    """Draws of a training run, all from one seeded generator."""

    timesteps: Timesteps
    generator: torch.Generator

    def t_index(self, batch_size: int, low: int, high: int) -> tuple[Tensor, Tensor]:
        return self.timesteps.sample(
            batch_size, low, high, generator=self.generator, device=self.generator.device
        )

    def noise(self, like: Tensor) -> Tensor:
        return torch.randn(
            like.shape, dtype=like.dtype, device=like.device, generator=self.generator
        )

    def uniform(self, batch_size: int) -> Tensor:
        return torch.rand(batch_size, device=self.generator.device, generator=self.generator)


@dataclass(frozen=True)
class StepResult:
    """What one training step computed.

    loss: scalar, the weighted mean that is differentiated. loss_per_sample: (B,), unweighted.
    logits: (B, C, *S) of the predicted x_start. t_index: (B,), None for `supervised`.
    """

    loss: Tensor
    loss_per_sample: Tensor
    logits: Tensor
    t_index: Tensor | None


@dataclass(frozen=True)
class DiffusionObjective:
    """Segmentation loss of the predicted x_start, with optional noise MSE and VLB terms."""

    diffusion: GaussianDiffusion
    segmentation: SegmentationLoss
    mse: float = 0.0
    vlb: float = 0.0

    def __call__(
        self,
        model_out: Tensor,
        x_start: Tensor,
        x_t: Tensor,
        noise: Tensor,
        label: Tensor,
        t_index: Tensor,
        weight: Tensor,
    ) -> StepResult:
        logits = self.diffusion.predict_logits(model_out, x_t, t_index)
        loss = self.segmentation(logits, label)
        if self.mse > 0:
            loss = loss + self.mse * self.diffusion.noise_mse_loss(model_out, x_t, t_index, noise)
        if self.vlb > 0:
            loss = loss + self.vlb * self.diffusion.vlb_loss(model_out, x_start, x_t, t_index)
        return StepResult((loss * weight).mean(), loss, logits, t_index)


@dataclass(frozen=True)
class Supervised:
    """The network as a plain segmentation network: no mask, no time."""

    segmentation: SegmentationLoss

    def __call__(self, network: Network, image: Tensor, label: Tensor, draws: Draws) -> StepResult:
        logits = network(image, None, None)
        loss = self.segmentation(logits, label)
        return StepResult(loss.mean(), loss, logits, None)


@dataclass(frozen=True)
class Standard:
    """Denoise a noised ground truth, as Ho et al. 2020."""

    objective: DiffusionObjective
    num_classes: int

    def __call__(self, network: Network, image: Tensor, label: Tensor, draws: Draws) -> StepResult:
        diffusion = self.objective.diffusion
        x_start = diffusion.label_to_x(label, self.num_classes)
        t, weight = draws.t_index(len(image), 0, diffusion.num_timesteps)
        noise = draws.noise(x_start)
        x_t = diffusion.q_sample(x_start, t, noise)
        model_out = network(image, diffusion.x_to_mask(x_t), diffusion.network_time(t))
        return self.objective(model_out, x_start, x_t, noise, label, t, weight)


@dataclass(frozen=True)
class Recycling:
    """Denoise a noised prediction, made from a noised truth (Fu et al. 2023).

    prev_step: "max" predicts from x_{T-1}, where next to nothing of the truth is left; "next"
    from x_{t+1}. reverse_step (only with "next"): x_t is the posterior mean given the
    prediction and x_{t+1}, instead of the prediction with fresh noise.
    """

    objective: DiffusionObjective
    num_classes: int
    prev_step: Literal["max", "next"] = "max"
    reverse_step: bool = False

    def __post_init__(self) -> None:
        if self.prev_step not in ("max", "next"):
            raise ValueError(f"prev_step: expected 'max' or 'next', got {self.prev_step!r}")
        if self.reverse_step and self.prev_step == "max":
            raise ValueError(
                "reverse_step: expected False with prev_step 'max' (one reverse step from T-1 "
                "does not reach t), got True"
            )

    def __call__(self, network: Network, image: Tensor, label: Tensor, draws: Draws) -> StepResult:
        diffusion = self.objective.diffusion
        T = diffusion.num_timesteps
        x_start = diffusion.label_to_x(label, self.num_classes)
        t, weight = draws.t_index(len(image), 0, T - 1)
        t_prev = torch.full_like(t, T - 1) if self.prev_step == "max" else t + 1

        with torch.no_grad():
            noise = draws.noise(x_start)
            x_prev = diffusion.q_sample(x_start, t_prev, noise)
            model_out = network(image, diffusion.x_to_mask(x_prev), diffusion.network_time(t_prev))
            x_pred = diffusion.predict_x_start(model_out, x_prev, t_prev)
            if self.reverse_step:
                x_t = diffusion.predict_x_prev(x_pred, x_prev, t_prev)
            else:
                noise = draws.noise(x_start)
                x_t = diffusion.q_sample(x_pred, t, noise)

        model_out = network(image, diffusion.x_to_mask(x_t), diffusion.network_time(t))
        return self.objective(model_out, x_start, x_t, noise, label, t, weight)


@dataclass(frozen=True)
class SelfConditioning:
    """Denoise with a first prediction as further mask channels (Chen et al. 2023).

    The network's mask has 2C channels: mask(x_t), then the prediction or zeros; the
    prediction is kept with `probability`. prev_step: "same" predicts from x_t itself; "next"
    from x_{t+1}, whose reverse step gives x_t. With imgx_compat, "next" feeds x_{t+1} in the
    place of x_t at time t, as ImgX does.
    """

    objective: DiffusionObjective
    num_classes: int
    prev_step: Literal["same", "next"] = "same"
    probability: float = 0.5
    imgx_compat: bool = False

    def __post_init__(self) -> None:
        if self.prev_step not in ("same", "next"):
            raise ValueError(f"prev_step: expected 'same' or 'next', got {self.prev_step!r}")
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"probability: expected 0 to 1, got {self.probability}")

    def __call__(self, network: Network, image: Tensor, label: Tensor, draws: Draws) -> StepResult:
        diffusion = self.objective.diffusion
        T = diffusion.num_timesteps
        x_start = diffusion.label_to_x(label, self.num_classes)
        same = self.prev_step == "same"
        t, weight = draws.t_index(len(image), 0, T if same else T - 1)
        t_prev = t if same else t + 1

        with torch.no_grad():
            noise = draws.noise(x_start)
            x_prev = diffusion.q_sample(x_start, t_prev, noise)
            mask_prev = diffusion.x_to_mask(x_prev)
            model_out = network(
                image,
                torch.cat([mask_prev, torch.zeros_like(mask_prev)], dim=1),
                diffusion.network_time(t_prev),
            )
            x_pred = diffusion.predict_x_start(model_out, x_prev, t_prev)
            x_t = x_prev if same else diffusion.predict_x_prev(x_pred, x_prev, t_prev)
            keep = draws.uniform(len(image)) <= self.probability
            keep = keep.to(x_pred.dtype).reshape(-1, *[1] * (x_pred.ndim - 1))
            mask_t = mask_prev if self.imgx_compat else diffusion.x_to_mask(x_t)
            mask = torch.cat([mask_t, diffusion.x_to_mask(x_pred) * keep], dim=1)

        model_out = network(image, mask, diffusion.network_time(t))
        return self.objective(model_out, x_start, x_t, noise, label, t, weight)


Strategy = Supervised | Standard | Recycling | SelfConditioning
