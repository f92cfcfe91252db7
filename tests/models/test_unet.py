"""The U-Net against arrays computed by ImgX, and its own contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recycleseg.models.imgx import convert_array, parameter_names
from recycleseg.models.layers import InstanceNorm, Transformer
from recycleseg.models.unet import UNet
from recycleseg.run.device import choose_precision

ARRAYS = ("g_unet_2d", "g_unet_2d_vanilla", "g_unet_3d")
# A network for thick slices: the upper level and the step below it mix none.
FLAT = {"kernels": ((3, 3, 1), 3), "scales": ((2, 2, 1),)}
INPUTS = ("image", "mask", "t")


def small_unet(spatial_dims: int = 2, **kwargs: Any) -> UNet:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"in_channels": 2, "out_channels": 3, "channels": (4, 8)}
    arguments.update(num_heads=2, num_res_blocks=1, **kwargs)
    return UNet(spatial_dims, **arguments)


def random_inputs(network: UNet, shape: tuple[int, ...], batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(batch, network.in_channels, *shape, generator=generator)]
    if network.mask_channels:
        inputs.append(torch.rand(batch, network.mask_channels, *shape, generator=generator))
        inputs.append(torch.rand(batch, generator=generator))
    return inputs


def randomise(network: nn.Module) -> None:
    """Leave the initial state, in which film is the identity and biases are zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


def record_outputs(network: UNet) -> dict[str, Tensor]:
    """Hook the layers of which ImgX's intermediate activations are at hand."""
    layer = network.transformer.layers[0]
    modules: dict[str, nn.Module] = {
        "bottom": network.bottom[1],
        "bottom/ConvResBlock_0": network.bottom[0],
        "bottom/TransformerEncoder_0": network.transformer,
        "bottom/TransformerEncoder_0/LayerNorm_0": layer.norm1,
        "bottom/TransformerEncoder_0/LayerNorm_1": layer.norm2,
        "bottom/TransformerEncoder_0/MultiHeadDotProductAttention_0": layer.attention,
        "bottom/TransformerEncoder_0/MLP_0": layer.mlp,
        "decoder/Conv_0": network.head,
    }
    modules |= {f"decoder/ConvResBlock_{i}": block for i, block in enumerate(network.decoder)}
    modules |= {f"decoder/ConvUpSample_{i}": up for i, up in enumerate(network.ups)}
    outputs: dict[str, Tensor] = {}
    for name, module in modules.items():
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: outputs.update({f"inter/{name}": output})
        )
    return outputs


@pytest.mark.parametrize("name", ARRAYS)
def test_forward_and_gradients_match_imgx(
    name: str,
    reference: Callable[[str], dict[str, np.ndarray]],
    channels_first: Callable[[np.ndarray], Tensor],
) -> None:
    arrays = reference(name)
    params = {k.removeprefix("params/"): v for k, v in arrays.items() if k.startswith("params/")}
    network = UNet.from_imgx(params)
    network.eval()
    ours = record_outputs(network)
    inputs = {
        key: (torch.from_numpy(arrays[f"in/{key}"]) if key == "t" else channels_first(array))
        for key in INPUTS
        if (array := arrays.get(f"in/{key}")) is not None
    }
    for tensor in inputs.values():
        tensor.requires_grad_()
    out = network(**inputs)
    cotangent = channels_first(arrays["in/ct"])
    (out * cotangent).sum().backward()

    ours |= {"out": out, "out_no_remat": out, "in/ct": cotangent}
    ours |= {f"in/{key}": tensor for key, tensor in inputs.items()}
    ours |= {f"grad/in/{key}": tensor.grad for key, tensor in inputs.items()}
    for key, theirs in parameter_names(network).items():
        parameter = network.get_parameter(key)
        ours |= {f"params/{theirs}": parameter, f"grad/params/{theirs}": parameter.grad}

    remat_names = {str(key).replace("Checkpoint", "") for key in arrays["param_names_remat_true"]}
    assert remat_names == set(params)
    assert set(ours) == set(arrays) - {"param_names_remat_true"}
    for key, tensor in ours.items():
        array = arrays[key]
        if "params/" in key:
            expected = convert_array(key, array)
        elif array.ndim == 1 or (array.ndim == 3 and key.startswith("inter/")):
            expected = torch.from_numpy(array)
        else:
            expected = channels_first(array)
        # Sums of up to 4096 float32 terms in another order, through some 30 layers.
        tolerance = 6e-5 * expected.abs().max().item()
        if key == "grad/in/t":
            # 0 in theory (the norm removes t): rounding times the highest frequency, 1e4.
            tolerance = 2.0
        elif "grad" in key and ("Dense" in key and "ConvRes" in key or key.endswith("key/bias")):
            # 0 in theory (norm and softmax remove them), among gradients of up to 600.
            tolerance = 2e-3
        torch.testing.assert_close(
            tensor.detach(), expected, rtol=0, atol=tolerance, msg=lambda m, key=key: f"{key}: {m}"
        )


def test_remat_names_give_the_same_network(
    reference: Callable[[str], dict[str, np.ndarray]],
) -> None:
    arrays = reference("g_unet_2d")
    renamed = {
        str(name): arrays["params/" + str(name).replace("Checkpoint", "")]
        for name in arrays["param_names_remat_true"]
    }
    plain = {k.removeprefix("params/"): v for k, v in arrays.items() if k.startswith("params/")}
    assert set(renamed) != set(plain)
    left, right = UNet.from_imgx(renamed).state_dict(), UNet.from_imgx(plain).state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("time_conditioning", ["film", "imgx"])
@pytest.mark.parametrize(
    ("spatial_dims", "shape", "kwargs"),
    [
        (2, (13, 7), {}),
        (2, (1, 5), {"channels": (4, 8, 8), "scales": ((4, 2), 2)}),
        (3, (7, 6, 5), {"scales": ((2, 2, 1),), "kernels": ((3, 3, 1), 3)}),
        (3, (9, 4, 11), {"scales": (2, (2, 1, 2)), "channels": (4, 8, 8)}),
        (3, (5, 1, 3), {"scales": 1, "kernels": (5, (1, 7, 3))}),
        (3, (6, 5, 4), {"mask_channels": 6, "num_transformer_layers": 2, "dropout": 0.1}),
    ],
)
def test_any_size_keeps_its_size_and_every_parameter_learns(
    spatial_dims: int, shape: tuple[int, ...], kwargs: dict[str, Any], time_conditioning: Any
) -> None:
    network = small_unet(spatial_dims, time_conditioning=time_conditioning, **kwargs)
    randomise(network)
    logits = network(*random_inputs(network, shape))
    assert logits.shape == (2, 3, *shape)
    logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_film_starts_as_the_identity_and_then_depends_on_t() -> None:
    network = small_unet()
    image, mask, t = random_inputs(network, (8, 8))
    with torch.no_grad():
        torch.testing.assert_close(network(image, mask, t), network(image, mask, 1 - t))
        randomise(network)
        assert (network(image, mask, t) - network(image, mask, 1 - t)).abs().max() > 1e-2


def test_imgx_conditioning_is_removed_by_the_norm() -> None:
    network = small_unet(time_conditioning="imgx").double()
    randomise(network)
    image, mask, t = (tensor.double() for tensor in random_inputs(network, (8, 8)))
    with torch.no_grad():
        torch.testing.assert_close(network(image, mask, t), network(image, mask, 1 - t))


def test_supervised_network_takes_neither_mask_nor_t() -> None:
    network = small_unet(3, mask_channels=0)
    assert not [name for name, _ in network.named_parameters() if "time" in name]
    image = random_inputs(network, (4, 6, 5))[0]
    assert network(image).shape == (2, 3, 4, 6, 5)
    with pytest.raises(ValueError, match="mask and t: expected None"):
        network(image, torch.zeros(2, 3, 4, 6, 5), torch.ones(2))


@pytest.mark.parametrize("mask_channels", [0, 3])
def test_2d_network_takes_a_volume_slice_by_slice(mask_channels: int) -> None:
    network = small_unet(2, mask_channels=mask_channels)
    randomise(network)
    inputs = random_inputs(network, (9, 6, 4))
    with torch.no_grad():
        logits = network(*inputs)
        for index in range(4):
            slices = [x if x.ndim == 1 else x[..., index] for x in inputs]
            # The same sums over other batch sizes, which convolutions may order differently.
            torch.testing.assert_close(logits[..., index], network(*slices), rtol=1e-4, atol=1e-4)


def flat_pair(channels: tuple[int, ...] = (4, 8, 8)) -> tuple[UNet, UNet]:
    """A 3D network that mixes no slices in any convolution, and the 2D network of its weights."""
    volumes = small_unet(3, channels=channels, kernels=((3, 3, 1),) * 3, scales=((2, 2, 1),) * 2)
    slices = small_unet(2, channels=channels)
    randomise(slices)
    volumes.load_state_dict(
        {
            name: weight[..., None] if weight.ndim == 4 else weight
            for name, weight in slices.state_dict().items()
        }
    )
    return volumes, slices


def pointwise_norm(
    self: InstanceNorm,
    x: Tensor,
    residual: Tensor | None = None,
    film: tuple[Tensor, Tensor] | None = None,
    *,
    activation: bool = True,
) -> Tensor:
    """The norm without its statistics, which it takes over all slices."""
    shape = (-1, x.shape[1], *(1,) * (x.ndim - 2))
    y = x * self.weight.view(shape) + self.bias.view(shape)
    if film is not None:
        y = y * (1 + film[0].view(shape)) + film[1].view(shape)
    if residual is not None:
        y = y + residual
    return F.gelu(y, approximate="tanh") if activation else y


def test_flat_kernels_and_factors_mix_no_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    # Statistics and attention are over all voxels of a volume, so they are left out here.
    monkeypatch.setattr(InstanceNorm, "forward", pointwise_norm)
    monkeypatch.setattr(Transformer, "forward", lambda _self, x: x)
    volumes, slices = flat_pair()
    image, mask, t = random_inputs(slices, (11, 6, 5))
    with torch.no_grad():
        # A 2D network takes a volume slice by slice. The same sums, in another order.
        torch.testing.assert_close(volumes(image, mask, t), slices(image, mask, t))


@pytest.mark.parametrize("batch", [1, 2])
def test_a_flat_network_on_one_slice_is_the_2d_network(batch: int) -> None:
    volumes, slices = flat_pair()
    results = []
    for network in (volumes, slices):
        inputs = [x[:batch] for x in random_inputs(slices, (11, 6, 1))]
        logits = network(
            *(inputs if network is volumes else [x.squeeze(4) if x.ndim > 1 else x for x in inputs])
        )
        logits.square().mean().backward()
        gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        results.append([logits.detach().flatten(), *gradients])
    # The same sums, in another order, through some 20 norms.
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_checkpointing_gives_the_same_gradients() -> None:
    gradients = []
    for enabled in (False, True):
        network = small_unet(3, checkpoint_activations=enabled, dropout=0.1)
        randomise(network)
        torch.manual_seed(3)
        network(*random_inputs(network, (5, 6, 7))).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("spatial_dims", "kwargs"), [(2, {}), (3, {}), (3, FLAT)])
def test_bfloat16_autocast_is_close_and_keeps_channels_last(
    spatial_dims: int, kwargs: dict[str, Any], batch: int
) -> None:
    network = small_unet(spatial_dims, **kwargs)
    randomise(network)
    inputs = random_inputs(network, (10, 9, 8)[:spatial_dims], batch)
    dtypes = set()

    def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        dtypes.add(output.dtype)
        # A processor that does not compute in bfloat16 takes a detour for it, in another layout.
        if output.dtype == torch.float32 or choose_precision("auto", output.device) == "bf16":
            assert output.is_contiguous(memory_format=network.memory_format)

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)) and module is not network.head:
            module.register_forward_hook(record)
    expected = network(*inputs)
    assert dtypes == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(*inputs)
    assert dtypes == {torch.float32, torch.bfloat16}
    # bfloat16 keeps 8 bits; ten layers of unit-scale activations.
    assert (logits.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_one_autocast_context_serves_a_pass_without_and_one_with_gradient() -> None:
    network = small_unet()
    inputs = random_inputs(network, (8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            network(*inputs)
        network(*inputs).float().square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(("spatial_dims", "kwargs"), [(2, {}), (3, FLAT)])
@pytest.mark.parametrize("batch", [1, 2])
def test_compiled_full_graph_equals_eager(
    spatial_dims: int, kwargs: dict[str, Any], batch: int
) -> None:
    network = small_unet(spatial_dims, **kwargs)
    randomise(network)
    inputs = [x[:batch] for x in random_inputs(network, (7, 6, 5)[:spatial_dims], batch=2)]
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    results = []
    for run in (network, compiled):
        network.zero_grad()
        logits = run(*inputs)
        logits.square().mean().backward()
        results.append([logits.detach(), *(p.grad.clone() for p in network.parameters())])
    for eager, graph in zip(*results, strict=True):
        torch.testing.assert_close(graph, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims: expected 2 or 3, got 4"),
        ({"channels": (4, 6)}, "expected a multiple of widening_factor 4, got 6"),
        ({"channels": ()}, "channels: expected positive integers"),
        ({"scales": (2, 2)}, r"scales: expected one integer or 3 entries, got \(2, 2\)"),
        (
            {"scales": ((2, 2, 1), 2, 2)},
            r"scales: expected for each level a positive integer or 2 of them, got \(2, 2, 1\)",
        ),
        ({"scales": 0}, "scales: expected for each level a positive integer or 2 of them, got 0"),
        ({"kernels": (3, 3, 3)}, r"kernels: expected one integer or 4 entries, got \(3, 3, 3\)"),
        ({"kernels": (3, (3, 2), 3, 3)}, r"kernels: expected odd sizes, got \(3, \(3, 2\), 3, 3\)"),
        ({"time_conditioning": "add"}, "time_conditioning: expected 'film' or 'imgx', got 'add'"),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, Any], message: str) -> None:
    arguments = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, **kwargs}
    with pytest.raises(ValueError, match=message):
        UNet(**arguments)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_an_image_with_its_mask_beside_it_is_as_good(spatial_dims: int) -> None:
    network = small_unet(spatial_dims)
    image, mask, t = random_inputs(network, (6, 5, 4))
    expected = network(image, mask, t)
    assert torch.equal(network(torch.cat([image, mask], dim=1), t=t), expected)


def test_bad_inputs_are_named() -> None:
    network = small_unet(3)
    image, mask, t = random_inputs(network, (4, 4, 4))
    with pytest.raises(ValueError, match=r"image: expected \(B, 2, \*S\) with 3 axes S"):
        network(image[..., 0], mask, t)
    with pytest.raises(ValueError, match=r"image: expected \(B, 2, \*S\)"):
        network(mask, mask, t)
    with pytest.raises(ValueError, match=r"t: expected times \(B,\) with a mask, got None"):
        network(image, mask)
    with pytest.raises(ValueError, match=r"image: expected \(B, 5, \*S\) with 3 axes S"):
        network(image, t=t)
    with pytest.raises(ValueError, match="mask: expected 3 channels, got None"):
        network(image)
    with pytest.raises(ValueError, match=r"mask: expected \(2, 3, 4, 4, 4\)"):
        network(image, mask[:, :2], t)
    with pytest.raises(ValueError, match=r"t: expected shape \(2,\)"):
        network(image, mask, t[:1])
