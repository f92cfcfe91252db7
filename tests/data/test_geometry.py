"""Orientation and resampling."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recycleseg.data.geometry import Kernel, Orientation, resample, resample_label

AXES = [
    "".join(letters)
    for order in itertools.permutations(["RL", "AP", "SI"])
    for letters in itertools.product(*order)
]


def affine_of(codes: str) -> np.ndarray:
    """Affine of axes with these directions and spacings of 1, 2 and 3 mm."""
    ornt = nib.orientations.axcodes2ornt(codes)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, direction) in enumerate(ornt):
        affine[int(world), axis] = direction * (axis + 1)
    return affine


@pytest.mark.parametrize("codes", AXES)
def test_orientation_equals_nibabel_and_is_undone(codes: str) -> None:
    x = torch.arange(2 * 3 * 4).reshape(2, 3, 4).float()
    affine = affine_of(codes)
    canonical = nib.as_closest_canonical(nib.Nifti1Image(x.numpy(), affine))
    orientation = Orientation.of(affine, 3)
    np.testing.assert_array_equal(orientation.apply(x[None])[0], canonical.get_fdata())
    assert orientation.sizes((1.0, 2.0, 3.0)) == canonical.header.get_zooms()
    torch.testing.assert_close(orientation.undo(orientation.apply(x[None]))[0], x, rtol=0, atol=0)


def test_oblique_affine_goes_to_the_closest_axes() -> None:
    angle = np.deg2rad(20)
    affine = np.eye(4)
    affine[:2, :2] = [[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert Orientation.of(affine, 3) == Orientation((0,), (0, 1, 2))


@pytest.mark.parametrize("shape", [(9, 5, 8), (12, 12, 7), (6, 10, 4)])
def test_enlarging_equals_torch(shape: tuple[int, ...]) -> None:
    x = torch.rand(2, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(x[None], size=shape, mode="trilinear", align_corners=False)[0]
    # The weights are the same, but summed in another order.
    torch.testing.assert_close(resample(x, shape), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(9, 5), (3, 20), (4, 4)])
def test_shrinking_equals_torch_with_antialiasing(shape: tuple[int, ...]) -> None:
    x = torch.rand(2, 13, 12, generator=torch.Generator().manual_seed(0))
    options = {"mode": "bilinear", "align_corners": False, "antialias": True}
    expected = F.interpolate(x[None], size=shape, **options)[0]
    # torch rounds the weights of this filter to float32 at another place.
    torch.testing.assert_close(resample(x, shape), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", [(9, 5), (3, 20), (20, 31), (1, 12), (4, 4)])
def test_cubic_equals_torch_with_antialiasing(shape: tuple[int, ...]) -> None:
    x = torch.rand(2, 13, 12, generator=torch.Generator().manual_seed(0))
    options = {"mode": "bicubic", "align_corners": False, "antialias": True}
    expected = F.interpolate(x[None], size=shape, **options)[0]
    # torch rounds the weights of this filter to float32 at another place.
    torch.testing.assert_close(resample(x, shape, kernel="cubic"), expected, rtol=0, atol=2e-6)


def test_cubic_is_exact_for_parabolas_inside() -> None:
    """Keys 1981: convergence is of third order, so polynomials up to degree 2 do not change."""
    old, new = 12, 30
    x = torch.arange(old, dtype=torch.float64) + 0.5
    at = (torch.arange(new, dtype=torch.float64) + 0.5) * old / new
    curve = resample((x**2)[None].float(), (new,), kernel="cubic")[0]
    inside = (at > 2) & (at < old - 2)
    # Values up to 144, with float32 rounding.
    torch.testing.assert_close(curve[inside], (at**2)[inside].float(), rtol=0, atol=5e-5)


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
def test_equal_shape_is_bit_exact_and_constants_stay(kernel: Kernel) -> None:
    x = torch.rand(1, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resample(x, (5, 6, 7), kernel=kernel), x)
    ones = resample(torch.ones(1, 5, 6, 7), (11, 3, 1), kernel=kernel)
    # The sum of each row of weights is 1 except for float32 rounding.
    torch.testing.assert_close(ones, torch.ones(1, 11, 3, 1), rtol=0, atol=1e-6)


def test_label_takes_the_largest_share() -> None:
    label = torch.tensor([0, 0, 2, 2, 1, 1])
    assert resample_label(label, (3,), (0, 1, 2)).tolist() == [0, 2, 1]
    assert resample_label(label, (12,), (0, 1, 2)).tolist() == [0] * 4 + [2] * 4 + [1] * 4
    assert resample_label(label, (6,), (0, 1, 2)).dtype == torch.uint8


def label_by_whole_maps(label: torch.Tensor, shape: tuple[int, ...], number: int) -> torch.Tensor:
    """As documented, without any box."""
    shares = [resample((label == value).float()[None], shape)[0] for value in range(number)]
    return torch.stack(shares).argmax(0).to(torch.uint8)


@pytest.mark.parametrize("shape", [(9, 7, 5), (31, 40, 13), (3, 2, 1), (20, 17, 26)], ids=str)
@pytest.mark.parametrize("extent", [1, 3, 12])
def test_each_class_is_resampled_within_its_own_box(shape: tuple[int, ...], extent: int) -> None:
    rng = np.random.default_rng(extent)
    label = torch.zeros(20, 17, 13, dtype=torch.uint8)
    for value in (1, 2, 3, 5):  # 4 is missing
        start = rng.integers(0, np.array(label.shape) - min(extent, 12) + 1)
        box = tuple(slice(first, first + extent) for first in start.tolist())
        drawn = torch.from_numpy(rng.random(label[box].shape) < 0.7)
        label[box][drawn] = value
    expected = label_by_whole_maps(label, shape, 6)
    assert torch.equal(resample_label(label, shape, range(6)), expected)
    # Values need not begin with the background, and an absent one may come first.
    of_three = resample_label(label, shape, (4, 0, 1, 2, 3, 5))
    assert torch.equal(of_three, expected)


def test_label_of_a_ball_survives_anisotropic_resampling() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(24) - 11.5] * 3, indexing="ij"))
    ball = torch.from_numpy((np.linalg.norm(grid, axis=0) < 9).astype(np.uint8))
    coarse = resample_label(ball, (24, 24, 8), (0, 1))
    back = resample_label(coarse, (24, 24, 24), (0, 1))
    dice = 2 * (back & ball).sum() / (back.sum() + ball.sum())
    assert dice > 0.95


@pytest.mark.parametrize("shape", [(5, 6, 7), (11, 3, 7), (2, 13, 1), (40, 40, 40)], ids=str)
@pytest.mark.parametrize("kernel", ["linear", "cubic"])
def test_a_part_has_the_bits_of_the_whole(shape: tuple[int, ...], kernel: Kernel) -> None:
    x = torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    whole = resample(x, shape, kernel=kernel)
    for axis, size in enumerate(shape):
        for start, stop in ((0, 1), (size // 2, size), (size - 1, size), (0, size)):
            part = [slice(None)] * 3
            part[axis] = slice(start, stop)
            assert torch.equal(resample(x, shape, part, kernel=kernel), whole[(slice(None), *part)])
