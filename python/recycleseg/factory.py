"""From a configuration to the objects it describes."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from recycleseg.compiling import compiled, resolve_mode
from recycleseg.config import TrainConfig
from recycleseg.data.preprocess import Plan
from recycleseg.diffusion.gaussian import GaussianDiffusion
from recycleseg.diffusion.network import Network
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.diffusion.strategies import (
    DiffusionObjective,
    Recycling,
    SelfConditioning,
    Standard,
    Strategy,
    Supervised,
)
from recycleseg.diffusion.timesteps import ImportanceTimesteps, Timesteps, UniformTimesteps
from recycleseg.inference.memory import auto_window_batch
from recycleseg.inference.mirror import MirroredNetwork
from recycleseg.inference.volume import VolumeSampler
from recycleseg.losses import SegmentationLoss
from recycleseg.models.unet import UNet

# A compiled network takes batches of one size, which few windows are filled up to.
MAX_COMPILED_BATCH = 8


def choose_device(name: str) -> torch.device:
    """The device of `runtime.device`; raises ValueError when it is not there or of another kind."""
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = {f"cuda:{n}" for n in range(num_gpus)} | ({"cuda"} if num_gpus else set())
    if name == "auto":
        return torch.device("cuda" if gpus else "cpu")
    if name not in {"cpu", *gpus}:
        raise ValueError(
            "runtime.device: expected auto, cpu, cuda or cuda:N with N below the number of GPUs "
            f"visible here ({num_gpus}), got {name!r}"
        )
    return torch.device(name)


def use_device(name: str) -> torch.device:
    """`choose_device`, and make a GPU the current one: kernels are launched there."""
    device = choose_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """ "bf16" or "float32": what `runtime.precision` means on the device."""
    if name != "auto":
        return name
    return "bf16" if _computes_in_bf16(device) else "float32"


def _computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16"))


class AutocastNetwork:
    """A network called under autocast: what strategies and samplers call."""

    def __init__(self, network: nn.Module, device: torch.device, precision: str) -> None:
        self.network = network
        self.device = device
        self.bf16 = precision == "bf16"

    def _autocast(self) -> AbstractContextManager[object]:
        if not self.bf16:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def __call__(
        self, image: Tensor, mask: Tensor | None = None, t: Tensor | None = None
    ) -> Tensor:
        with self._autocast():
            out: Tensor = self.network(image, mask, t)
        return out


def choose_patch_size(config: TrainConfig, median_shape: Sequence[int]) -> tuple[int, ...]:
    """`patch.size`, or the median shape rounded up to a multiple of 8 and cut to `max_voxels`."""
    dims = len(median_shape)
    if config.patch.size is not None:
        if len(config.patch.size) != dims:
            raise ValueError(f"patch.size: expected {dims} numbers, got {list(config.patch.size)}")
        return tuple(config.patch.size)
    size = [8 * math.ceil(n / 8) for n in median_shape]
    while math.prod(size) > config.patch.max_voxels and max(size) > 8:
        size[size.index(max(size))] -= 8
    return tuple(size)


def make_network(config: TrainConfig, plan: Plan) -> UNet:
    """The U-Net for the data set's channels and classes, and the strategy's mask."""
    m = config.model
    num_classes = plan.num_classes
    mask_channels = {"supervised": 0, "self_conditioning": 2 * num_classes}
    learned = config.diffusion.variance_type in ("learned", "learned_range")
    return UNet(
        plan.spatial_dims,
        len(plan.channel_names),
        2 * num_classes if learned and config.strategy != "supervised" else num_classes,
        m.channels,
        mask_channels=mask_channels.get(config.strategy, num_classes),
        first_scale=m.first_scale,
        scale=m.scale,
        num_res_blocks=m.num_res_blocks,
        num_heads=m.num_heads,
        num_transformer_layers=m.num_transformer_layers,
        dropout=m.dropout,
        time_conditioning=m.time_conditioning,
        checkpoint_activations=m.checkpoint_activations,
    )


def make_diffusion(config: TrainConfig, exclusive: bool) -> GaussianDiffusion:
    """The diffusion of training, with all T steps."""
    d = config.diffusion
    schedule = NoiseSchedule(
        d.schedule, d.num_timesteps, d.beta_start, d.beta_end, imgx_compat=config.imgx_compat
    )
    return _diffusion_over(schedule, config, exclusive)


def make_sampling_diffusion(config: TrainConfig, exclusive: bool) -> GaussianDiffusion:
    """The diffusion of sampling: the training schedule respaced to `sampling.num_steps`."""
    training = make_diffusion(config, exclusive)
    return _diffusion_over(training.schedule.respace(config.sampling.num_steps), config, exclusive)


def _diffusion_over(
    schedule: NoiseSchedule, config: TrainConfig, exclusive: bool
) -> GaussianDiffusion:
    return GaussianDiffusion(
        schedule,
        prediction_type=config.diffusion.prediction_type,
        variance_type=config.diffusion.variance_type,
        exclusive=exclusive,
        imgx_compat=config.imgx_compat,
    )


def make_timesteps(config: TrainConfig) -> Timesteps:
    """How training draws t."""
    if config.diffusion.timesteps == "uniform":
        return UniformTimesteps(config.diffusion.num_timesteps)
    return ImportanceTimesteps(config.diffusion.num_timesteps, imgx_compat=config.imgx_compat)


def make_strategy(config: TrainConfig, diffusion: GaussianDiffusion, num_classes: int) -> Strategy:
    """The training strategy with its loss."""
    segmentation = SegmentationLoss(
        config.loss.dice,
        config.loss.focal,
        config.loss.cross_entropy,
        exclusive=diffusion.exclusive,
        imgx_compat=config.imgx_compat,
    )
    if config.strategy == "supervised":
        return Supervised(segmentation)
    objective = DiffusionObjective(diffusion, segmentation, config.loss.mse, config.loss.vlb)
    if config.strategy == "standard":
        return Standard(objective, num_classes)
    if config.strategy == "recycling":
        r = config.recycling
        return Recycling(objective, num_classes, r.prev_step, r.reverse_step)
    s = config.self_conditioning
    return SelfConditioning(objective, num_classes, s.prev_step, s.probability, config.imgx_compat)


def make_volume_sampler(
    config: TrainConfig,
    forward: Network,
    plan: Plan,
    patch_size: tuple[int, ...],
    device: torch.device,
) -> VolumeSampler:
    """The sampler of whole volumes for a trained network."""
    mode = resolve_mode(config.compile, device)
    diffusion = None
    if config.strategy != "supervised":
        diffusion = make_sampling_diffusion(config, plan.exclusive).to(device)
    network: Network = compiled(forward, mode)
    if config.sampling.mirror:
        prediction_type = "x_start" if diffusion is None else diffusion.prediction_type
        network = MirroredNetwork(network, plan.num_classes, plan.exclusive, prediction_type)
    asked = config.sampling.window_batch
    if asked == "auto":
        window_batch = auto_window_batch(patch_size, config.model.channels[0], device)
        if mode != "off":
            window_batch = min(window_batch, MAX_COMPILED_BATCH)
    else:
        window_batch = int(asked)
    return VolumeSampler(
        network,
        diffusion,
        plan.num_classes,
        plan.exclusive,
        patch_size,
        overlap=config.patch.overlap,
        sampler=config.sampling.sampler,
        eta=config.sampling.eta,
        self_conditioning=config.strategy == "self_conditioning",
        window_batch=window_batch,
        compiled=mode != "off",
        fusion=config.sampling.fusion,
    )


def cache_root(config: TrainConfig) -> Path:
    """Folder of preprocessed data and of the phantom."""
    if config.runtime.cache is not None:
        return Path(config.runtime.cache)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "recycleseg"
