"""Artificial scenes to try out, test and compare methods without any download.

A scene is a body with three soft organs that touch and cover each other, and lesions that look
like organs but belong to the background. Their ranges of intensity overlap, so intensity alone is
not enough to tell them apart; a method must also use place, size and shape.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recycleseg.data.volumes import write_volume
from recycleseg.files import write_json

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Organ:
    """Mean centre and radii as fractions of the radii of the body; later organs lie in front."""

    name: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]


_ORGANS = (
    _Organ("lobe", (-0.34, 0.08, 0.05), (0.48, 0.60, 0.70)),
    _Organ("bean", (0.38, -0.34, -0.10), (0.40, 0.40, 0.66)),
    _Organ("duct", (0.20, 0.32, 0.10), (0.56, 0.30, 0.48)),
)
_SHAPES = {3: (32, 40, 32), 2: (96, 128)}
_SPACINGS = {3: (1.0, 1.0, 1.5), 2: (0.5, 0.5)}
_NUM_LESIONS = 4
_TISSUE = 0.42
_ORGAN_LEVELS = (0.60, 0.76, 0.92)
_SPECKLE = 0.13
_NOISE = 0.03


def phantom_name(spatial_dims: int) -> str:
    """Name of the data set."""
    return f"Phantom{spatial_dims}D"


def write_phantom(
    root: Path | str,
    *,
    spatial_dims: int = 3,
    num_cases: tuple[int, int, int] = (48, 6, 10),
    seed: int = 0,
) -> Path:
    """Write scenes as a data set in the nnU-Net raw layout: NIfTI in 3D, PNG in 2D.

    `dataset.json` is written last, so a folder that has it is complete. Scene k depends only on
    seed, spatial_dims and k.

    Args:
        root: folder of the data set; it is created if needed.
        spatial_dims: 3 (32 x 40 x 32 voxels of 1 x 1 x 1.5 mm) or 2 (96 x 128 pixels of 0.5 mm).
        num_cases: number of train, val and test scenes.
        seed: decides all random choices.

    Returns:
        `root` as a path.

    Raises:
        ValueError: spatial_dims or num_cases is invalid.
    """
    if spatial_dims not in _SHAPES:
        raise ValueError(f"spatial_dims: expected 2 or 3, got {spatial_dims}")
    if min(num_cases) < 0 or num_cases[0] < 1:
        raise ValueError(f"num_cases: expected at least one training scene, got {num_cases}")
    root = Path(root)
    ending = ".nii.gz" if spatial_dims == 3 else ".png"
    spacing = _SPACINGS[spatial_dims]
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    case_ids = [f"phantom_{index:03d}" for index in range(sum(num_cases))]

    def write_scene(index: int) -> None:
        case_id = case_ids[index]
        image, label = make_scene(spatial_dims, seed=seed, index=index)
        levels = (image * 160).clip(0, 255).round().astype(np.uint8)
        write_volume(root / "imagesTr" / f"{case_id}_0000{ending}", levels, spacing=spacing)
        write_volume(root / "labelsTr" / f"{case_id}{ending}", label, spacing=spacing)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(write_scene, range(len(case_ids))))
    train, val, _ = np.cumsum(num_cases).tolist()
    split = {"train": case_ids[:train], "val": case_ids[train:val], "test": case_ids[val:]}
    description = {
        "name": phantom_name(spatial_dims),
        "channel_names": {"0": "phantom"},
        "labels": {"background": 0, **{o.name: k for k, o in enumerate(_ORGANS, start=1)}},
        "numTraining": len(case_ids),
        "file_ending": ending,
    }
    write_json(root / "split.json", split)
    write_json(root / "dataset.json", description)
    return root


def make_scene(spatial_dims: int, *, seed: int, index: int) -> tuple[Array, Array]:
    """Image (*S) float32, about 0 to 1.5, and label (*S) uint8 of one scene."""
    rng = np.random.default_rng((seed, spatial_dims, index))
    grid, voxel = _body_coordinates(spatial_dims, rng)
    body = _coverage(grid, np.zeros(spatial_dims), np.ones(spatial_dims), 0.04, voxel, rng)
    image = body * (_TISSUE + 0.05 * _smooth_field(grid, 0.7, rng))
    for _ in range(_NUM_LESIONS):
        centre = rng.uniform(-0.75, 0.75, spatial_dims)
        radii = rng.uniform(0.14, 0.24) * rng.uniform(0.85, 1.15, spatial_dims)
        lesion = body * _coverage(grid, centre, radii, 0.1, voxel, rng)
        image += lesion * (rng.uniform(_ORGAN_LEVELS[0], _ORGAN_LEVELS[-1]) - image)
    # Any organ may have any level, but two organs never have the same level.
    levels = rng.permutation(_ORGAN_LEVELS) + rng.uniform(-0.05, 0.05, len(_ORGANS))
    label = np.zeros(image.shape, dtype=np.uint8)
    for value, organ in enumerate(_ORGANS, start=1):
        centre = np.array(organ.centre)[:spatial_dims] + rng.uniform(-0.08, 0.08, spatial_dims)
        radii = np.array(organ.radii)[:spatial_dims] * rng.uniform(0.8, 1.15, spatial_dims)
        coverage = body * _coverage(grid, centre, radii, 0.12, voxel, rng)
        texture = 0.03 * _smooth_field(grid, 0.4, rng)
        image += coverage * (levels[value - 1] + texture - image)
        label[coverage > 0.5] = value
    return _acquire(image, grid, rng).astype(np.float32), label


def _body_coordinates(spatial_dims: int, rng: np.random.Generator) -> tuple[Array, float]:
    """Voxel centres (n, *S) in units of the radii of a randomly placed body, and a voxel's size."""
    shape, spacing = np.array(_SHAPES[spatial_dims]), np.array(_SPACINGS[spatial_dims])
    extent = shape * spacing
    axes = [(np.arange(size) + 0.5) * mm for size, mm in zip(shape, spacing, strict=True)]
    mm = np.stack(np.meshgrid(*axes, indexing="ij"))
    offset = extent * (0.5 + rng.uniform(-0.05, 0.05, spatial_dims))
    radii = extent * rng.uniform(0.42, 0.49, spatial_dims)
    centred = mm - offset.reshape(-1, *[1] * spatial_dims)
    turned = np.einsum("ij,j...->i...", _rotation(spatial_dims, rng), centred)
    return turned / radii.reshape(-1, *[1] * spatial_dims), float((spacing / radii).mean())


def _rotation(spatial_dims: int, rng: np.random.Generator) -> Array:
    """A random rotation by up to 12 degrees in every coordinate plane."""
    matrix = np.eye(spatial_dims)
    for first in range(spatial_dims):
        for second in range(first + 1, spatial_dims):
            angle = np.deg2rad(rng.uniform(-12, 12))
            plane = np.eye(spatial_dims)
            plane[first, first] = plane[second, second] = np.cos(angle)
            plane[first, second], plane[second, first] = -np.sin(angle), np.sin(angle)
            matrix = matrix @ plane
    return matrix


def _coverage(
    grid: Array,
    centre: Array,
    radii: Array,
    roughness: float,
    voxel: float,
    rng: np.random.Generator,
) -> Array:
    """The share (*S) of every voxel that a randomly deformed ellipsoid covers."""
    column = (-1, *[1] * len(centre))
    radius = np.linalg.norm((grid - centre.reshape(column)) / radii.reshape(column), axis=0)
    surface = 1 + roughness * _smooth_field(grid, 0.8, rng)
    depth = (surface - radius) * radii.min()
    return np.asarray(np.clip(0.5 + depth / voxel, 0, 1))


def _smooth_field(grid: Array, wavelength: float, rng: np.random.Generator) -> Array:
    """A random field (*S) with mean 0 and variance 1, a sum of waves of at least this length."""
    num_waves = 8
    direction = rng.normal(size=(num_waves, len(grid)))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    frequency = rng.uniform(0.3, 1.0, (num_waves, 1)) * 2 * np.pi / wavelength
    phase = rng.uniform(0, 2 * np.pi, (num_waves, *[1] * (grid.ndim - 1)))
    waves = np.cos(np.tensordot(direction * frequency, grid, axes=1) + phase)
    return np.asarray(waves.sum(axis=0) * np.sqrt(2 / num_waves))


def _acquire(image: Array, grid: Array, rng: np.random.Generator) -> Array:
    """Add what a scanner adds: a smooth bias field, multiplicative speckle, additive noise."""
    bias = np.exp(0.12 * _smooth_field(grid, 3.0, rng))
    speckle = rng.gamma(1 / _SPECKLE**2, _SPECKLE**2, image.shape)
    return np.asarray(image * bias * speckle + rng.normal(0.0, _NOISE, image.shape))
