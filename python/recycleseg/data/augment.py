"""Augmentation of a batch on its device: one affine map, one interpolation, and gamma.

The functions for matrices share one notation: n is the number of spatial axes, and a matrix
(B, n + 1, n + 1) maps points in homogeneous coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recycleseg.rows import Rows

# Number of axes -> planes of rotation, in the order of the angles: xy; yz, zx, xy.
_PLANES = {2: ((0, 1),), 3: ((1, 2), (2, 0), (0, 1))}


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges of the random parameters; zero switches a transformation off.

    Each parameter (each angle, the zoom of each axis, ...) of each sample is drawn independently:
    with `probability` uniformly from its range, otherwise it changes nothing.

    Attributes:
        rotation: largest angle around each axis, degrees, in both directions; one number, or in 3D
            one per axis. Around an axis means in the plane of the two others.
        zoom: each axis is scaled by 1 - zoom to 1 + zoom; one number, or one per axis.
        shear: largest shear angle, degrees, in both directions.
        shift: largest shift of each axis, as a fraction of the size of the patch, in both
            directions; one number, or one per axis.
        flip: axes to mirror: all, none, or one flag per axis. If the flip of an axis is drawn,
            the axis is mirrored with probability 1/2.
        gamma: intensities are raised to a power from exp(-gamma) to exp(gamma), uniform in the
            logarithm.
        probability: chance that a parameter is drawn.
    """

    rotation: float | tuple[float, ...] = 15.0
    zoom: float | tuple[float, ...] = 0.15
    shear: float = 0.0
    shift: float | tuple[float, ...] = 0.1
    flip: bool | tuple[bool, ...] = False
    gamma: float = 0.3
    probability: float = 0.5

    def __post_init__(self) -> None:
        bounds = {"rotation": 360, "zoom": 1, "shear": 90, "shift": math.inf, "gamma": math.inf}
        for name, bound in bounds.items():
            given = getattr(self, name)
            for value in given if isinstance(given, tuple) else (given,):
                if not 0 <= value < bound:
                    raise ValueError(f"{name}: expected 0 <= {name} < {bound}, got {value}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability: expected 0 to 1, got {self.probability}")


@torch.no_grad()
def augment(
    image: Tensor,
    label: Tensor,
    config: AugmentConfig,
    *,
    spacing: Sequence[float],
    generator: torch.Generator,
    rows: Rows | None = None,
) -> tuple[Tensor, Tensor]:
    """Move, bend and brighten each sample of a batch at random.

    Rotation, zoom, shear, shift and flip become one matrix. So image (linear) and label (nearest)
    are interpolated only once each, and they stay aligned. Voxels from outside the patch get the
    lowest intensity of their sample and channel, and label 0. Lengths are in the unit of `spacing`,
    because otherwise a rotation of anisotropic voxels would change the shape of structures.

    Args:
        image: (B, C, *S) floating point, any device.
        label: (B, *S) integers, or a mask (B, K, *S) of overlapping classes.
        config: ranges of the parameters.
        spacing: voxel size of each axis, in mm or any other unit.
        generator: source of the random numbers. With a CPU generator, a seed gives the same
            numbers for every device.
        rows: which rows of a batch these are, whose other rows would get the other numbers of the
            generator; None: they are all of it.

    Returns:
        The new image and label, with the same shapes and dtypes.

    Raises:
        ValueError: shapes, dtype, spacing or flip do not fit.
    """
    _check_batch(image, label, spacing)
    rows = rows or Rows.all(len(image))
    parameters = random_parameters(
        rows.batch, image.shape[2:], config, spacing=spacing, generator=generator
    )
    matrix, gamma = (values[rows.slice] for values in parameters)
    image, label = warp(image, label, matrix.to(image.device, non_blocking=True))
    return adjust_gamma(image, gamma.to(image.device, non_blocking=True)), label


def random_parameters(
    batch_size: int,
    shape: Sequence[int],
    config: AugmentConfig,
    *,
    spacing: Sequence[float],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Draw the random parameters of a batch.

    Args:
        batch_size: B.
        shape: the n sizes of a patch.
        config: ranges of the parameters.
        spacing: voxel size of each axis, in mm or any other unit.
        generator: source of the random numbers.

    Returns:
        Matrices (B, n + 1, n + 1) and gammas (B,), float32 on the device of the generator.

    Raises:
        ValueError: an option of config has another number of values than shape has axes.
    """
    n = len(shape)
    shift = _each("shift", config.shift, n)
    limits = {
        "rotation": [math.radians(a) for a in _each("rotation", config.rotation, len(_PLANES[n]))],
        "zoom": _each("zoom", config.zoom, n),
        "shear": [math.radians(config.shear)] * (n * (n - 1)),
        "shift": [s * size * mm for s, size, mm in zip(shift, shape, spacing, strict=True)],
        "flip": _each("flip", config.flip, n),
        "gamma": [config.gamma],
    }
    device = generator.device
    limit = torch.tensor([value for values in limits.values() for value in values], device=device)
    value, gate = torch.rand(
        (2, batch_size, limit.numel()), generator=generator, device=device
    ).unbind()
    value = (2 * value - 1) * limit * (gate < config.probability)
    rotations, zooms, shears, shifts, flips, gamma = torch.split(
        value, [len(values) for values in limits.values()], dim=1
    )
    matrix = affine_matrix(
        torch.tensor(spacing, dtype=limit.dtype, device=device),
        rotations,
        1 + zooms,
        shears,
        shifts,
    )
    mirror = torch.where(flips < 0, -1.0, 1.0)
    matrix[:, :, :n] *= mirror[:, None, :]
    return matrix, gamma[:, 0].exp()


def _each(name: str, given: float | tuple[float, ...], number: int) -> list[float]:
    """One value per axis or plane."""
    values = given if isinstance(given, tuple) else (given,) * number
    if len(values) != number:
        raise ValueError(f"{name}: expected one value or {number}, got {given}")
    return [float(value) for value in values]


def warp(image: Tensor, label: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Resample image (linear) and label (nearest) with the same matrices.

    Args:
        image: (B, C, *S) floating point.
        label: (B, *S) or (B, K, *S), any dtype.
        matrix: (B, n + 1, n + 1), output voxel -> input voxel, relative to the centre.

    Returns:
        The new image and label, with the same shapes and dtypes.
    """
    coordinates = affine_coordinates(matrix, image.shape[2:])
    darkest, _ = _intensity_range(image)
    warped_image = resample(image, coordinates, order=1, background=darkest)
    if label.ndim == image.ndim:
        return warped_image, resample(label, coordinates, order=0)
    return warped_image, resample(label[:, None], coordinates, order=0)[:, 0]


def rotation_matrix(angles: Tensor) -> Tensor:
    """Rotation in one plane (2D) or three planes (3D).

    Args:
        angles: radians, (B, 1) in the plane xy, or (B, 3) in yz, then zx, then xy.

    Returns:
        (B, n + 1, n + 1).

    Raises:
        ValueError: neither one nor three angles.
    """
    if angles.ndim != 2 or angles.shape[1] not in (1, 3):
        raise ValueError(f"angles: expected shape (B, 1) or (B, 3), got {tuple(angles.shape)}")
    n = 2 if angles.shape[1] == 1 else 3
    matrix = _eye(angles, n)
    for (i, j), sin, cos in zip(_PLANES[n], angles.sin().T, angles.cos().T, strict=True):
        plane = _eye(angles, n)
        plane[:, i, i] = plane[:, j, j] = cos
        plane[:, i, j], plane[:, j, i] = -sin, sin
        matrix = plane @ matrix
    return matrix


def translation_matrix(shifts: Tensor) -> Tensor:
    """Translation (B, n + 1, n + 1) by shifts (B, n)."""
    matrix = _eye(shifts, shifts.shape[1])
    matrix[:, :-1, -1] = shifts
    return matrix


def scaling_matrix(scales: Tensor) -> Tensor:
    """Scaling (B, n + 1, n + 1) of each axis by scales (B, n)."""
    return torch.diag_embed(torch.cat([scales, torch.ones_like(scales[:, :1])], dim=1))


def shear_matrix(angles: Tensor) -> Tensor:
    """Shear for each axis, the last axis first: x_i += tan(angle) x_axis for all other axes i.

    Args:
        angles: (B, n (n - 1)) radians: the angles of the last axis, ..., of the first axis.

    Returns:
        (B, n + 1, n + 1).

    Raises:
        ValueError: neither two nor six angles.
    """
    if angles.ndim != 2 or angles.shape[1] not in (2, 6):
        raise ValueError(f"angles: expected shape (B, 2) or (B, 6), got {tuple(angles.shape)}")
    n = 2 if angles.shape[1] == 2 else 3
    matrix = _eye(angles, n)
    for axis, tangents in zip(reversed(range(n)), angles.tan().chunk(n, dim=1), strict=True):
        shear = _eye(angles, n)
        shear[:, [i for i in range(n) if i != axis], axis] = tangents
        matrix = shear @ matrix
    return matrix


def affine_matrix(
    spacing: Tensor, rotations: Tensor, scales: Tensor, shears: Tensor, shifts: Tensor
) -> Tensor:
    """Rotate, scale, shear, then shift, all in mm; the matrix maps voxels to voxels.

    Args:
        spacing: (n,) mm.
        rotations: (B, 1) or (B, 3) radians.
        scales: (B, n).
        shears: (B, n (n - 1)) radians.
        shifts: (B, n) mm.

    Returns:
        (B, n + 1, n + 1).
    """
    matrix = (
        translation_matrix(shifts)
        @ shear_matrix(shears)
        @ scaling_matrix(scales)
        @ rotation_matrix(rotations)
    )
    size = F.pad(spacing, (0, 1), value=1.0)
    # Multiply first, then divide: this keeps the diagonal of an unchanged axis exactly 1.
    return matrix * size / size[:, None]


def affine_coordinates(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """Where each voxel of a grid comes from.

    Args:
        matrix: (B, n + 1, n + 1), relative to the centre of the grid.
        shape: the n sizes of the grid.

    Returns:
        (B, n, *shape) voxel coordinates; 0 is the centre of the first voxel.
    """
    n = len(shape)
    coordinates = []
    for i in range(n):
        # Add the centre last: whole and half numbers add without rounding, so flips stay exact.
        row = matrix[:, i, n].view(-1, *[1] * n)
        for j, size in enumerate(shape):
            centred = torch.arange(size, device=matrix.device, dtype=matrix.dtype) - (size - 1) / 2
            along_j = [-1] + [size if axis == j else 1 for axis in range(n)]
            row = row + (matrix[:, i, j, None] * centred).view(along_j)
        coordinates.append(row + (shape[i] - 1) / 2)
    return torch.stack(coordinates, dim=1)


def resample(
    x: Tensor, coordinates: Tensor, order: int, background: float | Tensor = 0.0
) -> Tensor:
    """Values of x at voxel coordinates; exact if these are whole numbers.

    Args:
        x: (B, C, *S); floating point if order is 1.
        coordinates: (B, n, *T) in voxels.
        order: 0 takes the nearest voxel, and rounds half-way coordinates away from zero; 1 is
            multilinear.
        background: value of every voxel outside x; a tensor (B, C, 1, ...) gives one value per
            sample and channel.

    Returns:
        (B, C, *T) in the dtype of x.

    Raises:
        ValueError: order is neither 0 nor 1, or it is 1 and x holds integers.
    """
    if order not in (0, 1) or (order == 1 and not x.is_floating_point()):
        raise ValueError(f"order: expected 0, or 1 for floating point x, got {order} for {x.dtype}")
    sizes = x.shape[2:]
    # With a rim of background, all neighbours of a voxel have a valid index.
    padded = x.new_empty(x.shape[:2] + tuple(size + 2 for size in sizes))
    padded[:] = background
    inside = padded
    for axis, size in enumerate(sizes):
        inside = inside.narrow(2 + axis, 1, size)
    inside.copy_(x)
    strides = padded[0, 0].stride()
    flat = padded.flatten(2)

    index = torch.full((), sum(strides), device=x.device)  # that of the first voxel of x
    fractions = []
    for axis, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        position = coordinates[:, axis].clamp(-1, size)
        if order == 0:
            low = _round_half_away(position)
        else:
            low = position.floor().clamp_(max=size - 1)
            fractions.append((position - low).flatten(1)[:, None].to(x.dtype))
        index = index.add(low.to(torch.int64), alpha=stride)
    index = index.flatten(1)[:, None].expand(-1, x.shape[1], -1)

    def interpolate(axis: int, offset: int) -> Tensor:
        if axis == len(sizes):
            return flat[:, :, offset:].gather(2, index)
        low = interpolate(axis + 1, offset)
        return low.lerp_(interpolate(axis + 1, offset + strides[axis]), fractions[axis])

    values = interpolate(0, 0) if order == 1 else flat.gather(2, index)
    return values.view(x.shape[:2] + coordinates.shape[2:])


def rescale_intensity(image: Tensor, v_min: float = 0.0, v_max: float = 1.0) -> Tensor:
    """Stretch each sample and channel (B, C, *S) to v_min ... v_max; a constant becomes v_min."""
    low, high = _intensity_range(image)
    span = torch.where(high > low, high - low, 1)
    return (image - low) / span * (v_max - v_min) + v_min


def adjust_gamma(image: Tensor, gamma: Tensor) -> Tensor:
    """Raise intensities to a power within the range of each sample and channel.

    If u is the image rescaled to [0, 1], the result is low + (high - low) u^gamma. This keeps the
    range, also works for normalised images with negative values, and does not change a constant
    image. For an image with the range [0, 1] it is image^gamma.

    Args:
        image: (B, C, *S) floating point.
        gamma: (B,) positive; a sample with exactly 1 stays unchanged.

    Returns:
        (B, C, *S).
    """
    low, high = _intensity_range(image)
    exponent = gamma.to(image.dtype).view(-1, *[1] * (image.ndim - 1))
    adjusted = low + (high - low) * rescale_intensity(image) ** exponent
    return torch.where(exponent == 1, image, adjusted)


def _intensity_range(image: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest intensity (B, C, 1, ...) of each sample and channel."""
    space = tuple(range(2, image.ndim))
    return image.amin(space, keepdim=True), image.amax(space, keepdim=True)


def _round_half_away(x: Tensor) -> Tensor:
    """Nearest whole numbers; half-way ones go away from zero. x + 0.5 would round large numbers."""
    whole = x.trunc()
    return (x - whole).mul_(2).trunc_().add_(whole)


def _eye(like: Tensor, n: int) -> Tensor:
    """Identity matrices (B, n + 1, n + 1), one per row of `like`."""
    return torch.eye(n + 1, dtype=like.dtype, device=like.device).repeat(like.shape[0], 1, 1)


def _check_batch(image: Tensor, label: Tensor, spacing: Sequence[float]) -> None:
    """Raise ValueError if image, label and spacing do not fit each other."""
    n = image.ndim - 2
    if n not in _PLANES or not image.is_floating_point():
        raise ValueError(
            "image: expected floating point (B, C, *S) with two or three spatial axes, "
            f"got {image.dtype} {tuple(image.shape)}"
        )
    sizes = image.shape[2:]
    if label.shape[0] != image.shape[0] or (label.shape[1:] != sizes and label.shape[2:] != sizes):
        raise ValueError(
            f"label: expected (B, *S) or (B, K, *S) to fit image {tuple(image.shape)}, "
            f"got {tuple(label.shape)}"
        )
    if len(spacing) != n or any(not 0 < mm < math.inf for mm in spacing):
        raise ValueError(f"spacing: expected {n} positive sizes in mm, got {tuple(spacing)}")
