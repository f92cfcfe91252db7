"""The options of a run: one dataclass per subject, with the range of each option at its field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recycleseg.run.ranges import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    AT_LEAST_2,
    AUTO_OR_AT_LEAST_1,
    BELOW_1,
    KERNELS,
    PATCH_SIZE,
    SCALES,
    SHARE,
    SIZES,
    within,
)

StrategyName = Literal["recycling", "standard", "self_conditioning", "supervised"]
CompileMode = Literal["auto", "off", "default", "max-autotune"]


@dataclass(frozen=True)
class PhantomConfig:
    """The built-in data set, used if `data` is not given.

    Attributes:
        spatial_dims: 2 for images, 3 for volumes.
    """

    spatial_dims: Literal[2, 3] = 3


@dataclass(frozen=True)
class PatchConfig:
    """One training sample: a part of an image.

    Attributes:
        size: voxels per axis; null takes the median image shape, rounded up to a multiple of 8.
        max_voxels: if size is null, the longest axes are cut until a patch has at most so many.
        foreground_probability: share of the patches whose centre is a labelled voxel.
        overlap: share of a window that its neighbour covers too, in sampling of whole volumes.
    """

    size: tuple[int, ...] | None = within(PATCH_SIZE, None)
    max_voxels: int = within(AT_LEAST_1, 2**18)
    foreground_probability: float = within(SHARE, 0.5)
    overlap: float = within(BELOW_1, 0.5)


@dataclass(frozen=True)
class ModelConfig:
    """The U-Net (see recycleseg.UNet).

    Attributes:
        channels: feature channels per level, finest first.
        scales: down-sampling factors: one for all, or one entry per step between two levels, each a
            number or one per axis, such as [[2, 2, 1], 2] for three levels and thick slices.
        kernels: odd kernel sizes: one for all, or one entry per level, each a number or one per
            axis, such as [[3, 3, 1], 3, 3].
        num_res_blocks: residual blocks per level.
        num_heads: attention heads at the lowest level.
        num_transformer_layers: transformer layers at the lowest level.
        dropout: dropout rate in residual blocks and transformer.
        time_conditioning: film scales and shifts after the norm; imgx adds before the norm.
        checkpoint_activations: compute activations again in the backward pass, to save memory.
    """

    channels: tuple[int, ...] = within(SIZES, (32, 64, 128, 256))
    scales: int | tuple[int | tuple[int, ...], ...] = within(SCALES, 2)
    kernels: int | tuple[int | tuple[int, ...], ...] = within(KERNELS, 3)
    num_res_blocks: int = within(AT_LEAST_1, 2)
    num_heads: int = within(AT_LEAST_1, 8)
    num_transformer_layers: int = within(AT_LEAST_1, 1)
    dropout: float = within(BELOW_1, 0.0)
    time_conditioning: Literal["film", "imgx"] = "film"
    checkpoint_activations: bool = False


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise process.

    Attributes:
        schedule: how beta, the variance of the added noise, grows with t.
        num_timesteps: number of time steps T in training.
        beta_start: first beta.
        beta_end: last beta.
        prediction_type: what the network predicts, the mask (x_start) or the noise.
        variance_type: variance of the noise in a reverse step.
        timesteps: how t is drawn in training.
    """

    schedule: Literal["linear", "quadratic", "cosine", "warmup10", "warmup50"] = "linear"
    num_timesteps: int = within(AT_LEAST_2, 1001)
    beta_start: float = 1e-4
    beta_end: float = 0.02
    prediction_type: Literal["x_start", "noise"] = "x_start"
    variance_type: Literal["fixed_small", "fixed_large", "learned", "learned_range"] = "fixed_small"
    timesteps: Literal["uniform", "importance"] = "uniform"


@dataclass(frozen=True)
class RecyclingConfig:
    """Options of the strategy `recycling`.

    Attributes:
        prev_step: time step of the first prediction, T - 1 (max) or t + 1 (next).
        reverse_step: get x_t by a reverse step, not by new noise; only with prev_step next.
    """

    prev_step: Literal["max", "next"] = "max"
    reverse_step: bool = False


@dataclass(frozen=True)
class SelfConditioningConfig:
    """Options of the strategy `self_conditioning`.

    Attributes:
        prev_step: time step of the first prediction, t (same) or t + 1 (next).
        probability: share of the samples where the network gets the first prediction as input.
    """

    prev_step: Literal["same", "next"] = "same"
    probability: float = within(SHARE, 0.5)


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms.

    Attributes:
        dice: weight of the soft Dice loss over the foreground classes in the sample.
        focal: weight of the focal loss with gamma 2.
        cross_entropy: weight of the cross entropy.
        mse: weight of the mean squared error of the noise.
        vlb: weight of the variational lower bound, which trains learned variances.
    """

    dice: float = within(AT_LEAST_0, 1.0)
    focal: float = within(AT_LEAST_0, 20.0)
    cross_entropy: float = within(AT_LEAST_0, 0.0)
    mse: float = within(AT_LEAST_0, 0.0)
    vlb: float = within(AT_LEAST_0, 0.0)


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its learning rate: warm-up, then cosine.

    Attributes:
        steps: optimiser steps of the run; 0 takes as many as fit into the option `time`.
        batch_size: samples of a forward pass, over all processes.
        accumulation: forward passes per optimiser step.
        lr_init: learning rate at step 0.
        lr_peak: learning rate after the warm-up.
        lr_end: learning rate at the last step.
        warmup_steps: optimiser steps of the warm-up.
        weight_decay: decoupled weight decay.
        grad_clip: largest gradient norm; larger gradients are scaled down to it.
        ema_decay: decay of the averaged weights, which validation uses; 0 turns averaging off.
    """

    steps: int = within(AT_LEAST_0, 10_000)
    batch_size: int = within(AT_LEAST_1, 2)
    accumulation: int = within(AT_LEAST_1, 1)
    lr_init: float = within(AT_LEAST_0, 1e-5)
    lr_peak: float = within(AT_LEAST_0, 8e-4)
    lr_end: float = within(AT_LEAST_0, 5e-5)
    warmup_steps: int = within(AT_LEAST_0, 100)
    weight_decay: float = within(AT_LEAST_0, 1e-8)
    grad_clip: float = within(ABOVE_0, 1.0)
    ema_decay: float = within(BELOW_1, 0.0)


@dataclass(frozen=True)
class SamplingConfig:
    """How whole volumes are segmented in validation and at the end.

    Attributes:
        sampler: reverse process.
        num_steps: reverse steps, up to diffusion.num_timesteps; 1 goes from noise to mask at once.
        eta: noise of ddim from 0 to 1; 0 adds none.
        samples: trajectories per case, each from its own noise; their probabilities are averaged.
        mirror: average every prediction of the network over all flips of the axes.
        fusion: average overlapping windows at every step, or at the end of their trajectories. Step
            was better for small windows and the strategy recycling, trajectory for standard.
        window_batch: windows per forward pass; auto looks at patch, channels and free memory.
    """

    sampler: Literal["ddim", "ddpm"] = "ddim"
    num_steps: int = 5
    eta: float = within(SHARE, 0.0)
    samples: int = within(AT_LEAST_1, 1)
    mirror: bool = False
    fusion: Literal["trajectory", "step"] = "step"
    window_batch: int | Literal["auto"] = within(AUTO_OR_AT_LEAST_1, "auto")


@dataclass(frozen=True)
class PostprocessConfig:
    """How label maps of whole volumes are cleaned (see recycleseg.prediction.postprocess).

    Attributes:
        keep_largest: keep the largest component of these classes, of each (all), or of all
            classes together (foreground).
        fill_holes: fill the holes of these classes, or of each (all).
        muscle_ultrasound: the rule of the paper for its muscle-ultrasound data, for 2D only.
    """

    keep_largest: tuple[str, ...] | str = ()
    fill_holes: tuple[str, ...] | str = ()
    muscle_ultrasound: bool = False

    def __post_init__(self) -> None:
        if self.muscle_ultrasound and (self.keep_largest or self.fill_holes):
            raise ValueError("muscle_ultrasound: expected no keep_largest or fill_holes with it")

    @property
    def has_rules(self) -> bool:
        """Whether there is any rule."""
        return bool(self.keep_largest or self.fill_holes or self.muscle_ultrasound)


@dataclass(frozen=True)
class ValidationConfig:
    """When whole validation volumes are sampled, and when checkpoints are written.

    Attributes:
        every: optimiser steps between two validations; 0 makes four of them. A checkpoint comes
            before each.
        max_cases: number of validation cases that are sampled each time; null takes all, or what
            fits into the option `time`.
        patch_every: optimiser steps between two estimates of the Dice on patches; 0 takes about a
            hundredth of the training time, null makes none.
        patches: number of patches of validation cases for this estimate.
        save_every: optimiser steps between two checkpoints; null saves after validations only.
        keep_last: how many of the last checkpoints are kept; all but the newest have their step in
            their names.
    """

    every: int = within(AT_LEAST_0, 500)
    max_cases: int | None = within(AT_LEAST_1, None)
    patch_every: int | None = within(AT_LEAST_0, 0)
    patches: int = within(AT_LEAST_1, 8)
    save_every: int | None = within(AT_LEAST_1, None)
    keep_last: int = within(AT_LEAST_1, 1)


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how the computation runs.

    Attributes:
        device: auto, cpu, cuda or cuda:N; auto takes a GPU if there is one.
        precision: auto takes bf16 autocast if the machine computes in bf16.
        threads: number of CPU threads; null keeps PyTorch's choice.
        log_every: optimiser steps between two lines of metrics.jsonl.
        cache: folder of the preprocessed data; null takes the user's cache folder.
    """

    device: str = "auto"
    precision: Literal["auto", "bf16", "float32"] = "auto"
    threads: int | None = within(AT_LEAST_1, None)
    log_every: int = within(AT_LEAST_1, 10)
    cache: str | None = None
