"""Operations with a fast implementation, each beside its plain reference."""

from recycleseg.ops.build_info import build_info
from recycleseg.ops.ddim_update import ddim_update
from recycleseg.ops.dice_loss import dice_loss
from recycleseg.ops.distance_transform import distance_transform
from recycleseg.ops.dropout import dropout
from recycleseg.ops.ensemble_vote import ensemble_vote
from recycleseg.ops.noise_step import noise_step
from recycleseg.ops.norm_act import norm_act
from recycleseg.ops.overlap_counts import overlap_counts
from recycleseg.ops.philox import philox_normal
from recycleseg.ops.surface_distances import SurfaceDistances, surface_distances

__all__ = [
    "SurfaceDistances",
    "build_info",
    "ddim_update",
    "dice_loss",
    "distance_transform",
    "dropout",
    "ensemble_vote",
    "noise_step",
    "norm_act",
    "overlap_counts",
    "philox_normal",
    "surface_distances",
]
