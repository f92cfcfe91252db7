"""The diffusion process: schedules, the Gaussian process, samplers and time steps."""

from recycleseg.diffusion.gaussian import GaussianDiffusion
from recycleseg.diffusion.samplers import ddim_step, ddpm_step, sample
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.diffusion.timesteps import ImportanceTimesteps, Timesteps, UniformTimesteps

__all__ = [
    "GaussianDiffusion",
    "ImportanceTimesteps",
    "NoiseSchedule",
    "Timesteps",
    "UniformTimesteps",
    "ddim_step",
    "ddpm_step",
    "sample",
]
