"""The U-Net that denoises a segmentation, or segments directly, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recycleseg.models.imgx import convert_parameters, infer_arguments
from recycleseg.models.layers import (
    ConvNormAct,
    DownSample,
    ResBlock,
    TimeConditioning,
    Transformer,
    UpSample,
    convolution,
    sinusoidal_embedding,
)
from recycleseg.ops._checks import is_tensor

# One integer for all levels, or an entry per level: an integer for all axes, or one per axis.
PerLevel: TypeAlias = int | Sequence[int | Sequence[int]]

_MAX_PERIOD: dict[str, float] = {"film": 1e3, "imgx": 1e4}


def one_per_level(name: str, values: PerLevel, count: int) -> tuple[int | Sequence[int], ...]:
    """One entry of a setting for each of `count` levels, or for each step between two levels.

    Args:
        name: of the setting, for the message.
        values: one integer for all, or the entries, each an integer or one integer per axis.
        count: number of entries.

    Raises:
        ValueError: there are more or fewer entries.
    """
    if isinstance(values, int):
        return (values,) * count
    if len(values) != count:
        raise ValueError(f"{name}: expected one integer or {count} entries, got {values}")
    return tuple(values)


def one_per_level_and_axis(
    name: str, values: PerLevel, count: int, spatial_dims: int
) -> tuple[tuple[int, ...], ...]:
    """One integer per axis for each entry of `one_per_level`.

    Raises:
        ValueError: there are more or fewer entries or axes, or an integer is not positive.
    """
    sizes = []
    for entry in one_per_level(name, values, count):
        size = (entry,) * spatial_dims if isinstance(entry, int) else tuple(entry)
        if len(size) != spatial_dims or min(size) < 1:
            raise ValueError(
                f"{name}: expected for each level a positive integer or {spatial_dims} of them, "
                f"got {entry}"
            )
        sizes.append(size)
    return tuple(sizes)


class UNet(nn.Module):
    """U-Net with residual blocks, additive skips and a transformer at the bottom.

    After Fu et al. 2023 (MELBA 2023:016) and their code ImgX-DiffSeg: a stem, per level
    ``num_res_blocks`` residual blocks and a strided convolution down; residual block, transformer,
    residual block at the bottom; per level ``num_res_blocks + 1`` residual blocks, each with the
    skip of the same size added to its input, and a transposed convolution up.

    Args:
        spatial_dims: 2 or 3. A 2D network also takes 3D images, slice by slice of the last axis.
        in_channels: image channels.
        out_channels: channels of the output: the classes, doubled where the variance is learned.
        channels: per level, the first even at least, the last a multiple of widening_factor.
        mask_channels: channels of ``mask``; None: out_channels; 0: the supervised network, which
            takes neither mask nor t.
        scales: down-sampling factors: one for all, or an entry per step between two levels, finest
            first, each an integer or one per axis. A factor of 1 keeps an axis, as between thick
            slices: ((2, 2, 1), 2).
        kernels: odd sizes of the convolutions in the residual blocks: one for all, or an entry per
            level, each an integer or one per axis. The stem takes those of the first level. With 1
            along an axis, a level mixes no voxels along it.
        num_res_blocks: residual blocks per level.
        num_heads: attention heads, each of ``channels[-1] / widening_factor`` features.
        widening_factor: of the transformer's perceptron.
        num_transformer_layers: transformer layers at the bottom.
        dropout: rate in residual blocks and transformer.
        time_conditioning: "film": t scales and shifts after the second norm of each residual
            block. "imgx": t is added before that norm, which removes it, as ImgX does.
        checkpoint_activations: recompute the residual blocks in the backward pass to save memory.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (32, 64, 128, 256),
        *,
        mask_channels: int | None = None,
        scales: PerLevel = 2,
        kernels: PerLevel = 3,
        num_res_blocks: int = 2,
        num_heads: int = 8,
        widening_factor: int = 4,
        num_transformer_layers: int = 1,
        dropout: float = 0.0,
        time_conditioning: TimeConditioning = "film",
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims: expected 2 or 3, got {spatial_dims}")
        if time_conditioning not in _MAX_PERIOD:
            raise ValueError(
                f"time_conditioning: expected 'film' or 'imgx', got {time_conditioning!r}"
            )
        if not channels or min(channels) < 1:
            raise ValueError(f"channels: expected positive integers, got {channels}")
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.mask_channels = out_channels if mask_channels is None else mask_channels
        self.num_res_blocks = num_res_blocks
        self.time_channels = channels[-1] if self.mask_channels else 0
        self.max_period = _MAX_PERIOD[time_conditioning]
        self.checkpoint_activations = checkpoint_activations

        by_step = one_per_level_and_axis("scales", scales, len(channels) - 1, spatial_dims)
        by_level = one_per_level_and_axis("kernels", kernels, len(channels), spatial_dims)
        if any(size % 2 == 0 for kernel in by_level for size in kernel):
            raise ValueError(f"kernels: expected odd sizes, got {kernels}")
        # The kernel of a step between levels is its factor: each voxel counts once, and an axis of
        # factor 1 is not mixed.
        steps = list(zip(channels[:-1], channels[1:], by_step, strict=True))
        levels = list(zip(channels, by_level, strict=True))

        def blocks(levels: Sequence[tuple[int, tuple[int, ...]]], per_level: int) -> nn.ModuleList:
            return nn.ModuleList(
                ResBlock(
                    width,
                    kernel,
                    time_channels=self.time_channels,
                    time_conditioning=time_conditioning,
                    dropout=dropout,
                )
                for width, kernel in levels
                for _ in range(per_level)
            )

        self.stem = ConvNormAct(in_channels + self.mask_channels, *levels[0])
        self.encoder = blocks(levels, num_res_blocks)
        self.downs = nn.ModuleList(DownSample(low, high, by) for low, high, by in steps)
        self.bottom = blocks(levels[-1:], 2)
        self.transformer = Transformer(
            channels[-1],
            num_heads,
            widening_factor=widening_factor,
            num_layers=num_transformer_layers,
            dropout=dropout,
        )
        self.decoder = blocks(levels[::-1], num_res_blocks + 1)
        self.ups = nn.ModuleList(UpSample(high, low, by) for low, high, by in reversed(steps))
        self.head = convolution(channels[0], out_channels, (1,) * spatial_dims, bias=True)
        self.memory_format = torch.channels_last if spatial_dims == 2 else torch.channels_last_3d
        for parameter in self.parameters():
            if parameter.ndim == spatial_dims + 2:
                parameter.data = parameter.data.contiguous(memory_format=self.memory_format)

    @classmethod
    def from_imgx(cls, params: Mapping[str, np.ndarray], **kwargs: Any) -> UNet:
        """Build the network that ImgX's parameters describe, and load them.

        Args:
            params: flattened flax name, joined by "/", -> array; names as with remat or without.
            kwargs: further arguments of the constructor. ``mask_channels`` cannot be told from the
                parameters where it differs from the number of output channels.

        Raises:
            ValueError: if a parameter is missing, left over or of an unexpected shape.
        """
        arguments = infer_arguments(params, **kwargs)
        network = cls(**arguments)
        convert_parameters(network, params)
        return network

    def forward(self, image: Tensor, mask: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        """Logits of every voxel.

        Args:
            image: (B, in_channels, *S), of any size.
            mask: (B, mask_channels, *S) in [0, 1]; None for the supervised network, and where
                ``image`` holds it already: (B, in_channels + mask_channels, *S), with t.
            t: (B,) in (0, 1]; None for the supervised network.

        Returns:
            (B, out_channels, *S).

        Raises:
            ValueError: if shapes do not fit the network or each other.
        """
        self._check(image, mask, t)
        # PyTorch before 2.11 keeps weights that autocast cast without gradient for passes with one.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            torch.clear_autocast_cache()
        x = image if mask is None else torch.cat([image, mask], dim=1)
        folded = x.ndim - 2 > self.spatial_dims
        if folded:
            depth = x.shape[-1]
            x = x.movedim(-1, 1).flatten(0, 1)
            t = None if t is None else t.repeat_interleave(depth)
        t_emb = None
        if t is not None:
            # The angles reach 1e4: more digits than half precision has.
            t = t.to(torch.promote_types(t.dtype, torch.float32))
            t_emb = sinusoidal_embedding(t, self.time_channels, self.max_period)
        x = x.contiguous(memory_format=self.memory_format)
        logits = self._decode(self._encode(x, t_emb), t_emb)
        if folded:
            logits = logits.reshape(-1, depth, *logits.shape[1:]).movedim(1, -1)
        return logits

    def _encode(self, x: Tensor, t_emb: Tensor | None) -> list[Tensor]:
        x = self.stem(x)
        features = [x]
        for index, block in enumerate(self.encoder):
            level, position = divmod(index, self.num_res_blocks)
            if level and position == 0:
                x = self.downs[level - 1](x)
                features.append(x)
            x = self._run(block, x, t_emb)
            features.append(x)
        return features

    def _decode(self, features: list[Tensor], t_emb: Tensor | None) -> Tensor:
        x = self._run(self.bottom[0], features[-1], t_emb)
        x = self._run(self.bottom[1], self.transformer(x), t_emb)
        for index, block in enumerate(self.decoder):
            level, position = divmod(index, self.num_res_blocks + 1)
            skip = features.pop()
            if level and position == 0:
                x = self.ups[level - 1](x)
                # Where the size was rounded up on the way down, up-sampling overshoots.
                for axis, size in enumerate(skip.shape[2:], 2):
                    if x.shape[axis] != size:
                        x = x.narrow(axis, 0, size)
            x = self._run(block, x + skip, t_emb)
        logits: Tensor = self.head(x)
        return logits

    def _run(self, block: nn.Module, x: Tensor, t_emb: Tensor | None) -> Tensor:
        y: Tensor
        if self.checkpoint_activations and torch.is_grad_enabled():
            y = checkpoint(block, x, t_emb, use_reentrant=False)
        else:
            y = block(x, t_emb)
        return y

    def _check(self, image: Tensor, mask: Tensor | None, t: Tensor | None) -> None:
        for name, x in (("image", image), ("mask", mask), ("t", t)):
            if x is not None:
                is_tensor(name, x)
        ranks = (4, 5) if self.spatial_dims == 2 else (5,)
        # with t and without mask, the mask lies beside the image
        channels = self.in_channels + (self.mask_channels if mask is None and t is not None else 0)
        if image.ndim not in ranks or image.shape[1] != channels:
            raise ValueError(
                f"image: expected (B, {channels}, *S) with "
                f"{' or '.join(str(r - 2) for r in ranks)} axes S, got {tuple(image.shape)}"
            )
        if t is None:
            if mask is not None:
                raise ValueError("t: expected times (B,) with a mask, got None")
            if self.mask_channels:
                raise ValueError(f"mask: expected {self.mask_channels} channels, got None")
            return
        if not self.mask_channels:
            raise ValueError("mask and t: expected None of a supervised network, got t")
        expected_shape = (image.shape[0], self.mask_channels, *image.shape[2:])
        if mask is not None and mask.shape != expected_shape:
            raise ValueError(f"mask: expected {expected_shape}, got {tuple(mask.shape)}")
        if t.shape != image.shape[:1]:
            raise ValueError(f"t: expected shape ({image.shape[0]},), got {tuple(t.shape)}")
