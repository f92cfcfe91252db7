"""Parameters of ImgX-DiffSeg's U-Net (flax) as parameters of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recycleseg.models.layers import ResBlock, Transformer
from recycleseg.ops._arrays import refuse_mask

_ENCODER, _BOTTOM = "DownsampleEncoder_0", "BottomImageEncoderUnet_0"
_DECODER = "UpsampleDecoder_0"


def _plain(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names as without rematerialisation, which prefixes layers with "Checkpoint"."""
    return {name.replace("Checkpoint", ""): array for name, array in params.items()}


def infer_arguments(params: Mapping[str, np.ndarray], **kwargs: Any) -> dict[str, Any]:
    """Constructor arguments of the network that ImgX's parameters describe; kwargs go first.

    Args:
        params: flattened flax name -> array.
        kwargs: arguments given by the caller, among them mask_channels where it differs from the
            number of output channels.

    Raises:
        ValueError: if a parameter that tells an argument is missing.
    """
    shapes = {name: array.shape for name, array in _plain(params).items()}

    def matching(pattern: str, *, at_least: int = 1) -> list[tuple[int, ...]]:
        found = [shapes[name] for name in sorted(shapes) if re.fullmatch(pattern, name)]
        if len(found) < at_least:
            raise ValueError(f"params: expected a name like {pattern}, got {len(shapes)} others")
        return found

    stem = matching(f"{_ENCODER}/ConvNormAct_0/Conv_0/kernel")[0]
    head = matching(f"{_DECODER}/Conv_0/kernel")[0]
    downs = matching(f"{_ENCODER}/ConvDownSample_.*/Conv_0/kernel", at_least=0)
    blocks = matching(f"{_ENCODER}/ConvResBlock_.*/Conv_0/kernel")
    query = matching(f"{_BOTTOM}/TransformerEncoder_0/Multi.*/query/kernel")
    hidden = matching(f"{_BOTTOM}/TransformerEncoder_0/MLP_.*/Dense_0/kernel")
    has_time = any("ConvResBlockWithTime_0" in name for name in shapes)
    mask_channels = kwargs.get("mask_channels", head[-1] if has_time else 0)
    return {
        "spatial_dims": len(stem) - 2,
        "in_channels": stem[-2] - mask_channels,
        "out_channels": head[-1],
        "channels": (stem[-1], *(shape[-1] for shape in downs)),
        "mask_channels": mask_channels,
        "scales": tuple(shape[:-2] for shape in downs),
        "kernels": (stem[:-2],) * (len(downs) + 1),
        "num_res_blocks": len(blocks) // (len(downs) + 1),
        "num_heads": query[0][1],
        "widening_factor": hidden[0][1] // hidden[0][0],
        "num_transformer_layers": len(query),
        "time_conditioning": "imgx",
        **kwargs,
    }


def _norm_names(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield f"{ours}.weight", f"{theirs}/scale"
    yield f"{ours}.bias", f"{theirs}/bias"


def _linear_names(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield f"{ours}.weight", f"{theirs}/kernel"
    yield f"{ours}.bias", f"{theirs}/bias"


def _conv_norm_names(ours: str, theirs: str, conv: str = "Conv_0") -> Iterator[tuple[str, str]]:
    yield f"{ours}.conv.weight", f"{theirs}/{conv}/kernel"
    yield from _norm_names(f"{ours}.norm", f"{theirs}/InstanceNorm_0/LayerNorm_0")


def _block_names(ours: str, theirs: str, block: ResBlock) -> Iterator[tuple[str, str]]:
    theirs += "/ConvResBlockWithoutTime_0" if block.time is None else "/ConvResBlockWithTime_0"
    for index in (0, 1):
        yield f"{ours}.conv{index + 1}.weight", f"{theirs}/Conv_{index}/kernel"
        norm = f"{theirs}/InstanceNorm_{index}/LayerNorm_0"
        yield from _norm_names(f"{ours}.norm{index + 1}", norm)
    if block.time is not None:
        yield from _linear_names(f"{ours}.time", f"{theirs}/Dense_0")


def _transformer_names(ours: str, theirs: str, module: Transformer) -> Iterator[tuple[str, str]]:
    for index in range(len(module.layers)):
        layer = f"{ours}.layers.{index}"
        for name in ("query", "key", "value", "out"):
            attention = f"{theirs}/MultiHeadDotProductAttention_{index}"
            yield from _linear_names(f"{layer}.attention.{name}", f"{attention}/{name}")
        yield from _norm_names(f"{layer}.norm1", f"{theirs}/LayerNorm_{2 * index}")
        yield from _norm_names(f"{layer}.norm2", f"{theirs}/LayerNorm_{2 * index + 1}")
        yield from _linear_names(f"{layer}.mlp.0", f"{theirs}/MLP_{index}/Dense_0")
        yield from _linear_names(f"{layer}.mlp.2", f"{theirs}/MLP_{index}/Dense_1")
    yield from _norm_names(f"{ours}.norm", f"{theirs}/LayerNorm_{2 * len(module.layers)}")


def parameter_names(network: nn.Module) -> dict[str, str]:
    """Name of each of our U-Net's parameters -> its name in ImgX, without rematerialisation."""
    names: dict[str, str] = {}
    for ours, theirs in (("encoder", _ENCODER), ("bottom", _BOTTOM), ("decoder", _DECODER)):
        for index, block in enumerate(network.get_submodule(ours).children()):
            assert isinstance(block, ResBlock)
            names.update(_block_names(f"{ours}.{index}", f"{theirs}/ConvResBlock_{index}", block))
    names.update(_conv_norm_names("stem", f"{_ENCODER}/ConvNormAct_0"))
    for index, _ in enumerate(network.get_submodule("downs").children()):
        names.update(_conv_norm_names(f"downs.{index}", f"{_ENCODER}/ConvDownSample_{index}"))
        up = f"{_DECODER}/ConvUpSample_{index}"
        names.update(_conv_norm_names(f"ups.{index}", up, "ConvTranspose_0"))
    transformer = network.get_submodule("transformer")
    assert isinstance(transformer, Transformer)
    theirs = f"{_BOTTOM}/TransformerEncoder_0"
    names.update(_transformer_names("transformer", theirs, transformer))
    names.update(_linear_names("head", f"{_DECODER}/Conv_0"))
    return names


def convert_array(name: str, array: np.ndarray) -> Tensor:
    """One of ImgX's parameters (or its gradient) in our layout.

    Args:
        name: its flattened flax name, which tells the kind of layer.
        array: kernels (*k, in, out); dense (in, out); attention (model, heads, head_dim) and
            out (heads, head_dim, model); biases and scales as they are.
    """
    if re.search(r"ConvTranspose_\d+/kernel$", name):
        # flax applies the kernel of a transposed convolution mirrored.
        array = np.flip(np.moveaxis(array, (-2, -1), (0, 1)), tuple(range(2, array.ndim)))
    elif re.search(r"Conv_\d+/kernel$", name):
        array = np.moveaxis(array, (-1, -2), (0, 1))
    elif name.endswith("out/kernel"):
        array = array.reshape(-1, array.shape[-1]).T
    elif name.endswith("kernel"):
        array = array.reshape(array.shape[0], -1).T
    elif re.search(r"(query|key|value)/bias$", name):
        array = array.reshape(-1)
    return torch.from_numpy(np.ascontiguousarray(array))


def convert_parameters(network: nn.Module, params: Mapping[str, np.ndarray]) -> None:
    """Load ImgX's parameters into our U-Net, in place.

    Raises:
        ValueError: if a parameter is missing, left over or of an unexpected shape.
    """
    theirs = _plain(params)
    names = parameter_names(network)
    missing = sorted(set(names.values()) - set(theirs))
    unexpected = sorted(set(theirs) - set(names.values()))
    if missing or unexpected:
        raise ValueError(f"params: missing {missing}, unexpected {unexpected}")
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for ours, name in names.items():
            refuse_mask(f"params[{name!r}]", theirs[name])
            value = convert_array(name, theirs[name])
            if value.shape != parameters[ours].shape:
                expected = tuple(parameters[ours].shape)
                raise ValueError(f"params[{name!r}]: expected {expected}, got {tuple(value.shape)}")
            parameters[ours].copy_(value)
