"""Every option out of its range is refused by name before a run starts."""

from __future__ import annotations

from argparse import ArgumentError
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

from recycleseg.files import FileError, as_json
from recycleseg.run.config import (
    TrainConfig,
    add_config_arguments,
    config_from,
    load_config,
    resumed,
)
from recycleseg.run.options import (
    DiffusionConfig,
    LossConfig,
    OptimConfig,
    RecyclingConfig,
    SamplingConfig,
)


def config_of(**settings: Any) -> TrainConfig:
    """The configuration of a YAML file with these settings."""
    parser = ArgumentParser(exit_on_error=False)
    add_config_arguments(parser)
    return config_from(dict(parser.parse_string(yaml.safe_dump(settings)).items()))


def as_tuple(value: Any) -> Any:
    """A list of YAML, and the lists in it, as the parser's tuples."""
    return tuple(map(as_tuple, value)) if isinstance(value, list) else value


OUT_OF_RANGE: list[tuple[str, Any, str]] = [
    ("seed", -1, "0 to 2**63 - 1"),
    ("seed", 2**63, "0 to 2**63 - 1"),
    ("patch.size", [], "one or more sizes of at least 1, and at most 2**36 voxels"),
    ("patch.size", [8, 0], "one or more sizes of at least 1, and at most 2**36 voxels"),
    ("patch.size", [2**18, 2**19], "one or more sizes of at least 1, and at most 2**36 voxels"),
    ("patch.size", [8, 2**31], "whole numbers up to 2147483647"),
    ("patch.foreground_probability", -0.1, "0 to 1"),
    ("patch.foreground_probability", 1.1, "0 to 1"),
    ("patch.overlap", -0.1, "0 to below 1"),
    ("patch.overlap", 1.0, "0 to below 1"),
    ("model.channels", [], "one or more sizes of at least 1"),
    ("model.channels", [8, -8], "one or more sizes of at least 1"),
    ("model.scales", 0, "factors of at least 1"),
    ("model.scales", [2, 2, 0], "factors of at least 1"),
    ("model.scales", [[2, 0], 2, 2], "factors of at least 1"),
    ("model.kernels", 4, "odd sizes of at least 1"),
    ("model.kernels", [3, 3, 3, [-1, 3]], "odd sizes of at least 1"),
    ("model.num_res_blocks", 0, "at least 1"),
    ("model.num_heads", 0, "at least 1"),
    ("model.num_heads", 2**31, "whole numbers up to 2147483647"),
    ("model.kernels", [3, 3, 3, [3, 2**31 + 1]], "whole numbers up to 2147483647"),
    ("model.num_transformer_layers", 0, "at least 1"),
    ("model.dropout", -0.1, "0 to below 1"),
    ("model.dropout", 1.0, "0 to below 1"),
    ("diffusion.num_timesteps", 1, "at least 2"),
    ("self_conditioning.probability", 1.1, "0 to 1"),
    ("loss.dice", -1.0, "at least 0"),
    ("loss.focal", -1.0, "at least 0"),
    ("loss.cross_entropy", -1.0, "at least 0"),
    ("loss.mse", -1.0, "at least 0"),
    ("loss.vlb", float("inf"), "at least 0"),
    ("optim.steps", -1, "at least 0"),
    ("optim.batch_size", 0, "at least 1"),
    ("optim.accumulation", 0, "at least 1"),
    ("optim.lr_init", -1e-3, "at least 0"),
    ("optim.lr_peak", float("nan"), "at least 0"),
    ("optim.lr_end", -1e-3, "at least 0"),
    ("optim.warmup_steps", -1, "at least 0"),
    ("optim.weight_decay", -1e-3, "at least 0"),
    ("optim.grad_clip", 0.0, "above 0"),
    ("optim.ema_decay", 1.0, "0 to below 1"),
    ("sampling.eta", -0.1, "0 to 1"),
    ("sampling.eta", 1.1, "0 to 1"),
    ("sampling.samples", 0, "at least 1"),
    ("sampling.window_batch", 0, "auto or at least 1"),
    ("sampling.num_steps", 0, "1 to diffusion.num_timesteps (1001)"),
    ("sampling.num_steps", 1002, "1 to diffusion.num_timesteps (1001)"),
    ("validation.every", -1, "at least 0"),
    ("validation.max_cases", 0, "at least 1"),
    ("validation.save_every", 0, "at least 1"),
    ("validation.keep_last", 0, "at least 1"),
    ("validation.patch_every", -1, "at least 0"),
    ("validation.patches", 0, "at least 1"),
    ("runtime.threads", 0, "at least 1"),
    ("runtime.log_every", 0, "at least 1"),
    ("augment.shift", -0.5, "0 <= shift < inf"),
    ("preprocess.shape", [0, 8], "positive sizes"),
]


@pytest.mark.parametrize(("name", "value", "expected"), OUT_OF_RANGE)
def test_value_out_of_range(name: str, value: Any, expected: str) -> None:
    group, _, option = name.rpartition(".")
    settings = {group: {option: value}} if group else {option: value}
    with pytest.raises(ValueError) as error:
        config_of(**settings)
    got = as_tuple(value)
    assert f"{name}: expected {expected}, got {got}" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"model": {"scales": [2, 2]}},
            "model.scales: expected one integer or 3 entries, got (2, 2) (model.channels has 4",
        ),
        (
            {"model": {"channels": [8, 8], "kernels": [3]}},
            "model.kernels: expected one integer or 2 entries, got (3,) (model.channels has 2",
        ),
        (
            {"diffusion": {"beta_start": 0.03}},
            "diffusion.beta_start, diffusion.beta_end: expected 0 < beta_start <= beta_end < 1, "
            "got 0.03 and 0.02",
        ),
        ({"diffusion": {"beta_start": 0.0}}, "beta_end < 1, got 0.0 and 0.02"),
        ({"diffusion": {"beta_end": 1.0}}, "beta_end < 1, got 0.0001 and 1.0"),
        (
            {"loss": {"dice": 0.0, "focal": 0.0, "mse": 1.0}},
            "loss.dice, loss.focal, loss.cross_entropy: expected at least one above 0, got 0",
        ),
        (
            {"diffusion": {"variance_type": "learned"}},
            "loss.vlb: expected above 0 with diffusion.variance_type learned, because",
        ),
        (
            {"diffusion": {"variance_type": "learned_range"}},
            "loss.vlb: expected above 0 with diffusion.variance_type learned_range",
        ),
        (
            {"strategy": "supervised", "loss": {"mse": 0.5}},
            "loss.mse: expected 0 with strategy supervised, got 0.5",
        ),
        (
            {"strategy": "supervised", "loss": {"vlb": 0.5}},
            "loss.vlb: expected 0 with strategy supervised, got 0.5",
        ),
        (
            {"recycling": {"reverse_step": True}},
            "recycling.reverse_step: expected false with recycling.prev_step max",
        ),
    ],
)
def test_settings_that_do_not_fit_each_other(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        config_of(**settings)
    assert message in str(error.value)


def test_limits_themselves_are_accepted() -> None:
    config = config_of(
        seed=2**63 - 1,
        strategy="supervised",
        patch={"size": None, "foreground_probability": 1.0, "overlap": 0.0},
        model={"channels": [4], "scales": [], "kernels": [[1, 1]]},
        diffusion={"num_timesteps": 2, "beta_end": 1e-4, "variance_type": "learned"},
        recycling={"prev_step": "next", "reverse_step": True},
        optim={"lr_init": 0.0, "warmup_steps": 0, "weight_decay": 0.0, "grad_clip": float("inf")},
        sampling={"num_steps": 1, "eta": 1.0, "samples": 1, "window_batch": "auto"},
        validation={"max_cases": 1, "save_every": 1},
        runtime={"threads": 1},
    )
    assert (config.model.scales, config.model.kernels) == ((), ((1, 1),))
    learned = config_of(diffusion={"variance_type": "learned"}, loss={"vlb": 1e-3})
    assert learned.diffusion.variance_type == "learned"


def test_all_problems_are_told_at_once() -> None:
    optim = OptimConfig(steps=-1, grad_clip=-1.0)
    message = (
        "optim.steps: expected at least 0, got -1; optim.grad_clip: expected above 0, got -1.0"
    )
    with pytest.raises(ValueError, match=message):
        TrainConfig(optim=optim)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"strategy": "recycle"},
            "strategy: expected one of recycling, standard, self_conditioning, supervised, "
            "got 'recycle'",
        ),
        (
            {"sampling": SamplingConfig(sampler="euler")},  # type: ignore[arg-type]
            "sampling.sampler: expected one of ddim, ddpm, got 'euler'",
        ),
        (
            {"sampling": SamplingConfig(fusion="both")},  # type: ignore[arg-type]
            "sampling.fusion: expected one of trajectory, step, got 'both'",
        ),
        (
            {"recycling": RecyclingConfig(prev_step="same")},  # type: ignore[arg-type]
            "recycling.prev_step: expected one of max, next, got 'same'",
        ),
    ],
)
def test_unknown_choice(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


@pytest.mark.parametrize(
    "content", ["optim: {steps: -1}", "optim: {stps: 1}", "- 1", "augment: {zoom: 2}", None]
)
def test_file_that_holds_no_run_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=f"{path}: expected a run's config.yaml"):
        load_config(path)


@pytest.mark.parametrize(
    ("name", "value", "other"),
    [
        ("phantom.seed", 0, 1),
        ("postprocess.num_components", 1, None),
        ("postprocess.min_size", 0.0, 5.0),
        ("validation.patience", None, 3),
    ],
)
def test_runs_that_name_an_option_of_earlier_versions(
    tmp_path: Path, name: str, value: Any, other: Any
) -> None:
    group, _, option = name.partition(".")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"seed": 3, group: {option: value}}))
    assert load_config(path) == TrainConfig(seed=3)
    path.write_text(yaml.safe_dump({"seed": 3, group: {option: other}}))
    with pytest.raises(FileError, match=f"{path}: expected a run's config.yaml: .*{option}"):
        load_config(path)


@pytest.mark.parametrize(
    ("model", "scales"),
    [
        ({"first_scale": 2, "scale": 2}, 2),
        ({"first_scale": [2, 2, 1]}, ((2, 2, 1), 2, 2)),
        ({"first_scale": 4, "scale": [2, 1], "channels": [8, 8, 8]}, (4, (2, 1))),
        ({"first_scale": 4, "scale": 3, "channels": [8]}, ()),
    ],
)
def test_runs_with_the_scales_of_earlier_versions(
    tmp_path: Path, model: dict[str, Any], scales: Any
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"model": model}))
    assert load_config(path).model.scales == scales


def test_what_a_resumed_run_may_change(tmp_path: Path) -> None:
    saved = tmp_path / "config.yaml"
    saved.write_text(yaml.safe_dump(as_json(asdict(TrainConfig()))))
    # The trainer compares the content of the data set, wherever it is.
    moved = TrainConfig(data="/moved", out="elsewhere", sampling=SamplingConfig(num_steps=9))
    assert resumed(moved, saved) == moved
    other = TrainConfig(loss=LossConfig(focal=1.0), diffusion=DiffusionConfig(num_timesteps=11))
    message = "diffusion.num_timesteps is 1001 in the run, 11 now; loss.focal is 20.0 in the run"
    with pytest.raises(ValueError, match=message):
        resumed(other, saved)


def test_wrong_type_is_refused_by_the_parser() -> None:
    with pytest.raises(ArgumentError, match=r"optim\.steps"):
        config_of(optim={"steps": "many"})
