"""Augmentation, compared with arrays of ImgX, and properties that it must always have."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from recycleseg.classes import IGNORED
from recycleseg.data.augment import (
    AugmentConfig,
    adjust_gamma,
    affine_coordinates,
    affine_matrix,
    augment,
    random_parameters,
    resample,
    rescale_intensity,
    rotation_matrix,
    scaling_matrix,
    shear_matrix,
    translation_matrix,
    warp,
)

Reference = Callable[[str], dict[str, np.ndarray]]
IDENTITY = AugmentConfig(rotation=0, zoom=0, shear=0, shift=0, flip=False, gamma=0)
STRONG = AugmentConfig(rotation=30, zoom=0.2, shear=30, shift=0.3, flip=True, probability=1)


class Arrays:
    """The arrays for 2D or 3D, channels first; `used` collects the keys that were read."""

    def __init__(self, arrays: dict[str, np.ndarray], dim: str) -> None:
        self.arrays = {k.removeprefix(f"{dim}/"): v for k, v in arrays.items() if k.startswith(dim)}
        self.n = int(dim[0])
        self.used: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.used.add(key)
        array = self.arrays[key]
        has_channels = array.ndim == self.n + 2 and key != "batch_apply_affine_to_grid"
        return torch.from_numpy(np.moveaxis(array, -1, 1) if has_channels else array)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self["in/image"].shape[2:])

    def grid(self) -> Tensor:
        identity = torch.eye(self.n + 1).expand(4, -1, -1)
        return affine_coordinates(identity, self.shape)

    def label(self, coordinates: Tensor) -> Tensor:
        return resample(self["in/label"][:, None], coordinates, 0)[:, 0]

    def half_offsets(self) -> Tensor:
        return self.grid() + torch.tensor([0.5, -0.5, 0.25, 1.0]).view(4, *[1] * (self.n + 1))

    def random_coordinates(self) -> Tensor:
        return affine_coordinates(self["random_affine/matrix"], self.shape)

    def with_unit_range(self) -> Tensor:
        """The image with extra rows of 0 and 1, so that its range is [0, 1]."""
        image = self["in/image"]
        return torch.cat([image, image[:, :, :1] * 0, image[:, :, :1] * 0 + 1], dim=2)

    def flipped(self) -> Tensor:
        """The image flipped by matrices, as in `augment`."""
        signs = torch.where(self["in/to_flip"], -1.0, 1.0)
        return resample(self["in/image"], affine_coordinates(scaling_matrix(signs), self.shape), 1)


GRID = "batch_apply_affine_to_grid"
PARAMETERS = ("in/spacing", "in/rotations", "in/scales", "in/shears", "in/shifts")
# Output key -> our value.
OURS: dict[str, Callable[[Arrays], Tensor]] = {
    "get_affine_matrix": lambda a: affine_matrix(*(a[key] for key in PARAMETERS)),
    "get_rotation_matrix": lambda a: rotation_matrix(a["in/rotations"]),
    "get_shear_matrix": lambda a: shear_matrix(a["in/shears"]),
    "get_scaling_matrix": lambda a: scaling_matrix(a["in/scales"]),
    "get_translation_matrix": lambda a: translation_matrix(a["in/shifts"]),
    GRID: lambda a: affine_coordinates(a["get_affine_matrix"], a.shape),
    "resampled_image_order1": lambda a: resample(a["in/image"], a[GRID], 1),
    "resampled_image_order0": lambda a: resample(a["in/image"], a[GRID], 0),
    "resampled_label_order0": lambda a: a.label(a[GRID]),
    "resampled_image_order1_cval0.5": lambda a: resample(a["in/image"], a[GRID], 1, 0.5),
    "half_offsets_order0": lambda a: resample(a["in/image"], a.half_offsets(), 0),
    "half_offsets_order1": lambda a: resample(a["in/image"], a.half_offsets(), 1),
    "random_affine/image": lambda a: resample(a["in/image"], a.random_coordinates(), 1),
    "random_affine/label": lambda a: a.label(a.random_coordinates()),
    "warp_image_order1": lambda a: resample(a["in/image"], a.grid() + a["in/ddf"], 1),
    "adjust_gamma": lambda a: adjust_gamma(a.with_unit_range(), a["in/gamma"])[:, :, :-2],
    "rescale_intensity": lambda a: rescale_intensity(a["in/raw"]),
    "rescale_intensity_-1_2": lambda a: rescale_intensity(a["in/raw"], -1, 2),
    "random_flip": Arrays.flipped,
}
# The first is drawn by ImgX, so it is an input for us; the second is NaN in ImgX.
NOT_OUTPUTS = {"random_affine/matrix", "rescale_intensity(constant_zero)"}


@pytest.mark.parametrize("key", OURS)
@pytest.mark.parametrize("dim", ["2d", "3d"])
def test_equals_imgx(reference: Reference, dim: str, key: str) -> None:
    arrays = Arrays(reference("j_augmentation"), dim)
    # A few float32 roundings of coordinates up to 14 voxels and intensities up to 1.
    torch.testing.assert_close(OURS[key](arrays), arrays[key], rtol=2e-6, atol=4e-6)


@pytest.mark.parametrize("dim", ["2d", "3d"])
def test_no_array_of_imgx_is_left_out(reference: Reference, dim: str) -> None:
    arrays = Arrays(reference("j_augmentation"), dim)
    for key, ours in OURS.items():
        ours(arrays)
        arrays.used.add(key)
    assert arrays.used | NOT_OUTPUTS == set(arrays.arrays)


@pytest.mark.parametrize("dim", ["2d", "3d"])
def test_constant_image_rescales_to_zeros(reference: Reference, dim: str) -> None:
    theirs = Arrays(reference("j_augmentation"), dim)["rescale_intensity(constant_zero)"]
    assert theirs.isnan().all()
    assert torch.equal(rescale_intensity(torch.full(theirs.shape, 3.0)), torch.zeros(theirs.shape))


def make_batch(shape: tuple[int, ...], batch_size: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(batch_size, 2, *shape, generator=generator)
    label = torch.randint(0, 5, (batch_size, *shape), generator=generator, dtype=torch.uint8)
    return image, label


def make_balls(shape: tuple[int, ...], batch_size: int) -> Tensor:
    """Label 1 in an off-centre ball, 2 in its core."""
    axes = [torch.arange(size) - 0.4 * size for size in shape]
    distance = sum(axis**2 for axis in torch.meshgrid(*axes, indexing="ij")).sqrt()
    label = (distance < 0.3 * min(shape)).byte() + (distance < 0.15 * min(shape)).byte()
    return label.expand(batch_size, *shape).clone()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(9, 12), (1, 5), (7, 6, 5), (4, 1, 3)])
@pytest.mark.parametrize("config", [IDENTITY, AugmentConfig(flip=True, probability=0)])
def test_identity_changes_nothing(shape: tuple[int, ...], config: AugmentConfig) -> None:
    image, label = make_batch(shape)
    spacing = (0.7, 1.3, 2.9)[: len(shape)]
    new_image, new_label = augment(image, label, config, spacing=spacing, generator=seeded())
    assert torch.equal(new_image, image)
    assert torch.equal(new_label, label) and new_label.dtype == label.dtype


@pytest.mark.parametrize("shape", [(9, 12), (7, 6, 5)])
def test_flips_are_exact(shape: tuple[int, ...]) -> None:
    image, label = make_batch(shape, batch_size=32)
    config = AugmentConfig(rotation=0, zoom=0, shift=0, gamma=0, flip=True, probability=1)
    spacing = (0.7, 1.3, 2.9)[: len(shape)]
    new_image, new_label = augment(image, label, config, spacing=spacing, generator=seeded())
    subsets = [
        axes
        for k in range(len(shape) + 1)
        for axes in itertools.combinations(range(-len(shape), 0), k)
    ]
    seen = set()
    for b in range(32):
        matches = [s for s in subsets if torch.equal(new_image[b], image[b].flip(s))]
        assert len(matches) == 1
        assert torch.equal(new_label[b], label[b].flip(matches[0]))
        seen.add(matches[0])
    assert seen == set(subsets)


def test_only_named_axes_flip() -> None:
    config = AugmentConfig(0, 0, 0, 0, flip=(False, True), gamma=0, probability=1)
    matrix, _ = random_parameters(64, (4, 4), config, spacing=(1, 1), generator=seeded())
    assert (matrix[:, 0, 0] == 1).all()
    assert set(matrix[:, 1, 1].tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize(
    ("angles", "plane"),
    [((1,), (0, 1)), ((1, 0, 0), (1, 2)), ((0, 1, 0), (2, 0)), ((0, 0, 1), (0, 1))],
)
@pytest.mark.parametrize("size", [6, 7])
def test_quarter_turn_of_a_cube_moves_voxels(
    angles: tuple[int, ...], plane: tuple[int, int], size: int
) -> None:
    n = 2 if len(angles) == 1 else 3
    image, label = make_batch((size,) * n, batch_size=1)
    matrix = rotation_matrix(torch.tensor([angles]) * (math.pi / 2))
    new_image, new_label = warp(image, label, matrix)
    turned = tuple(axis - n for axis in plane)
    # The matrix maps output to input, so the content turns in the opposite direction.
    # cos(pi/2) is 4e-8 in float32, so coordinates differ by a rounding.
    torch.testing.assert_close(new_image, image.rot90(-1, turned), rtol=0, atol=5e-6)
    assert torch.equal(new_label, label.rot90(-1, turned))


def test_rotation_respects_anisotropic_voxels() -> None:
    """Ten voxels of 1 mm along the first axis become five of 2 mm along the second."""
    label = torch.zeros(1, 31, 31, dtype=torch.uint8)
    label[0, 10:21, 15] = 1
    turn = rotation_matrix(torch.tensor([[math.pi / 2]]))
    spacing = torch.tensor([1.0, 2.0])
    ones, zeros = torch.ones(1, 2), torch.zeros(1, 2)
    matrix = affine_matrix(spacing, torch.tensor([[math.pi / 2]]), ones, zeros, zeros)
    _, turned = warp(torch.zeros(1, 1, 31, 31), label, matrix)
    columns = turned[0, 15].nonzero().flatten().tolist()
    assert columns == list(range(13, 18))
    _, as_if_isotropic = warp(torch.zeros(1, 1, 31, 31), label, turn)
    assert as_if_isotropic[0, 15].sum() == 11


def test_shift_moves_by_a_fraction_of_the_patch() -> None:
    config = AugmentConfig(rotation=0, zoom=0, shift=0.25, gamma=0, probability=1)
    shape, spacing = (40, 20, 8), (0.5, 1.0, 3.0)
    matrix, _ = random_parameters(4000, shape, config, spacing=spacing, generator=seeded())
    furthest = matrix[:, :3, 3].abs().amax(0)
    limit = 0.25 * torch.tensor(shape)
    assert (furthest <= limit).all() and (furthest > 0.99 * limit).all()


@pytest.mark.parametrize("shape", [(48, 40), (28, 24, 20)])
def test_label_and_image_stay_aligned(shape: tuple[int, ...]) -> None:
    label = make_balls(shape, 8)
    mask = torch.stack([label == 1, label == 2], dim=1)
    image = mask.float()
    config = AugmentConfig(rotation=30, zoom=0.2, shear=20, shift=0.1, flip=True, probability=1)
    spacing = (1.0, 1.5, 2.5)[: len(shape)]
    new_image, new_label = augment(image, label, config, spacing=spacing, generator=seeded())
    _, new_mask = augment(image, mask, config, spacing=spacing, generator=seeded())

    assert new_mask.dtype == torch.bool
    assert torch.equal(new_mask, torch.stack([new_label == 1, new_label == 2], dim=1))
    # Except at corners, linear interpolation is above 1/2 just where the nearest voxel is inside.
    assert ((new_image > 0.5) == new_mask).float().mean() > 0.98
    moved = [tuple(new_mask[b, 1].nonzero().float().mean(0).tolist()) for b in range(8)]
    assert len(set(moved)) == 8  # samples move independently


def test_gamma_alone_keeps_the_label_and_the_range() -> None:
    image, label = make_batch((9, 12), batch_size=6)
    config = AugmentConfig(rotation=0, zoom=0, shift=0, gamma=0.5, probability=1)
    new_image, new_label = augment(image, label, config, spacing=(1, 1), generator=seeded())
    assert torch.equal(new_label, label)
    flat, new_flat = image.flatten(2), new_image.flatten(2)
    torch.testing.assert_close(new_flat.amin(2), flat.amin(2))
    torch.testing.assert_close(new_flat.amax(2), flat.amax(2))
    # A power does not change the order of intensities.
    assert torch.equal(new_flat.argsort(2), flat.argsort(2))
    assert not torch.allclose(new_image, image)


def test_gamma_of_a_constant_channel_is_that_channel() -> None:
    image = torch.full((2, 1, 4, 4), -3.0)
    assert torch.equal(adjust_gamma(image, torch.tensor([0.5, 2.0])), image)


def test_outside_is_the_darkest_intensity_and_label_zero() -> None:
    image, label = make_batch((8, 8), batch_size=1)
    label = label + 1
    matrix = translation_matrix(torch.tensor([[100.0, 0.0]]))
    new_image, new_label = warp(image, label, matrix)
    assert torch.equal(new_image, image.amin((2, 3), keepdim=True).expand_as(image))
    assert not new_label.any()


def test_seed_decides_and_the_global_generator_does_not() -> None:
    image, label = make_batch((9, 12))
    first = augment(image, label, STRONG, spacing=(1, 1), generator=seeded(3))
    torch.manual_seed(99)
    again = augment(image, label, STRONG, spacing=(1, 1), generator=seeded(3))
    other = augment(image, label, STRONG, spacing=(1, 1), generator=seeded(4))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_probability_is_the_share_of_drawn_parameters() -> None:
    config = AugmentConfig(rotation=0, zoom=0.2, shift=0, gamma=0.3, probability=0.3)
    matrix, gamma = random_parameters(20000, (8, 8), config, spacing=(1, 1), generator=seeded())
    # The standard deviation of a share of 20 000 is 0.0032.
    for drawn in (matrix[:, 0, 0] != 1, matrix[:, 1, 1] != 1, gamma != 1):
        assert drawn.float().mean().item() == pytest.approx(0.3, abs=0.013)
    assert 0.8 <= matrix[:, 0, 0].min() and matrix[:, 0, 0].max() <= 1.2
    assert math.exp(-0.3) <= gamma.min() and gamma.max() <= math.exp(0.3)


@pytest.mark.parametrize("order", [0, 1])
def test_resample_equals_grid_sample(order: int) -> None:
    """Inside and outside, but not half-way between voxels, because there torch rounds to even."""
    x = make_batch((7, 6, 5), batch_size=2)[0].double()
    coordinates = torch.rand(2, 3, 4, 3, 2, generator=seeded(), dtype=torch.float64) * 12 - 3
    sizes = torch.tensor([7, 6, 5]).view(3, 1, 1, 1)
    grid = (2 * coordinates / (sizes - 1) - 1).flip(1).movedim(1, -1)
    mode = ("nearest", "bilinear")[order]
    expected = torch.nn.functional.grid_sample(x, grid, mode=mode, align_corners=True)
    torch.testing.assert_close(resample(x, coordinates, order), expected, rtol=1e-12, atol=1e-12)


def test_compiles_without_graph_breaks() -> None:
    image, label = make_batch((9, 12))
    matrix, gamma = random_parameters(3, (9, 12), STRONG, spacing=(1, 1), generator=seeded())

    def move_and_brighten(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        warped, moved = warp(image, label, matrix)
        return adjust_gamma(warped, gamma), moved

    compiled = torch.compile(move_and_brighten, fullgraph=True, backend="aot_eager")
    for ours, expected in zip(compiled(image, label), move_and_brighten(image, label), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotation": -1}, "rotation: expected 0 <= rotation < 360, got -1"),
        ({"zoom": 1.0}, "zoom: expected 0 <= zoom < 1, got 1.0"),
        ({"shear": 90}, "shear: expected 0 <= shear < 90, got 90"),
        ({"shift": math.nan}, "shift: expected 0 <= shift < inf, got nan"),
        ({"gamma": math.inf}, "gamma: expected 0 <= gamma < inf, got inf"),
        ({"probability": 1.5}, "probability: expected 0 to 1, got 1.5"),
    ],
)
def test_config_refuses(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(2, 1, 4)}, r"image: expected floating point \(B, C, \*S\)"),
        ({"image": torch.zeros(2, 1, 4, 4, dtype=torch.int32)}, "got torch.int32"),
        ({"label": torch.zeros(2, 4, 5)}, r"label: expected .* got \(2, 4, 5\)"),
        ({"label": torch.zeros(1, 4, 4)}, r"label: expected .* got \(1, 4, 4\)"),
        ({"spacing": (1.0,)}, r"spacing: expected 2 positive sizes in mm, got \(1.0,\)"),
        ({"spacing": (1.0, 0.0)}, "spacing: expected 2 positive sizes in mm"),
        ({"config": AugmentConfig(flip=(True,))}, r"flip: expected one value or 2, got \(True,\)"),
    ],
)
def test_augment_refuses(change: dict[str, object], message: str) -> None:
    arguments = {
        "image": torch.zeros(2, 1, 4, 4),
        "label": torch.zeros(2, 4, 4),
        "config": IDENTITY,
        "spacing": (1.0, 1.0),
        "generator": seeded(),
    }
    with pytest.raises(ValueError, match=message):
        augment(**{**arguments, **change})


def test_builders_and_resample_refuse() -> None:
    with pytest.raises(ValueError, match=r"angles: expected shape \(B, 1\) or \(B, 3\)"):
        rotation_matrix(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"angles: expected shape \(B, 2\) or \(B, 6\)"):
        shear_matrix(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="order: expected 0, or 1 for floating point"):
        resample(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.zeros(1, 2, 4, 4), 1)


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_moved_label_has_no_new_values(overlapping: bool) -> None:
    """Neither has an ignored one, whose value is far from those of the classes."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, 2, 20, 18) if overlapping else (3, 20, 18)
    label = torch.randint(0, 2, shape, generator=generator).to(torch.uint8)
    label[..., 5:12, 4:9] = IGNORED
    config = AugmentConfig(rotation=40.0, zoom=0.3, shear=10.0, probability=1.0)
    image = torch.rand(3, 1, 20, 18, generator=generator)
    _, moved = augment(image, label, config, spacing=(1.0, 2.0), generator=generator)
    assert moved.unique().tolist() == [0, 1, IGNORED]
    if overlapping:
        assert torch.equal(moved[:, 0] == IGNORED, moved[:, 1] == IGNORED)
