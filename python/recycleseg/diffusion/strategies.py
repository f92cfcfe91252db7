"""The training strategies: what the network sees, and what its output is compared with.

`recycling` is the proposal of Fu et al., MELBA 2023:016, section 3.2; `standard` noises the
truth (Ho et al. 2020); `self_conditioning` feeds a first prediction back (Chen et al. 2023);
`supervised` is the same network without mask and time.

All take the label and, where not every voxel has one, the `known` voxels (B, *S) bool. The loss is
that of known voxels alone. The label must be background elsewhere, because a label is noised whole:
when the network is used, each voxel it sees is of some class, and background is the most likely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recycleseg.diffusion.likelihood import noise_mse_loss, vlb_loss
from recycleseg.diffusion.network import Network, NetworkInput
from recycleseg.diffusion.process import GaussianDiffusion
from recycleseg.diffusion.samplers import reverse_step
from recycleseg.diffusion.timesteps import Timesteps
from recycleseg.losses import SegmentationLoss
from recycleseg.ops.philox import Noise, PhiloxNoise
from recycleseg.rows import Rows


@dataclass(frozen=True)
class Draws:
    """The random numbers of a training step, drawn before it so that it is a function of tensors.

    Attributes:
        t_index: (B,) int64.
        weight: (B,) weight of the loss of each sample.
        noise: `num_noises` of the strategy, each (B, C, *S) float32, or a seed to draw it from.
        uniform: (B,) in [0, 1).
    """

    t_index: Tensor
    weight: Tensor
    noise: tuple[Noise, ...]
    uniform: Tensor


def make_draws(
    strategy: DiffusionStrategy,
    timesteps: Timesteps,
    generator: torch.Generator,
    noise_shape: tuple[int, ...],
    rows: Rows | None = None,
) -> Draws:
    """Draw the random numbers for one step, on the generator's device.

    Only seeds of the noise are drawn from the generator: on a CPU one for each row, so that the
    noise of a row does not depend on the others; on a GPU one for all, and the kernel that needs
    the noise draws it by row and voxel.

    Args:
        strategy: tells the range of the time steps, and how often it takes noise.
        timesteps: draws the time steps.
        generator: source of all numbers.
        noise_shape: (B, C, *S).
        rows: which rows of a batch these are, whose numbers are drawn for all its rows; None: they
            are all of it.
    """
    device, rows = generator.device, rows or Rows.all(noise_shape[0])
    low, high = strategy.t_range
    drawn = timesteps.sample(rows.batch, low, high, generator=generator, device=device)
    uniform = torch.rand(rows.batch, generator=generator, device=device)
    noise: tuple[Noise, ...]
    if device.type == "cuda":
        seed = torch.randint(2**63 - 1, (), generator=generator, device=device)
        noise = tuple(
            PhiloxNoise(seed, torch.full((), i, device=device), rows.first)
            for i in range(strategy.num_noises)
        )
    else:
        seeds = torch.randint(2**63 - 1, (strategy.num_noises, rows.batch), generator=generator)
        noise = tuple(_noise_of_rows(of_rows[rows.slice], noise_shape) for of_rows in seeds)
    t_index, weight, uniform = (numbers[rows.slice] for numbers in (*drawn, uniform))
    return Draws(t_index, weight, noise, uniform)


def _noise_of_rows(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    noise = torch.empty(shape)
    for row, seed in zip(noise, seeds.tolist(), strict=True):
        row.normal_(generator=torch.Generator().manual_seed(seed))
    return noise


@dataclass(frozen=True)
class StepResult:
    """What one training step computed.

    Attributes:
        loss: scalar, the weighted mean, with gradient.
        loss_per_sample: (B,) unweighted, without gradient.
        logits: (B, C, *S) of the predicted x_start, without gradient.
        t_index: (B,) int64; None for `supervised`.
    """

    loss: Tensor
    loss_per_sample: Tensor
    logits: Tensor
    t_index: Tensor | None


@dataclass(frozen=True)
class DiffusionObjective:
    """Segmentation loss of the predicted x_start, with optional noise MSE and VLB terms.

    Attributes:
        diffusion: the process.
        segmentation: loss of the predicted logits.
        mse: weight of `noise_mse_loss`.
        vlb: weight of `vlb_loss`.
    """

    diffusion: GaussianDiffusion
    segmentation: SegmentationLoss
    mse: float = 0.0
    vlb: float = 0.0

    @property
    def needs_x(self) -> bool:
        """Whether the loss needs x_t beside the network's output."""
        return self.mse > 0 or self.vlb > 0 or self.diffusion.prediction_type == "noise"

    def __call__(
        self,
        model_out: Tensor,
        label: Tensor,
        draws: Draws,
        x_t: Tensor | None,
        noise: Noise,
        known: Tensor | None = None,
    ) -> StepResult:
        diffusion, t_index = self.diffusion, draws.t_index
        if x_t is None:
            logits, _ = diffusion.split_model_out(model_out)
            loss = self.segmentation(logits, label, known)
        else:
            logits = diffusion.predict_logits(model_out, x_t, t_index)
            loss = self.segmentation(logits, label, known)
            if self.mse > 0:
                drawn = noise.draw(x_t.shape) if isinstance(noise, PhiloxNoise) else noise
                mse = noise_mse_loss(diffusion, model_out, x_t, t_index, drawn, known)
                loss = loss + self.mse * mse
            if self.vlb > 0:
                x_start = diffusion.label_to_x(label, x_t.shape[1])
                vlb = vlb_loss(diffusion, model_out, x_start, x_t, t_index, known)
                loss = loss + self.vlb * vlb
        return StepResult((loss * draws.weight).mean(), loss.detach(), logits.detach(), t_index)


@dataclass(frozen=True)
class Supervised:
    """The network as a plain segmentation network: no mask, no time, nothing to draw.

    Attributes:
        segmentation: loss of the logits.
    """

    segmentation: SegmentationLoss

    def __call__(
        self,
        network: Network,
        image: Tensor,
        label: Tensor,
        draws: Draws | None = None,
        known: Tensor | None = None,
    ) -> StepResult:
        logits = network(image)
        loss = self.segmentation(logits, label, known)
        return StepResult(loss.mean(), loss.detach(), logits.detach(), None)


@dataclass(frozen=True)
class Standard:
    """Denoise a noised ground truth, as Ho et al. 2020.

    Attributes:
        objective: loss of the step.
        num_classes: C.
        num_noises: how often noise is drawn.
    """

    objective: DiffusionObjective
    num_classes: int
    num_noises = 1

    @property
    def t_range(self) -> tuple[int, int]:
        """The range [low, high) of t_index."""
        return 0, self.objective.diffusion.num_timesteps

    def __call__(
        self,
        network: Network,
        image: Tensor,
        label: Tensor,
        draws: Draws,
        known: Tensor | None = None,
    ) -> StepResult:
        objective, C = self.objective, self.num_classes
        diffusion = objective.diffusion
        t, (noise,) = draws.t_index, draws.noise
        x = NetworkInput(image, C)
        x_t = diffusion.forward_step(label, "label", C, t, noise, x, return_x=objective.needs_x)
        model_out = network(x.tensor, t=diffusion.network_time(t))
        return objective(model_out, label, draws, x_t, noise, known)


@dataclass(frozen=True)
class Recycling:
    """Denoise a noised prediction, made from a noised truth (Fu et al. 2023).

    Attributes:
        objective: loss of the step.
        num_classes: C.
        prev_step: "max" predicts from x_{T-1}, where next to nothing of the truth is left; "next"
            from x_{t+1}.
        reverse_step: x_t is the posterior mean given the prediction and x_{t+1}, instead of the
            prediction with fresh noise; only with "next".
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

    @property
    def t_range(self) -> tuple[int, int]:
        """The range [low, high) of t_index."""
        return 0, self.objective.diffusion.num_timesteps - 1

    @property
    def num_noises(self) -> int:
        """How often noise is drawn."""
        return 1 if self.reverse_step else 2

    def __call__(
        self,
        network: Network,
        image: Tensor,
        label: Tensor,
        draws: Draws,
        known: Tensor | None = None,
    ) -> StepResult:
        objective, C = self.objective, self.num_classes
        diffusion = objective.diffusion
        T = diffusion.num_timesteps
        t, noise = draws.t_index, draws.noise
        t_prev = torch.full_like(t, T - 1) if self.prev_step == "max" else t + 1
        x = NetworkInput(image, C)

        with torch.no_grad():
            needs_x_prev = self.reverse_step or diffusion.prediction_type == "noise"
            x_prev = diffusion.forward_step(
                label, "label", C, t_prev, noise[0], x, return_x=needs_x_prev
            )
            model_out = network(x.tensor, t=diffusion.network_time(t_prev))
            x_t: Tensor | None
            if self.reverse_step:
                assert x_prev is not None
                x_t, _ = reverse_step(diffusion, model_out, x_prev, t_prev, x, sampler="ddpm")
            else:
                x_start, kind = diffusion.predicted_source(model_out, x_prev, t_prev)
                x_t = diffusion.forward_step(
                    x_start, kind, C, t, noise[1], x, return_x=objective.needs_x
                )

        model_out = network(x.tensor, t=diffusion.network_time(t))
        return objective(model_out, label, draws, x_t, noise[-1], known)


@dataclass(frozen=True)
class SelfConditioning:
    """Denoise with a first prediction as further mask channels (Chen et al. 2023).

    The network's mask has 2C channels: mask(x_t), then the prediction or zeros. Where the
    diffusion is ``imgx_compat``, "next" shows mask(x_{t+1}) in the place of mask(x_t) at time t,
    as ImgX does.

    Attributes:
        objective: loss of the step.
        num_classes: C.
        prev_step: "same" predicts from x_t itself; "next" from x_{t+1}, whose reverse step gives
            x_t.
        probability: how often the prediction is kept rather than replaced by zeros.
        num_noises: how often noise is drawn.
    """

    objective: DiffusionObjective
    num_classes: int
    prev_step: Literal["same", "next"] = "same"
    probability: float = 0.5
    num_noises = 1

    def __post_init__(self) -> None:
        if self.prev_step not in ("same", "next"):
            raise ValueError(f"prev_step: expected 'same' or 'next', got {self.prev_step!r}")
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"probability: expected 0 to 1, got {self.probability}")

    @property
    def t_range(self) -> tuple[int, int]:
        """The range [low, high) of t_index."""
        T = self.objective.diffusion.num_timesteps
        return 0, T if self.prev_step == "same" else T - 1

    def __call__(
        self,
        network: Network,
        image: Tensor,
        label: Tensor,
        draws: Draws,
        known: Tensor | None = None,
    ) -> StepResult:
        objective, C = self.objective, self.num_classes
        diffusion = objective.diffusion
        t, (noise,) = draws.t_index, draws.noise
        t_prev = t if self.prev_step == "same" else t + 1
        x = NetworkInput(image, 2 * C)
        predicted = x.mask[:, C:]

        with torch.no_grad():
            x_t = diffusion.forward_step(label, "label", C, t_prev, noise, x, return_x=True)
            assert x_t is not None
            predicted.zero_()
            model_out = network(x.tensor, t=diffusion.network_time(t_prev))
            into = None if self.prev_step == "same" or diffusion.imgx_compat else x
            x_prev, probs = reverse_step(diffusion, model_out, x_t, t_prev, into, sampler="ddpm")
            if self.prev_step == "next":
                x_t = x_prev
            keep = draws.uniform <= self.probability
            predicted.copy_(probs * keep.view(-1, *[1] * (probs.ndim - 1)))

        model_out = network(x.tensor, t=diffusion.network_time(t))
        x_t = x_t if objective.needs_x else None
        return objective(model_out, label, draws, x_t, noise, known)


DiffusionStrategy = Standard | Recycling | SelfConditioning
Strategy = Supervised | DiffusionStrategy
