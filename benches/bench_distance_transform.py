"""Exact distance of each voxel inside a mask to the nearest one outside."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from scipy import ndimage
from selection import DEVICE, full_unless, on_device
from torch import Tensor

from recycleseg.ops.distance_transform import distance_transform, distance_transform_reference

# Millimetres between voxels of a prostate MR image, a brain MR image and ultrasound images.
SPACINGS = {
    (128, 128, 96): (0.9, 0.9, 2.5),
    (240, 240, 155): (1.0, 1.0, 1.5),
    (512, 480): (0.7, 0.8),
    (2048, 2048): (1.0, 1.0),
}
QUICK_SHAPE = on_device((128, 128, 96), (240, 240, 155))
REFERENCE_VOXELS = 1 << 21  # it takes seconds for more


def by_scipy(mask: Tensor, spacing: tuple[float, ...]) -> Tensor:
    distance = ndimage.distance_transform_edt(mask.cpu().numpy(), sampling=spacing)
    return torch.from_numpy(distance).float().to(mask.device)


def by_edt(mask: Tensor, spacing: tuple[float, ...]) -> Tensor:
    """The edt package of seung-lab, with as many threads as torch."""
    import edt

    threads = torch.get_num_threads()
    distance = edt.edt(mask.cpu().numpy(), spacing, black_border=False, parallel=threads)
    return torch.from_numpy(distance).to(mask.device)


PROVIDERS: dict[str, Callable[[Tensor, tuple[float, ...]], Tensor]] = {
    "ours": lambda mask, spacing: distance_transform(mask[None], spacing=spacing)[0],
    "reference": lambda mask, spacing: distance_transform_reference(mask[None], spacing)[0],
    "scipy": by_scipy,
    "edt": by_edt,
}


def blobs(shape: tuple[int, ...]) -> np.ndarray:
    """Smooth random shapes that fill a fifth of the volume."""
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    noise = ndimage.gaussian_filter(noise, max(2, min(shape) / 16))
    return noise > np.quantile(noise, 0.8)


def one_voxel(shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(extent // 2 for extent in shape)] = True
    return mask


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).random(shape) < 0.02


def plate(shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[:, shape[1] // 2] = True
    return mask


MASKS = {function.__name__: function for function in (blobs, one_voxel, noise, plate)}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("side", ["inside", "outside"])
@pytest.mark.parametrize("mask_name", [full_unless(name == "blobs", name) for name in MASKS])
@pytest.mark.parametrize("shape", [full_unless(s == QUICK_SHAPE, s) for s in SPACINGS], ids=str)
def test_distance_transform(
    benchmark: BenchmarkFixture, shape: tuple[int, ...], mask_name: str, side: str, provider: str
) -> None:
    if provider == "reference" and np.prod(shape) > REFERENCE_VOXELS:
        pytest.skip("the reference is slow")
    if provider == "edt" and importlib.util.find_spec("edt") is None:
        pytest.skip("edt is not installed")
    threads = torch.get_num_threads()
    benchmark.group = f"distance_transform, {shape}, {side} {mask_name}, {threads} threads"
    inside = MASKS[mask_name](shape)
    mask = torch.from_numpy(inside if side == "inside" else ~inside).to(DEVICE)
    spacing, transform = SPACINGS[shape], PROVIDERS[provider]
    tolerance = 1e-5 if provider == "edt" else 2e-7
    torch.testing.assert_close(
        transform(mask, spacing), by_scipy(mask, spacing), rtol=tolerance, atol=0
    )

    def run() -> Tensor:
        distance = transform(mask, spacing)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return distance

    benchmark(run)
