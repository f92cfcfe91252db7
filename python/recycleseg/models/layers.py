"""Layers of the U-Net: convolution blocks, residual block, resampling, transformer, time embedding.

All convolutions are without bias, since an instance normalisation follows each of them. Tensors
are (B, C, *S) and meant to lie channels-last in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recycleseg.models.single_sample import Conv3d
from recycleseg.ops.dropout import dropout
from recycleseg.ops.norm_act import norm_act

NORM_EPS = 1e-6
# Standard deviation of a unit normal truncated to [-2, 2].
_TRUNCATED_STD = 0.87962566103423978
# By the number of spatial axes.
_CONV: dict[int, Callable[..., nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: Conv3d}
_CONV_TRANSPOSE: dict[int, Callable[..., nn.ConvTranspose2d | nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}

TimeConditioning = Literal["film", "imgx"]


def sinusoidal_embedding(t: Tensor, dim: int, max_period: float = 1000.0) -> Tensor:
    """Cosines, then sines, of ``t * max_period ** (1 - i / half)`` for i in 0 ... half - 1.

    Args:
        t: (B,) times in [0, 1].
        dim: number of features, even; half = dim / 2.
        max_period: the highest angular frequency per unit of t; the lowest is about 1. The default
            turns neighbouring steps of a 1000-step schedule by one radian. ImgX takes 10 000, which
            turns them by ten.

    Returns:
        (B, dim), in t's dtype.

    Raises:
        ValueError: if dim is odd.
    """
    if dim % 2:
        raise ValueError(f"dim: expected an even number, got {dim}")
    half = dim // 2
    index = torch.arange(half, dtype=t.dtype, device=t.device)
    angle = t[:, None] * max_period * torch.exp(-math.log(max_period) * index / half)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def lecun_normal_(weight: Tensor, fan_in: int, scale: float = 1.0) -> None:
    """Fill with a truncated normal of variance ``scale / fan_in`` (LeCun et al. 1998; flax)."""
    std = math.sqrt(scale / fan_in) / _TRUNCATED_STD
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def linear(in_features: int, out_features: int, scale: float = 1.0) -> nn.Linear:
    """A linear layer, LeCun normal of the given variance scale, bias zero."""
    layer = nn.Linear(in_features, out_features)
    lecun_normal_(layer.weight, in_features, scale)
    nn.init.zeros_(layer.bias)
    return layer


def convolution(
    in_channels: int, out_channels: int, kernel_size: Sequence[int], *, bias: bool = False
) -> nn.Conv2d | nn.Conv3d:
    """A convolution with stride 1 and an odd kernel, which keeps the size; LeCun normal."""
    padding = tuple(k // 2 for k in kernel_size)
    conv = _CONV[len(kernel_size)](
        in_channels, out_channels, tuple(kernel_size), padding=padding, bias=bias
    )
    lecun_normal_(conv.weight, in_channels * math.prod(kernel_size))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class InstanceNorm(nn.Module):
    """Per-sample, per-channel normalisation with an affine, then optionally a residual and GELU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        film: tuple[Tensor, Tensor] | None = None,
        *,
        activation: bool = True,
    ) -> Tensor:
        """Normalise x.

        Args:
            x: (B, C, *S).
            residual: as x, added after the affine.
            film: scale and shift, each (B, C), applied after the affine.
            activation: whether GELU follows.

        Returns:
            As x.
        """
        weight = self.weight.expand(x.shape[0], -1)
        bias = self.bias.expand(x.shape[0], -1)
        if film is not None:
            scale, shift = film
            weight = weight * (1 + scale)
            bias = bias * (1 + scale) + shift
        return norm_act(x, weight, bias, residual, activation=activation, eps=NORM_EPS)


class ConvNormAct(nn.Module):
    """Convolution with an odd kernel, instance norm, GELU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.conv = convolution(in_channels, out_channels, kernel)
        self.norm = InstanceNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *S) -> (B, C_out, *S)."""
        y: Tensor = self.norm(self.conv(x))
        return y


class ResBlock(nn.Module):
    """Two convolutions with instance norm and GELU; the input is added before the last GELU.

    Args:
        channels: of input and output.
        kernel: odd size of both convolutions, one per axis.
        time_channels: features of the time embedding; 0: a block without time.
        time_conditioning: "film" scales and shifts after the second norm (Perez et al. 2018),
            starting as the identity; "imgx" adds the embedding before that norm, which removes it.
        dropout: after the first activation.
    """

    def __init__(
        self,
        channels: int,
        kernel: Sequence[int],
        *,
        time_channels: int = 0,
        time_conditioning: TimeConditioning = "film",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = convolution(channels, channels, kernel)
        self.norm1 = InstanceNorm(channels)
        self.conv2 = convolution(channels, channels, kernel)
        self.norm2 = InstanceNorm(channels)
        self.dropout = dropout
        self.first_row = 0
        self.is_film = time_conditioning == "film"
        self.time: nn.Linear | None = None
        if time_channels:
            self.time = linear(time_channels, channels * (2 if self.is_film else 1))
            if self.is_film:
                nn.init.zeros_(self.time.weight)

    def forward(self, x: Tensor, t_emb: Tensor | None = None) -> Tensor:
        """(B, C, *S), (B, time_channels) -> (B, C, *S)."""
        y = self.norm1(self.conv1(x))
        y = dropout(y, self.dropout, self.training, first_row=self.first_row)
        y = self.conv2(y)
        film = None
        if self.time is not None and t_emb is not None:
            time = self.time(F.gelu(t_emb, approximate="tanh")).to(t_emb.dtype)
            if self.is_film:
                scale, shift = time.chunk(2, dim=1)
                film = (scale, shift)
            else:
                y = y + time.view(*time.shape, *(1,) * (y.ndim - 2)).to(y.dtype)
        out: Tensor = self.norm2(y, x, film)
        return out


class DownSample(nn.Module):
    """Convolution whose stride is its kernel, then instance norm; output sizes round up."""

    def __init__(self, in_channels: int, out_channels: int, scale: Sequence[int]) -> None:
        super().__init__()
        kernel = tuple(scale)
        self.conv = _CONV[len(scale)](in_channels, out_channels, kernel, stride=kernel, bias=False)
        lecun_normal_(self.conv.weight, in_channels * math.prod(scale))
        self.norm = InstanceNorm(out_channels)
        self.scale = kernel

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *S) -> (B, C_out, *ceil(S / scale))."""
        missing = [-size % s for size, s in zip(x.shape[2:], self.scale, strict=True)]
        if any(missing):
            # Zeros on both sides, the odd one after: "SAME" padding of TensorFlow and JAX.
            x = F.pad(x, [n for m in reversed(missing) for n in (m // 2, m - m // 2)])
        y: Tensor = self.norm(self.conv(x), activation=False)
        return y


class UpSample(nn.Module):
    """Transposed convolution whose stride is its kernel, then instance norm."""

    def __init__(self, in_channels: int, out_channels: int, scale: Sequence[int]) -> None:
        super().__init__()
        kernel = tuple(scale)
        self.conv = _CONV_TRANSPOSE[len(scale)](
            in_channels, out_channels, kernel, stride=kernel, bias=False
        )
        lecun_normal_(self.conv.weight, in_channels * math.prod(scale))
        self.norm = InstanceNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *S) -> (B, C_out, *(S * scale))."""
        y: Tensor = self.norm(self.conv(x), activation=False)
        return y


class Attention(nn.Module):
    """Multi-head self-attention with heads of a given size (Vaswani et al. 2017)."""

    def __init__(self, channels: int, num_heads: int, head_dim: int, init_scale: float) -> None:
        super().__init__()
        inner = num_heads * head_dim
        self.query = linear(channels, inner, init_scale)
        self.key = linear(channels, inner, init_scale)
        self.value = linear(channels, inner, init_scale)
        self.out = linear(inner, channels, init_scale)
        self.num_heads = num_heads

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        heads = [
            layer(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        ]
        y = F.scaled_dot_product_attention(*heads)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


class TransformerLayer(nn.Module):
    """Pre-norm attention and multilayer perceptron, each added to its input."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        widening_factor: int,
        dropout: float,
        init_scale: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.attention = Attention(channels, num_heads, channels // widening_factor, init_scale)
        self.norm2 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.mlp = nn.Sequential(
            linear(channels, channels * widening_factor, init_scale),
            nn.GELU(approximate="tanh"),
            linear(channels * widening_factor, channels, init_scale),
        )
        self.dropout = dropout
        self.first_row = 0

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        x = x + self._drop(self.attention(self.norm1(x)))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training, first_row=self.first_row)


def set_first_row(network: nn.Module, first_row: int) -> None:
    """Tell a network that its input begins with this row of a batch that processes share.

    Its dropout then drops in each row what it would drop there in one process.
    """
    for module in network.modules():
        if isinstance(module, ResBlock | TransformerLayer):
            module.first_row = first_row


class Transformer(nn.Module):
    """Transformer layers over all voxels as tokens, without position embedding, and a last norm.

    Args:
        channels: a multiple of widening_factor.
        num_heads: attention heads, each of channels / widening_factor features.
        widening_factor: hidden features of the perceptron, in multiples of channels.
        num_layers: at least 1.
        dropout: after attention and perceptron.

    Raises:
        ValueError: if channels is no multiple of widening_factor.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        widening_factor: int = 4,
        num_layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if channels % widening_factor:
            raise ValueError(
                f"channels[-1]: expected a multiple of widening_factor {widening_factor}, "
                f"got {channels}"
            )
        self.layers = nn.ModuleList(
            TransformerLayer(channels, num_heads, widening_factor, dropout, 2 / num_layers)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, C, *S), channels-last, in x's dtype."""
        tokens = x.flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = layer(tokens)
        y: Tensor = self.norm(tokens)
        return y.to(x.dtype).transpose(1, 2).reshape(x.shape)
