"""Networks."""

from recycleseg.models.unet import UNet

__all__ = ["UNet"]
