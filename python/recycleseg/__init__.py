"""Diffusion models for medical image segmentation, trained by recycling."""

__version__ = "0.1.0"
