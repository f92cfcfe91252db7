"""Conversion of ImgX's parameters, and the size of its default networks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recycleseg.models.imgx import convert_array, infer_arguments, parameter_names
from recycleseg.models.unet import UNet

REFERENCE_ROOT = Path(
    os.environ.get(
        "RECYCLESEG_REFERENCE", Path(__file__).resolve().parents[3] / "shared" / "reference"
    )
)
DATASETS = ("amos_ct", "brats2021_mr", "male_pelvic_mr", "muscle_us")


@pytest.fixture(scope="module")
def load_json() -> Callable[[str], dict[str, Any]]:
    """Loader of one JSON file computed by ImgX."""

    def load(name: str) -> dict[str, Any]:
        path = REFERENCE_ROOT / f"{name}.json"
        if not path.exists():
            pytest.skip(f"file computed by ImgX not found at {path}; set RECYCLESEG_REFERENCE")
        content: dict[str, Any] = json.loads(path.read_text())
        return content

    return load


def scales_of(entry: dict[str, Any]) -> tuple[tuple[int, ...], ...]:
    """ImgX's patch_size is its first factor, scale_factor each further one."""
    further = len(entry["num_channels"]) - 2
    return (tuple(entry["patch_size"]), *[tuple(entry["scale_factor"])] * further)


def build(name: str, entry: dict[str, Any]) -> UNet:
    """The network of one entry of param_counts, without storage."""
    mask_channels = entry["num_classes"]
    if name.endswith("self_conditioning"):
        mask_channels *= 2
    if name.endswith("/seg"):
        mask_channels = 0
    with torch.device("meta"):
        return UNet(
            entry["num_spatial_dims"],
            entry["image_channels"],
            entry["out_channels"],
            entry["num_channels"],
            mask_channels=mask_channels,
            scales=scales_of(entry),
            time_conditioning="imgx",
        )


def test_parameter_counts_of_all_default_networks(
    load_json: Callable[[str], dict[str, Any]],
) -> None:
    entries = load_json("param_counts")
    assert {name.split("/")[0] for name in entries} == set(DATASETS)
    for name, entry in entries.items():
        network = build(name, entry)
        names = parameter_names(network)
        sizes: dict[str, int] = {}
        for ours, parameter in network.named_parameters():
            part = names[ours].split("/")[0]
            sizes[part] = sizes.get(part, 0) + parameter.numel()
        assert sizes == entry["by_module"], name
        assert sum(sizes.values()) == entry["params"], name
        assert len(names) == entry["leaves"], name


@pytest.mark.parametrize("dataset", DATASETS)
def test_parameter_names_and_shapes_of_the_default_networks(
    dataset: str, load_json: Callable[[str], dict[str, Any]]
) -> None:
    shapes = load_json(f"param_shapes_{dataset}")
    key = f"{dataset}/gaussian_diff_seg/fixed_small"
    entry = load_json("param_counts")[key]
    network = build(key, entry)
    names = parameter_names(network)
    theirs = {name.replace("Checkpoint", ""): name for name in shapes}
    assert set(names.values()) == set(theirs)
    for ours, name in names.items():
        array = np.broadcast_to(np.float32(0), shapes[theirs[name]])
        assert convert_array(name, array).shape == network.get_parameter(ours).shape, name

    arguments = infer_arguments({n: np.broadcast_to(0.0, s) for n, s in shapes.items()})
    assert arguments["channels"] == tuple(entry["num_channels"])
    assert arguments["scales"] == scales_of(entry)
    assert arguments["in_channels"] == entry["image_channels"]
    assert (arguments["num_heads"], arguments["widening_factor"]) == (8, 4)


@pytest.mark.parametrize(
    ("spatial_dims", "kwargs"),
    [
        (2, {"channels": (4, 8)}),
        (3, {"channels": (4, 8, 8), "scales": ((2, 2, 1), 3), "num_res_blocks": 1}),
        (2, {"channels": (4, 8, 8), "scales": (4, (1, 2)), "kernels": 5}),
        (3, {"channels": (8,), "mask_channels": 0, "num_transformer_layers": 2}),
        (2, {"channels": (4, 8), "mask_channels": 6, "num_heads": 2, "widening_factor": 2}),
    ],
)
def test_arguments_are_inferred_from_the_parameters(
    spatial_dims: int, kwargs: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    network = UNet(spatial_dims, 2, 3, time_conditioning="imgx", **kwargs)
    head_dim = kwargs["channels"][-1] // kwargs.get("widening_factor", 4)
    params = {
        name: to_imgx(name, network.get_parameter(ours).detach().numpy(), head_dim)
        for ours, name in parameter_names(network).items()
    }
    given = {k: v for k, v in kwargs.items() if k == "mask_channels" and v}
    rebuilt = UNet.from_imgx(params, **given)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(rebuilt.get_parameter(name), parameter, rtol=0, atol=0)


def to_imgx(name: str, array: np.ndarray, head_dim: int) -> np.ndarray:
    """The inverse of convert_array."""
    if name.endswith(("query/kernel", "key/kernel", "value/kernel")):
        return array.T.reshape(array.shape[1], -1, head_dim)
    if name.endswith("out/kernel"):
        return array.T.reshape(-1, head_dim, array.shape[0])
    if name.endswith(("query/bias", "key/bias", "value/bias")):
        return array.reshape(-1, head_dim)
    if "ConvTranspose" in name:
        return np.moveaxis(np.flip(array, tuple(range(2, array.ndim))), (0, 1), (-2, -1))
    if name.endswith("kernel") and array.ndim > 2:
        return np.moveaxis(array, (0, 1), (-1, -2))
    return array.T


def test_wrong_parameters_are_named(
    reference: Callable[[str], dict[str, np.ndarray]],
) -> None:
    arrays = reference("g_unet_3d")
    params = {k.removeprefix("params/"): v for k, v in arrays.items() if k.startswith("params/")}
    bias = "UpsampleDecoder_0/Conv_0/bias"
    with pytest.raises(ValueError, match=rf"missing \['{bias}'\], unexpected \['more'\]"):
        UNet.from_imgx({k: v for k, v in params.items() if k != bias} | {"more": params[bias]})
    with pytest.raises(ValueError, match=r"expected \(4,\), got \(5,\)"):
        UNet.from_imgx(params | {bias: np.zeros(5, np.float32)})
    with pytest.raises(ValueError, match="params: expected a name like"):
        UNet.from_imgx({"weight": params[bias]})
