"""What a run can be told: typed dataclasses, one per subject, filled from a preset and options."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from recycleseg.data.augment import AugmentConfig
from recycleseg.data.preprocess import PreprocessConfig
from recycleseg.run.config_ranges import range_problems

StrategyName = Literal["recycling", "standard", "self_conditioning", "supervised"]
CompileMode = Literal["auto", "off", "default", "max-autotune"]


@dataclass(frozen=True)
class PhantomConfig:
    """The built-in data set that is trained on when `data` is not given.

    Attributes:
        spatial_dims: 2 or 3.
        seed: seed of the scenes.
    """

    spatial_dims: Literal[2, 3] = 3
    seed: int = 0


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

    size: tuple[int, ...] | None = None
    max_voxels: int = 2**18
    foreground_probability: float = 0.5
    overlap: float = 0.5


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

    channels: tuple[int, ...] = (32, 64, 128, 256)
    first_scale: int | tuple[int, ...] = 2
    scale: int | tuple[int, ...] = 2
    num_res_blocks: int = 2
    num_heads: int = 8
    num_transformer_layers: int = 1
    dropout: float = 0.0
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
    num_timesteps: int = 1001
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
    probability: float = 0.5


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

    dice: float = 1.0
    focal: float = 20.0
    cross_entropy: float = 0.0
    mse: float = 0.0
    vlb: float = 0.0


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

    steps: int = 10_000
    batch_size: int = 2
    accumulation: int = 1
    lr_init: float = 1e-5
    lr_peak: float = 8e-4
    lr_end: float = 5e-5
    warmup_steps: int = 100
    weight_decay: float = 1e-8
    grad_clip: float = 1.0
    ema_decay: float = 0.0


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
    eta: float = 0.0
    samples: int = 1
    mirror: bool = False
    fusion: Literal["trajectory", "step"] = "step"
    window_batch: int | Literal["auto"] = "auto"


@dataclass(frozen=True)
class PostprocessConfig:
    """How label maps of whole volumes are cleaned (see recycleseg.prediction.postprocess).

    Attributes:
        keep_largest: classes of which the largest components are kept; all takes every class by
            itself, foreground all classes together.
        num_components: components that are kept of each; null keeps all of at least min_size.
        min_size: smaller components of these classes are removed; mm^3, in 2D mm^2.
        fill_holes: classes whose holes are filled; all takes every class.
        muscle_ultrasound: the rule of the muscle-ultrasound data of the paper, for 2D only.
    """

    keep_largest: tuple[str, ...] | str = ()
    num_components: int | None = 1
    min_size: float = 0.0
    fill_holes: tuple[str, ...] | str = ()
    muscle_ultrasound: bool = False

    def __post_init__(self) -> None:
        if self.num_components is not None and self.num_components < 1:
            raise ValueError(f"num_components: expected at least 1, got {self.num_components}")
        if not 0 <= self.min_size < float("inf"):
            raise ValueError(f"min_size: expected at least 0, got {self.min_size}")
        if not self.keep_largest and (self.num_components != 1 or self.min_size):
            raise ValueError("num_components, min_size: expected keep_largest with them, got none")
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
        patience: validations without a better Dice after which training stops; null never.
        save_every: optimiser steps between two checkpoints; null saves at validations only.
    """

    every: int = 500
    max_cases: int | None = None
    patience: int | None = None
    save_every: int | None = None


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
    threads: int | None = None
    log_every: int = 10
    cache: str | None = None


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run.

    Attributes:
        data: data set in the nnU-Net raw layout; null makes the built-in phantom.
        out: run folder; null takes runs/<data set>-<strategy>.
        strategy: how the mask that the network sees is made.
        seed: seed of weights, batches, noise and augmentation.
        imgx_compat: do what ImgX does wherever it departs from the literature.
        final_split: cases of the table at the end.
        compile: how torch.compile serves training and sampling; auto compiles on a GPU.

    Raises ValueError naming every option whose value is out of its range.
    """

    data: str | None = None
    out: str | None = None
    strategy: StrategyName = "recycling"
    seed: int = 0
    imgx_compat: bool = False
    final_split: Literal["test", "val"] = "test"
    compile: CompileMode = "auto"
    phantom: PhantomConfig = field(default_factory=PhantomConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    patch: PatchConfig = field(default_factory=PatchConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    recycling: RecyclingConfig = field(default_factory=RecyclingConfig)
    self_conditioning: SelfConditioningConfig = field(default_factory=SelfConditioningConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        settings = list(_flat(self))
        problems = [
            f"{name}: expected one of {', '.join(map(str, get_args(hint)))}, got {value!r}"
            for name, value, hint in settings
            if get_origin(hint) is Literal and value not in get_args(hint)
        ]
        problems += range_problems({name: value for name, value, _ in settings})
        if problems:
            raise ValueError("; ".join(problems))


def add_config_arguments(parser: ArgumentParser) -> None:
    """Make every field of `TrainConfig` an option of the parser, with dots between the levels."""
    parser.add_class_arguments(TrainConfig, as_group=False)


def config_from(parsed: Namespace) -> TrainConfig:
    """The configuration in what such a parser has parsed.

    Raises ValueError naming the options whose values are out of their range.
    """
    values: dict[str, Any] = {}
    for name, default in vars(TrainConfig()).items():
        values[name] = parsed[name]
        if is_dataclass(default):
            group: type[Any] = type(default)
            try:
                values[name] = group(**vars(parsed[name]))
            except ValueError as error:
                raise ValueError(f"{name}.{error}") from error
    return TrainConfig(**values)


def load_config(path: Path) -> TrainConfig:
    """Read the config.yaml of a run folder.

    Raises ValueError naming the file when it is not there or holds something else.
    """
    parser = ArgumentParser(exit_on_error=False)
    add_config_arguments(parser)
    try:
        return config_from(parser.parse_path(path))
    except (OSError, TypeError, ValueError, ArgumentError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: expected a run's config.yaml: {reason}") from error


def preset_names() -> list[str]:
    """Names of the presets that are installed."""
    files = resources.files("recycleseg").joinpath("presets").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def preset_file(name: str) -> AbstractContextManager[Path]:
    """The YAML file of a preset, on disk while the block runs.

    Raises ValueError for a name that is not installed.
    """
    if name not in preset_names():
        raise ValueError(f"preset: expected one of {', '.join(preset_names())}, got {name!r}")
    return resources.as_file(resources.files("recycleseg") / f"presets/{name}.yaml")


def load_preset(name: str, **settings: Any) -> TrainConfig:
    """The configuration of a preset, with fields of `TrainConfig` replaced by `settings`.

    Raises ValueError for an unknown preset and for values out of their range.
    """
    with preset_file(name) as path:
        return replace(load_config(path), **settings)


def check_same_run(config: TrainConfig, saved: TrainConfig) -> None:
    """Raise ValueError if a run saved with one configuration cannot go on with another.

    What decides the run's numbers must be the same; where it is computed, how often it is
    validated and which cases are evaluated at the end may change.
    """
    free = {"out", "runtime", "compile", "validation", "sampling", "postprocess", "final_split"}
    changed = [
        f"{name} is {theirs!r} in the run, {ours!r} now"
        for (name, ours, _), (_, theirs, _) in zip(_flat(config), _flat(saved), strict=True)
        if ours != theirs and name.split(".")[0] not in free
    ]
    if changed:
        raise ValueError(
            f"--resume: {'; '.join(changed)}. To go on with the run's own settings, use "
            "--config RUN/config.yaml"
        )


def _flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted name, value and type of every setting, in the order of the fields."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if is_dataclass(value):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value, hint
