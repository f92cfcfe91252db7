"""What a run can be told: one dataclass per subject, with the range of each option at its field."""

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
    SCALE,
    SHARE,
    SIZES,
    within,
)

StrategyName = Literal["recycling", "standard", "self_conditioning", "supervised"]
CompileMode = Literal["auto", "off", "default", "max-autotune"]


@dataclass(frozen=True)
class PhantomConfig:
    """The built-in data set that is trained on when `data` is not given.

    Attributes:
        spatial_dims: 2 or 3.
    """

    spatial_dims: Literal[2, 3] = 3


@dataclass(frozen=True)
class PatchConfig:
    """What one training sample is.

    Attributes:
        size: voxels per axis; null takes the median image shape, rounded up to a multiple of 8.
        max_voxels: where size is null, the longest axes are cut by steps of 8, down to 8, until a
            patch has no more.
        foreground_probability: share of the patches that are centred on a labelled voxel.
        overlap: share of a window that its neighbour repeats when whole volumes are sampled.
    """

    size: tuple[int, ...] | None = within(SIZES, None)
    max_voxels: int = within(AT_LEAST_1, 2**18)
    foreground_probability: float = within(SHARE, 0.5)
    overlap: float = within(BELOW_1, 0.5)


@dataclass(frozen=True)
class ModelConfig:
    """The U-Net (see recycleseg.UNet).

    Attributes:
        channels: feature channels per level, finest first.
        first_scale: down-sampling between the first two levels, one number or one per axis.
        scale: down-sampling between the other levels.
        num_res_blocks: residual blocks per level.
        num_heads: attention heads at the bottom.
        num_transformer_layers: transformer layers at the bottom.
        dropout: rate in residual blocks and transformer.
        time_conditioning: film scales and shifts after the norm; imgx adds before it.
        checkpoint_activations: recompute activations in the backward pass, to save memory.
    """

    channels: tuple[int, ...] = within(SIZES, (32, 64, 128, 256))
    first_scale: int | tuple[int, ...] = within(SCALE, 2)
    scale: int | tuple[int, ...] = within(SCALE, 2)
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
        schedule: shape of the betas.
        num_timesteps: T of training.
        beta_start: first beta.
        beta_end: last beta.
        prediction_type: what the network's output stands for.
        variance_type: variance of the reverse step.
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
        prev_step: noise level of the first prediction, T - 1 (max) or t + 1 (next).
        reverse_step: reach x_t by a reverse step instead of by fresh noise (only with next).
    """

    prev_step: Literal["max", "next"] = "max"
    reverse_step: bool = False


@dataclass(frozen=True)
class SelfConditioningConfig:
    """Options of the strategy `self_conditioning`.

    Attributes:
        prev_step: noise level of the first prediction, t (same) or t + 1 (next).
        probability: share of the samples that see the first prediction.
    """

    prev_step: Literal["same", "next"] = "same"
    probability: float = within(SHARE, 0.5)


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms.

    Attributes:
        dice: soft Dice over the foreground classes present.
        focal: focal loss, gamma 2.
        cross_entropy: cross entropy.
        mse: mean squared error of the noise.
        vlb: variational lower bound.
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
        steps: optimiser steps of the run.
        batch_size: samples per forward pass.
        accumulation: forward passes per optimiser step.
        lr_init: learning rate at step 0.
        lr_peak: after the warm-up.
        lr_end: at the last step.
        warmup_steps: steps of the warm-up.
        weight_decay: decoupled weight decay.
        grad_clip: largest gradient norm.
        ema_decay: decay of the averaged weights that are validated and saved; 0 turns it off.
    """

    steps: int = within(AT_LEAST_1, 10_000)
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
        num_steps: reverse steps.
        eta: noise of ddim, 0 is deterministic.
        samples: trajectories from noise of their own, whose probabilities are averaged; a
            supervised network has one.
        mirror: average every prediction of the network over all flips of the axes.
        fusion: step averages overlapping windows at every sampling step, trajectory at the end.
            Step was better for small windows and the strategy recycling, trajectory for standard.
        window_batch: windows per forward pass; auto goes by patch, channels and free memory.
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
        keep_largest: classes of which the largest component is kept; all takes every class by
            itself, foreground all classes together.
        fill_holes: classes whose holes are filled; all takes every class.
        muscle_ultrasound: the rule of the muscle-ultrasound data of the paper, for 2D only.
    """

    keep_largest: tuple[str, ...] | str = ()
    fill_holes: tuple[str, ...] | str = ()
    muscle_ultrasound: bool = False

    def __post_init__(self) -> None:
        if self.muscle_ultrasound and (self.keep_largest or self.fill_holes):
            raise ValueError("muscle_ultrasound: expected no keep_largest or fill_holes with it")

    @property
    def has_rules(self) -> bool:
        """Whether any label map is changed."""
        return bool(self.keep_largest or self.fill_holes or self.muscle_ultrasound)


@dataclass(frozen=True)
class ValidationConfig:
    """When whole validation volumes are sampled, and when to stop.

    Attributes:
        every: optimiser steps between two validations, each followed by a checkpoint.
        max_cases: validation cases that are sampled each time; null takes all.
        save_every: optimiser steps between two checkpoints; null saves at validations only.
    """

    every: int = within(AT_LEAST_1, 500)
    max_cases: int | None = within(AT_LEAST_1, None)
    save_every: int | None = within(AT_LEAST_1, None)


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how the computation runs.

    Attributes:
        device: auto takes a GPU where there is one.
        precision: auto takes bf16 autocast where the machine computes in it.
        threads: CPU threads; null leaves PyTorch's choice.
        log_every: optimiser steps between two lines of metrics.jsonl.
        cache: folder of the preprocessed data; null puts it in the user's cache folder.
    """

    device: str = "auto"
    precision: Literal["auto", "bf16", "float32"] = "auto"
    threads: int | None = within(AT_LEAST_1, None)
    log_every: int = within(AT_LEAST_1, 10)
    cache: str | None = None
