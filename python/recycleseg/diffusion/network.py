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


def network_input(image: Tensor, mask_channels: int) -> Tensor:
    """Channels-last tensor (B, C_img + mask_channels, *S) that begins with the image.

    The steps of the diffusion write their masks into the other channels, which are uninitialised.
    """
    batch, channels, *spatial = image.shape
    shape = (batch, *spatial, channels + mask_channels)
    x = torch.empty(shape, dtype=image.dtype, device=image.device).movedim(-1, 1)
    x[:, :channels] = image
    return x
