"""Diffusion models for medical image segmentation, trained by recycling."""

__version__ = "0.1.0"

from recycleseg.diffusion.process import GaussianDiffusion
from recycleseg.diffusion.samplers import ddim_step, ddpm_step
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.losses import SegmentationLoss
from recycleseg.metrics.evaluate import evaluate
from recycleseg.metrics.scores import Scores
from recycleseg.models.unet import UNet
from recycleseg.ops.distance_transform import distance_transform
from recycleseg.ops.ensemble_vote import ensemble_vote
from recycleseg.ops.overlap_counts import overlap_counts
from recycleseg.prediction.predictor import Prediction, Predictor
from recycleseg.run.config import TrainConfig, load_preset
from recycleseg.training.trainer import Trainer

__all__ = [
    "GaussianDiffusion",
    "NoiseSchedule",
    "Prediction",
    "Predictor",
    "Scores",
    "SegmentationLoss",
    "TrainConfig",
    "Trainer",
    "UNet",
    "__version__",
    "ddim_step",
    "ddpm_step",
    "distance_transform",
    "evaluate",
    "ensemble_vote",
    "load_preset",
    "overlap_counts",
]
