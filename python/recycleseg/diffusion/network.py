"""What strategies and samplers call: a network, and the tensor that it sees."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Network(Protocol):
    """A segmentation network: image (B, C_img, *S), mask (B, C_mask, *S), t (B,) -> (B, C_out, *S).

    With t but no mask, `image` is a network input that holds the channels of both. The supervised
    network is called with the image alone.
    """

    def __call__(
        self, image: Tensor, mask: Tensor | None = None, t: Tensor | None = None
    ) -> Tensor: ...


class NetworkInput:
    """Image and mask side by side in one tensor: what a network sees.

    The steps of the diffusion write their masks straight into it, from channel `mask_channel` on.

    Args:
        image: (B, C_img, *S), which is copied into the first channels.
        mask_channels: number of further channels, uninitialised.

    Attributes:
        tensor: (B, C_img + mask_channels, *S), channels-last, the image's dtype.
        mask_channel: first channel of the mask.

    Raises:
        ValueError: the image is no floating point, which would round the mask.
    """

    def __init__(self, image: Tensor, mask_channels: int) -> None:
        if not image.is_floating_point():
            raise ValueError(f"image: expected floating point, got {image.dtype}")
        batch, self.mask_channel, *spatial = image.shape
        shape = (batch, *spatial, self.mask_channel + mask_channels)
        self.tensor = torch.empty(shape, dtype=image.dtype, device=image.device).movedim(-1, 1)
        self.image.copy_(image)

    @property
    def image(self) -> Tensor:
        """View of the image (B, C_img, *S)."""
        return self.tensor[:, : self.mask_channel]

    @property
    def mask(self) -> Tensor:
        """View of the mask (B, mask_channels, *S)."""
        return self.tensor[:, self.mask_channel :]
