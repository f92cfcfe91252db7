"""Layers of the U-Net against arrays computed by ImgX."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recycleseg.models.imgx import convert_array
from recycleseg.models.layers import (
    ConvNormAct,
    DownSample,
    InstanceNorm,
    ResBlock,
    Transformer,
    UpSample,
    linear,
    sinusoidal_embedding,
)

Arrays = dict[str, np.ndarray]
OURS = {  # ImgX's name of a parameter within a layer -> ours
    "LayerNorm_0/": "",
    "InstanceNorm_0/LayerNorm_0/": "norm.",
    "Conv_0/kernel": "conv.weight",
    "ConvTranspose_0/kernel": "conv.weight",
    "scale": "weight",
}
OURS_IN_BLOCK = {
    "InstanceNorm_0/LayerNorm_0/": "norm1.",
    "InstanceNorm_1/LayerNorm_0/": "norm2.",
    "Conv_0/kernel": "conv1.weight",
    "Conv_1/kernel": "conv2.weight",
    "Dense_0/kernel": "time.weight",
    "Dense_0/": "time.",
    "scale": "weight",
}
OURS_IN_MLP = {"Dense_0/": "0.", "Dense_1/": "2.", "kernel": "weight"}


def rename(name: str, table: dict[str, str]) -> str:
    return re.sub("|".join(table), lambda match: table[match.group()], name)


def build(layer: str, dims: int) -> tuple[nn.Module, dict[str, str]]:
    kind, _, factor = layer.partition("/")
    scale = [int(s) for s in factor.split("x")] if factor else []
    if kind == "InstanceNorm":
        return InstanceNorm(4), OURS
    if kind == "ConvNormAct":
        return ConvNormAct(4, 6, (3,) * dims), OURS
    if kind == "ConvResBlockWithTime":
        return ResBlock(4, (3,) * dims, time_channels=16, time_conditioning="imgx"), OURS_IN_BLOCK
    if kind == "ConvResBlockWithoutTime":
        return ResBlock(4, (3,) * dims), OURS_IN_BLOCK
    if kind == "ConvDownSample":
        return DownSample(4, 6, scale), OURS
    assert kind == "ConvUpSample", layer
    return UpSample(4, 6, scale), OURS


def load(module: nn.Module, params: Arrays, table: dict[str, str]) -> None:
    module.load_state_dict({rename(k, table): convert_array(k, v) for k, v in params.items()})


def split(arrays: Arrays) -> dict[str, Arrays]:
    """Group "<dim>/<layer>/<params/... | in0 | in1 | out>" by layer."""
    groups: dict[str, Arrays] = {}
    for key, array in arrays.items():
        match = re.fullmatch(r"(.+?)/(params/.+|in\d|out|x|y)", key)
        assert match is not None, key
        groups.setdefault(match.group(1), {})[match.group(2)] = array
    return groups


def test_every_layer_matches_imgx(
    reference: Callable[[str], Arrays], channels_first: Callable[[np.ndarray], Tensor]
) -> None:
    groups = split(reference("g_layers"))
    gelu, mlp = groups.pop("gelu"), groups.pop("gelu_mlp")
    torch.testing.assert_close(
        F.gelu(torch.from_numpy(gelu["x"]), approximate="tanh"), torch.from_numpy(gelu["y"])
    )
    perceptron = nn.Sequential(linear(4, 8), nn.GELU(approximate="tanh"), linear(8, 5))
    load(perceptron, strip(mlp), OURS_IN_MLP)
    torch.testing.assert_close(
        perceptron(torch.from_numpy(mlp["in0"])), torch.from_numpy(mlp["out"])
    )

    assert len(groups) == 2 * 4 + 2 * 2 + 2 * 3
    for name, group in groups.items():
        dims, _, layer = name.partition("/")
        module, table = build(layer, int(dims[0]))
        load(module, strip(group), table)
        x = channels_first(group["in0"])
        if layer == "InstanceNorm":
            y = module(x, activation=False)
        elif "in1" in group:
            y = module(x, torch.from_numpy(group["in1"]))
        else:
            y = module(x)
        # E[x^2] - E[x]^2 in float32 there, two passes here.
        torch.testing.assert_close(
            y.detach(), channels_first(group["out"]), rtol=1e-5, atol=1e-5, msg=name
        )


def strip(group: Arrays) -> Arrays:
    return {k.removeprefix("params/"): v for k, v in group.items() if k.startswith("params/")}


def test_attention_matches_imgx(reference: Callable[[str], Arrays]) -> None:
    arrays = reference("g_attention")
    sizes = {key.split("/")[0] for key in arrays}
    assert set(arrays) == {f"{size}/{name}" for size in sizes for name in ("q", "k", "v", "out")}
    for size in sizes:
        q, k, v = (torch.from_numpy(arrays[f"{size}/{n}"]).transpose(1, 2) for n in "qkv")
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        torch.testing.assert_close(out, torch.from_numpy(arrays[f"{size}/out"]))


def test_sinusoidal_embedding_matches_imgx(reference: Callable[[str], Arrays]) -> None:
    arrays = reference("i_sinusoidal")
    t = torch.from_numpy(arrays.pop("t"))
    for key, array in arrays.items():
        match = re.fullmatch(r"dim(\d+)(?:_max_period(\d+)|_float64_formula)?", key)
        assert match is not None, key
        dim, period = int(match.group(1)), float(match.group(2) or 1e4)
        expected = torch.from_numpy(array)
        # Trigonometry of float32 arguments up to 1e4, whose unit in the last place is 1e-3.
        torch.testing.assert_close(
            sinusoidal_embedding(t, dim, period), expected, rtol=0, atol=1e-3
        )
        exact = sinusoidal_embedding(t.double(), dim, period).float()
        tolerance = 1e-6 if key.endswith("formula") else 1e-3
        torch.testing.assert_close(exact, expected, rtol=0, atol=tolerance)


def test_sinusoidal_embedding_tells_neighbouring_steps_apart() -> None:
    steps = torch.arange(1, 1002, dtype=torch.float64) / 1001
    embedding = sinusoidal_embedding(steps, 64)
    distance = torch.cdist(embedding, embedding)
    assert distance[~torch.eye(1001, dtype=torch.bool)].min() > 0.5
    with pytest.raises(ValueError, match="dim: expected an even number, got 5"):
        sinusoidal_embedding(steps, 5)


def test_initial_standard_deviation_is_lecun_normal() -> None:
    torch.manual_seed(0)
    block = ResBlock(32, (3, 3, 3), time_channels=16)
    fan_in = 32 * 27
    # 27648 draws: the standard deviation of the estimate is 0.4 %.
    assert block.conv1.weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.02)
    assert block.time is not None
    assert block.time.weight.abs().max() == 0
    transformer = Transformer(32, 4, num_layers=2)
    mlp = transformer.layers[0].mlp
    assert mlp[0].weight.std().item() == pytest.approx((1 / 32) ** 0.5, rel=0.05)
