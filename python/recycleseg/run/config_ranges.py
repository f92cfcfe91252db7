"""Which values the options of a run may have, alone and together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# What is expected, whether a value is that, and the options by dotted name; null is always well.
_RULES: tuple[tuple[str, Callable[[Any], bool], tuple[str, ...]], ...] = (
    (
        "at least 1",
        lambda value: value >= 1,
        (
            "model.num_res_blocks",
            "model.num_heads",
            "model.num_transformer_layers",
            "patch.max_voxels",
            "optim.steps",
            "optim.batch_size",
            "optim.accumulation",
            "sampling.samples",
            "validation.every",
            "validation.max_cases",
            "validation.patience",
            "validation.save_every",
            "runtime.threads",
            "runtime.log_every",
        ),
    ),
    (
        "auto or at least 1",
        lambda batch: batch >= 1 if isinstance(batch, int) else batch == "auto",
        ("sampling.window_batch",),
    ),
    ("at least 2", lambda value: value >= 2, ("diffusion.num_timesteps",)),
    (
        "one or more sizes of at least 1",
        lambda sizes: len(sizes) > 0 and min(sizes) >= 1,
        ("model.channels", "patch.size"),
    ),
    (
        "at least 1, one number or one per axis",
        lambda scale: scale >= 1 if isinstance(scale, int) else bool(scale) and min(scale) >= 1,
        ("model.first_scale", "model.scale"),
    ),
    (
        "at least 0",
        lambda value: 0 <= value < math.inf,
        (
            "loss.dice",
            "loss.focal",
            "loss.cross_entropy",
            "loss.mse",
            "loss.vlb",
            "optim.lr_init",
            "optim.lr_peak",
            "optim.lr_end",
            "optim.warmup_steps",
            "optim.weight_decay",
        ),
    ),
    ("0 to 2**63 - 1", lambda seed: 0 <= seed < 2**63, ("seed", "phantom.seed")),
    ("above 0", lambda value: value > 0, ("optim.grad_clip",)),
    (
        "0 to 1",
        lambda value: 0 <= value <= 1,
        ("patch.foreground_probability", "self_conditioning.probability", "sampling.eta"),
    ),
    (
        "0 to below 1",
        lambda value: 0 <= value < 1,
        ("patch.overlap", "model.dropout", "optim.ema_decay"),
    ),
)


def range_problems(settings: Mapping[str, Any]) -> list[str]:
    """What is wrong with settings by their dotted names: "name: expected ..., got ..." each."""
    problems = [
        f"{name}: expected {expected}, got {settings[name]}"
        for expected, holds, names in _RULES
        for name in names
        if settings[name] is not None and not holds(settings[name])
    ]
    return [*problems, *_noise_problems(settings), *_loss_problems(settings)]


def _noise_problems(settings: Mapping[str, Any]) -> Iterator[str]:
    """Settings of the noise process and its reverse that do not fit each other."""
    first, last = settings["diffusion.beta_start"], settings["diffusion.beta_end"]
    if not 0 < first <= last < 1:
        yield (
            "diffusion.beta_start, diffusion.beta_end: expected 0 < beta_start <= beta_end < 1, "
            f"got {first} and {last}"
        )
    num_steps, num_timesteps = settings["sampling.num_steps"], settings["diffusion.num_timesteps"]
    if not 2 <= num_steps <= num_timesteps:
        yield (
            f"sampling.num_steps: expected 2 to diffusion.num_timesteps ({num_timesteps}), "
            f"got {num_steps}"
        )
    if settings["imgx_compat"] and settings["sampling.sampler"] == "ddim":
        if settings["sampling.eta"] > 0:
            yield (
                "sampling.eta: expected 0 with imgx_compat and sampler ddim, where ImgX's formula "
                f"gives NaN, got {settings['sampling.eta']}"
            )
    if settings["recycling.reverse_step"] and settings["recycling.prev_step"] == "max":
        yield (
            "recycling.reverse_step: expected false with recycling.prev_step max (one reverse step "
            "from T - 1 does not reach t), got true"
        )


def _loss_problems(settings: Mapping[str, Any]) -> Iterator[str]:
    """Loss terms that leave something untrained, or that the strategy has no use for."""
    names = ("loss.dice", "loss.focal", "loss.cross_entropy")
    if not any(settings[name] for name in names):
        yield f"{', '.join(names)}: expected at least one above 0, got 0 for all"
    if settings["strategy"] == "supervised":
        for name in ("loss.mse", "loss.vlb"):
            if settings[name] > 0:
                yield f"{name}: expected 0 with strategy supervised, got {settings[name]}"
    elif settings["diffusion.variance_type"].startswith("learned") and settings["loss.vlb"] == 0:
        yield (
            "loss.vlb: expected above 0 with diffusion.variance_type "
            f"{settings['diffusion.variance_type']}, whose variance no other term trains, got 0"
        )
