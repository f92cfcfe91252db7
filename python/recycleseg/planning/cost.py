"""What a network costs for one patch: arithmetic, parameters, memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from recycleseg.models.unet import PerLevel, one_per_level
from recycleseg.planning.topology import Topology
from recycleseg.run.options import ModelConfig

WIDENING = 4  # of the transformer's perceptron, see UNet


def per_level_and_axis(values: PerLevel, count: int, dims: int) -> tuple[tuple[int, ...], ...]:
    """Kernels or factors as one entry for each of `count` levels, with one integer per axis."""
    entries = one_per_level("", values, count)
    return tuple((e,) * dims if isinstance(e, int) else tuple(e) for e in entries)


@dataclass(frozen=True)
class NetworkShape:
    """A U-Net on one patch; see `recycleseg.UNet`.

    Attributes:
        topology: its levels.
        channels: features per level.
        num_res_blocks: per level.
        num_heads: attention heads at the bottom.
        in_channels: of image and mask together.
        num_classes: channels of the output.
    """

    topology: Topology
    channels: Sequence[int]
    num_res_blocks: int
    num_heads: int
    in_channels: int
    num_classes: int

    @classmethod
    def of_model(
        cls, model: ModelConfig, patch_size: tuple[int, ...], in_channels: int, num_classes: int
    ) -> NetworkShape:
        """The shape of the network that these options describe."""
        dims, levels = len(patch_size), len(model.channels)
        topology = Topology(
            patch_size,
            per_level_and_axis(model.kernels, levels, dims),
            per_level_and_axis(model.scales, levels - 1, dims),
        )
        return cls(
            topology,
            model.channels,
            model.num_res_blocks,
            model.num_heads,
            in_channels,
            num_classes,
        )

    def voxels(self) -> list[int]:
        """Voxels of the patch on every level."""
        return [math.prod(size) for size in self.topology.sizes()]

    def blocks(self) -> list[int]:
        """Residual blocks per level: down, up with one more, and two at the bottom."""
        both_ways = [2 * self.num_res_blocks + 1] * len(self.channels)
        both_ways[-1] += 2
        return both_ways

    def flops(self) -> float:
        """Floating-point operations of one forward pass of one patch, two per multiply-add."""
        voxels, kernels = self.voxels(), [math.prod(k) for k in self.topology.kernels]
        macs = 0.0
        for level, width in enumerate(self.channels):
            macs += 2 * self.blocks()[level] * voxels[level] * kernels[level] * width**2
        macs += voxels[0] * kernels[0] * self.in_channels * self.channels[0]
        macs += voxels[0] * self.channels[0] * self.num_classes
        for upper, (low, high) in zip(voxels, self._steps(), strict=False):
            macs += 2 * upper * low * high  # one convolution down, one up
        return 2 * (macs + self._transformer_macs())

    def parameters(self) -> int:
        """Weights; the small ones (norms, biases) are left out."""
        kernels = [math.prod(kernel) for kernel in self.topology.kernels]
        time = self.channels[-1]
        count = kernels[0] * self.in_channels * self.channels[0]
        levels = zip(kernels, self.channels, self.blocks(), strict=True)
        count += sum(n * (2 * k * c**2 + 2 * time * c) for k, c, n in levels)
        for scale, (low, high) in zip(self.topology.scales, self._steps(), strict=True):
            count += 2 * math.prod(scale) * low * high
        return count + self._transformer_parameters()

    def _steps(self) -> list[tuple[int, int]]:
        """Channels above and below each step between two levels."""
        return list(zip(self.channels[:-1], self.channels[1:], strict=True))

    def _transformer_parameters(self) -> int:
        width = self.channels[-1]
        inner = self.num_heads * width // WIDENING
        return 4 * width * inner + 2 * WIDENING * width**2

    def _transformer_macs(self) -> float:
        tokens, inner = self.voxels()[-1], self.num_heads * self.channels[-1] / WIDENING
        return tokens * self._transformer_parameters() + 2 * tokens**2 * inner
