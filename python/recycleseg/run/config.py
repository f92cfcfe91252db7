"""The configuration of a run: all its options, from a preset, a file or a command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from recycleseg.data.augment import AugmentConfig
from recycleseg.data.preprocess import PreprocessConfig
from recycleseg.data.splits import SplitRule
from recycleseg.files import FileError
from recycleseg.models.unet import one_per_level
from recycleseg.names import is_utf_8, printable
from recycleseg.run.options import (
    CompileMode,
    DiffusionConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PatchConfig,
    PhantomConfig,
    PostprocessConfig,
    RecyclingConfig,
    RuntimeConfig,
    SamplingConfig,
    SelfConditioningConfig,
    StrategyName,
    ValidationConfig,
)
from recycleseg.run.ranges import DURATION, FOLD, RANGE, SEED, within
from recycleseg.run.settings import fitted_settings, nested, settings_of
from recycleseg.run.yaml_file import read_yaml

# Options in the files of earlier versions, each with the only value that is still possible.
_REMOVED = {
    "phantom.seed": 0,
    "postprocess.num_components": 1,
    "postprocess.min_size": 0.0,
    "validation.patience": None,
}


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run.

    Attributes:
        data: data set in the nnU-Net raw layout; null uses the built-in phantom.
        out: run folder; null takes runs/<data set>-<strategy>.
        init_from: run folder whose best weights this run starts from; null starts at random.
        strategy: how the network's input mask is made in training.
        seed: seed of weights, batches, noise, augmentation, and of a split that no file gives.
        time: time of the whole run, such as 30m or 2h; null takes 1 hour on a CPU, 12 hours on a
            GPU. It counts if optim.steps is 0.
        split_file: split.json or nnU-Net's splits_final.json; null takes that of the data set.
        fold: fold of splits_final.json, or one of five drawn folds; all trains on every case that
            is not tested.
        group_by: patients, whose scans stay in one part of the split: a CSV file (case, patient),
            or a regular expression that finds the patient in the case name.
        imgx_compat: do the same as ImgX where it differs from the literature.
        final_split: cases of the table at the end, if there are any.
        compile: mode of torch.compile in training and sampling; auto compiles on a GPU only.

    Raises:
        ValueError: values out of their range; the message names all these options.
    """

    data: str | None = None
    out: str | None = None
    init_from: str | None = None
    strategy: StrategyName = "recycling"
    seed: int = within(SEED, 0)
    time: str | None = within(DURATION, None)
    split_file: str | None = None
    fold: int | Literal["all"] | None = within(FOLD, None)
    group_by: str | None = None
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
        problems = [
            *_problems(self),
            *_text_problems(asdict(self)),
            *_model_problems(self.model),
            *_noise_problems(self),
            *_loss_problems(self),
        ]
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def split_rule(self) -> SplitRule:
        """How the data set is split."""
        file = None if self.split_file is None else Path(self.split_file)
        return SplitRule(file, self.fold, self.group_by, self.seed)


def _text_problems(options: Mapping[str, Any], group: str = "") -> Iterator[str]:
    """One line per text that config.yaml cannot hold, so that no run could be used."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _text_problems(value, f"{group}{name}.")
        for text in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(text, str) and not is_utf_8(text):
                yield f"{group}{name}: expected text in UTF-8, got {printable(text)}"


def add_config_arguments(parser: ArgumentParser) -> None:
    """Make every field of `TrainConfig` an option of the parser, with dots between the levels."""
    parser.add_class_arguments(TrainConfig, as_group=False)


def config_from(values: Mapping[str, Any]) -> TrainConfig:
    """The configuration with these values of options.

    Args:
        values: dotted names of options -> values; other options keep their defaults.

    Raises:
        ValueError: values out of their range; the message names the options.
    """
    whole = nested(values)
    for name, default in vars(TrainConfig()).items():
        if is_dataclass(default):
            group: type[Any] = type(default)
            try:
                whole[name] = group(**whole.get(name, {}))
            except ValueError as error:
                raise ValueError(f"{name}.{error}") from error
    return TrainConfig(**whole)


def load_config(path: Path) -> TrainConfig:
    """Read the config.yaml of a run folder.

    Raises:
        FileError: the file is missing or not a configuration.
    """
    try:
        content = read_yaml(path, "a run's config.yaml")
        if isinstance(content, dict):
            _rename_scales(content.get("model"))
            for name, value in _REMOVED.items():
                group, _, option = name.partition(".")
                options = content.get(group)
                if isinstance(options, dict) and options.get(option, ...) == value:
                    del options[option]
        return config_from(fitted_settings(content, dict(settings_of(TrainConfig))))
    except FileError:
        raise
    except ValueError as error:
        reason = str(error)
        raise FileError(f"{path}: expected a run's config.yaml: {reason}") from error


def _rename_scales(model: Any) -> None:
    """Turn `first_scale` and `scale` of earlier versions into `scales`, in place."""
    if isinstance(model, dict) and not {"first_scale", "scale"}.isdisjoint(model):
        steps = len(model.get("channels", ModelConfig.channels)) - 1
        first, further = model.pop("first_scale", 2), model.pop("scale", 2)
        model["scales"] = 2 if first == further == 2 else [first, *[further] * steps][:steps]


def preset_names() -> list[str]:
    """Names of the installed presets."""
    files = resources.files("recycleseg").joinpath("presets").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def preset_file(name: str) -> AbstractContextManager[Path]:
    """The YAML file of a preset, on disk while the block runs.

    Raises:
        ValueError: there is no such preset.
    """
    if name not in preset_names():
        raise ValueError(f"preset: expected one of {', '.join(preset_names())}, got {name!r}")
    return resources.as_file(resources.files("recycleseg") / f"presets/{name}.yaml")


def load_preset(name: str, **settings: Any) -> TrainConfig:
    """The configuration of a preset.

    Args:
        name: of the preset.
        settings: values that replace fields of `TrainConfig`.

    Raises:
        ValueError: there is no such preset, or a value is out of its range.
    """
    with preset_file(name) as path:
        return replace(load_config(path), **settings)


def resumed(config: TrainConfig, file: Path) -> TrainConfig:
    """The configuration with which a run continues.

    Options that decide the trained weights must be the same. Device, validation, sampling and the
    final cases may change. Data set and the files that split it may move, because the trainer
    compares their content (`check_same_data`). What was fixed when the run began (`optim.steps` 0
    and what follows from it) stays.

    Args:
        config: the configuration to continue with.
        file: config.yaml, with the configuration that the run began with.

    Raises:
        FileError: the file is missing or not a configuration.
        ValueError: an option that must be the same differs.
    """
    saved = load_config(file)
    if config.optim.steps == 0:
        fixed = replace(
            config.optim, steps=saved.optim.steps, warmup_steps=saved.optim.warmup_steps
        )
        config = replace(config, optim=fixed, validation=saved.validation)
    free = {
        *("data", "split_file", "group_by", "out", "time", "runtime", "compile"),
        *("validation", "sampling", "postprocess", "final_split"),
    }
    changed = [
        f"{name} is {theirs!r} in the run, {ours!r} now"
        for (name, ours), (_, theirs) in zip(_flat(config), _flat(saved), strict=True)
        if ours != theirs and name.split(".")[0] not in free
    ]
    if changed:
        raise ValueError(
            f"--resume: {'; '.join(changed)}. To continue with the run's own settings, use "
            f"--config {file}"
        )
    return config


def _flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of every setting, in the order of the fields."""
    for option in fields(config):
        value = getattr(config, option.name)
        if is_dataclass(value):
            yield from _flat(value, f"{prefix}{option.name}.")
        else:
            yield prefix + option.name, value


def _problems(config: Any, prefix: str = "") -> Iterator[str]:
    """Problems of single values, each as "name: expected ..., got ..."."""
    hints = get_type_hints(type(config))
    for option in fields(config):
        name, hint, allowed = option.name, hints[option.name], option.metadata.get(RANGE)
        value = getattr(config, name)
        if is_dataclass(value):
            yield from _problems(value, f"{prefix}{name}.")
        elif get_origin(hint) is Literal and value not in get_args(hint):
            choices = ", ".join(map(str, get_args(hint)))
            yield f"{prefix}{name}: expected one of {choices}, got {value!r}"
        elif allowed is not None and (problem := allowed.problem(value)):
            yield f"{prefix}{name}: {problem}"


def _model_problems(model: ModelConfig) -> Iterator[str]:
    """Problems of options that have one entry per level of the network."""
    levels = len(model.channels)
    for name, entries, count in (
        ("scales", model.scales, levels - 1),
        ("kernels", model.kernels, levels),
    ):
        try:
            one_per_level(f"model.{name}", entries, count)
        except ValueError as error:
            yield f"{error} (model.channels has {levels} levels)"


def _noise_problems(config: TrainConfig) -> Iterator[str]:
    """Problems of options of the noise process and its reverse that do not fit each other."""
    diffusion, sampling, recycling = config.diffusion, config.sampling, config.recycling
    first, last = diffusion.beta_start, diffusion.beta_end
    if not 0 < first <= last < 1:
        yield (
            "diffusion.beta_start, diffusion.beta_end: expected 0 < beta_start <= beta_end < 1, "
            f"got {first} and {last}"
        )
    if not 1 <= sampling.num_steps <= diffusion.num_timesteps:
        yield (
            f"sampling.num_steps: expected 1 to diffusion.num_timesteps "
            f"({diffusion.num_timesteps}), got {sampling.num_steps}"
        )
    if config.imgx_compat and sampling.sampler == "ddim" and sampling.eta > 0:
        yield (
            "sampling.eta: expected 0 with imgx_compat and sampler ddim, because ImgX's formula "
            f"gives NaN, got {sampling.eta}"
        )
    if recycling.reverse_step and recycling.prev_step == "max":
        yield (
            "recycling.reverse_step: expected false with recycling.prev_step max (one reverse step "
            "from T - 1 does not reach t), got true"
        )


def _loss_problems(config: TrainConfig) -> Iterator[str]:
    """Problems of loss terms that train too little, or that the strategy does not use."""
    loss, variance = config.loss, config.diffusion.variance_type
    if not (loss.dice or loss.focal or loss.cross_entropy):
        yield (
            "loss.dice, loss.focal, loss.cross_entropy: expected at least one above 0, got 0 for "
            "all"
        )
    if config.strategy == "supervised":
        for name, weight in (("mse", loss.mse), ("vlb", loss.vlb)):
            if weight > 0:
                yield f"loss.{name}: expected 0 with strategy supervised, got {weight}"
    elif variance.startswith("learned") and loss.vlb == 0:
        yield (
            f"loss.vlb: expected above 0 with diffusion.variance_type {variance}, because no other "
            "term trains the variance, got 0"
        )
