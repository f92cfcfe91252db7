"""From a configuration to the objects it describes.

`imgx_compat` makes these do as ImgX where ImgX departs from the literature that it cites:

    NoiseSchedule        "cosine" becomes "imgx_cosine"
    GaussianDiffusion    time is that of the respaced schedule; x_to_logits gives log p of
                         overlapping classes too
      ddim_step          sigma is eta * log variance
      vlb_loss           p and q change places, and no gradient goes through the mean
      SelfConditioning   prev_step "next" shows x_{t+1} at time t
    ImportanceTimesteps  weight p * T; losses that are not finite count
    SegmentationLoss     no class 0 of overlapping classes; NaN for a sample without foreground
    PatchSampler         (made by the trainer) never starts at the last possible position

ImgX's time embedding is an option of its own, `model.time_conditioning`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from recycleseg.data.preprocess import Plan
from recycleseg.diffusion.network import Network
from recycleseg.diffusion.process import GaussianDiffusion
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
from recycleseg.losses import SegmentationLoss
from recycleseg.models.unet import UNet
from recycleseg.names import is_utf_8, printable
from recycleseg.run.compiling import compiled, resolve_mode
from recycleseg.run.config import TrainConfig
from recycleseg.run.options import PatchConfig
from recycleseg.sampling.memory import auto_window_batch
from recycleseg.sampling.mirror import MirroredNetwork
from recycleseg.sampling.volume import VolumeSampler
from recycleseg.sampling.watch import WatchedNetwork

# Environment variable with the folder of the cache.
CACHE = "RECYCLESEG_CACHE"

# A compiled network takes batches of one size, which few windows are filled up to.
MAX_COMPILED_BATCH = 8


def choose_patch_size(patch: PatchConfig, median_shape: Sequence[int]) -> tuple[int, ...]:
    """`size`, or the median shape rounded up to a multiple of 8 and cut to `max_voxels`.

    Raises:
        ValueError: `size` has another number of axes than the shape.
    """
    dims = len(median_shape)
    if patch.size is not None:
        if len(patch.size) != dims:
            raise ValueError(f"patch.size: expected {dims} numbers, got {list(patch.size)}")
        return tuple(patch.size)
    size = [8 * math.ceil(n / 8) for n in median_shape]
    while math.prod(size) > patch.max_voxels and max(size) > 8:
        size[size.index(max(size))] -= 8
    return tuple(size)


def make_network(config: TrainConfig, plan: Plan) -> UNet:
    """The U-Net for the data set's channels and classes, and the strategy's mask."""
    num_classes = len(plan.classes)
    mask_channels = {"supervised": 0, "self_conditioning": 2 * num_classes}
    learned = config.diffusion.variance_type in ("learned", "learned_range")
    return UNet(
        plan.spatial_dims,
        len(plan.channel_names),
        2 * num_classes if learned and config.strategy != "supervised" else num_classes,
        mask_channels=mask_channels.get(config.strategy, num_classes),
        **vars(config.model),
    )


def make_diffusion(config: TrainConfig, exclusive: bool) -> GaussianDiffusion:
    """The diffusion of training, with all T steps."""
    d = config.diffusion
    name = "imgx_cosine" if config.imgx_compat and d.schedule == "cosine" else d.schedule
    schedule = NoiseSchedule(name, d.num_timesteps, d.beta_start, d.beta_end)
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
    return SelfConditioning(objective, num_classes, s.prev_step, s.probability)


def make_volume_sampler(
    config: TrainConfig,
    forward: Network,
    plan: Plan,
    patch_size: tuple[int, ...],
    device: torch.device,
) -> VolumeSampler:
    """The sampler of whole volumes for a trained network."""
    mode, classes = resolve_mode(config.compile, device), plan.classes
    diffusion = None
    if config.strategy != "supervised":
        diffusion = make_sampling_diffusion(config, classes.exclusive).to(device)
    watched = WatchedNetwork(compiled(forward, mode), device)
    network: Network = watched
    if config.sampling.mirror:
        prediction_type = "x_start" if diffusion is None else diffusion.prediction_type
        network = MirroredNetwork(network, len(classes), classes.exclusive, prediction_type)
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
        len(classes),
        classes.exclusive,
        patch_size,
        overlap=config.patch.overlap,
        sampler=config.sampling.sampler,
        eta=config.sampling.eta,
        self_conditioning=config.strategy == "self_conditioning",
        window_batch=window_batch,
        compiled=mode != "off",
        fusion=config.sampling.fusion,
        watched=watched,
    )


def cache_root(folder: str | None = None) -> Path:
    """Folder of preprocessed data, of the phantom and of the hashes of files.

    Args:
        folder: `runtime.cache`; None takes that of the environment variable RECYCLESEG_CACHE, or
            the user's.

    Raises:
        ValueError: the folder is not in UTF-8, so PyTorch cannot open files in it.
    """
    if folder is not None:
        return Path(folder)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = os.environ.get(CACHE) or str(base / "recycleseg")
    if not is_utf_8(root):
        got = f"{printable(root)}; choose another with --runtime.cache"
        raise ValueError(f"cache: expected a folder in UTF-8, got {got}")
    return Path(root)
