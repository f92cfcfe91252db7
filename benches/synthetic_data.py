"""Write made-up data sets that are hard in the ways real ones are, in the nnU-Net raw layout.

python benches/synthetic_data.py heart DIR
python benches/synthetic_data.py ultrasound DIR

heart: short-axis cardiac MR of 24 patients at two phases, thick slices, three nested structures
(cavity, muscle, sac), breathing between slices, motion, bias field, Rician noise, organs of the
same brightness around. ultrasound: 80 images of many sizes and pixel sizes, one bright-rimmed
structure in a sector, speckle, shadows. Patients of the parts train, val and test are different.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from recycleseg.data.volumes import write_volume

Array = np.ndarray[Any, Any]
_HEART_SHAPE = (216, 256, 9)
_HEART_SPACING = (1.48, 1.48, 10.0)
_HEART_CLASSES = {"background": 0, "cavity": 1, "muscle": 2, "sac": 3}


def heart_patient(rng: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    """Image (216, 256, 9) float32 and label uint8 at end-diastole, then at end-systole."""
    x, y, z = np.meshgrid(
        *((np.arange(n) - n / 2) * mm for n, mm in zip(_HEART_SHAPE, _HEART_SPACING, strict=True)),
        indexing="ij",
        sparse=True,
    )
    body = _body(x, y, rng)
    centre = rng.normal(0, 12, 2)
    cavity, wall, sac = rng.uniform(20, 28), rng.uniform(7, 12), rng.uniform(9, 18)
    lobes = rng.normal(0, 0.06, (3, 4)), rng.uniform(0, 2 * np.pi, (3, 4))
    drift = rng.normal(0, 2.0, (2, 1, 1, _HEART_SHAPE[2]))  # breathing between the slices
    tilt = rng.normal(0, 0.12, 2)
    levels = rng.normal([165, 85, 120], 10)
    for contraction, thickening in ((1.0, 1.0), (rng.uniform(0.55, 0.8), rng.uniform(1.2, 1.6))):
        u = x - centre[0] - tilt[0] * z - drift[0]
        v = y - centre[1] - tilt[1] * z - drift[1]
        angle, radius = np.arctan2(v, u), np.hypot(u, 1.1 * v)
        # The heart narrows to its apex at one end of the stack and ends before the other.
        narrowing = np.sqrt(np.clip(1 - ((z + 12) / 58) ** 2, 0, 1))
        radii = np.cumsum([cavity * contraction, wall * thickening, sac])
        label = np.zeros(_HEART_SHAPE, np.uint8)
        image = np.broadcast_to(body, _HEART_SHAPE).copy()
        for value in (3, 2, 1):
            amplitude, phase = (part[value - 1] for part in lobes)
            waves = sum(
                a * np.cos((k + 2) * angle + p)
                for k, (a, p) in enumerate(zip(amplitude, phase, strict=True))
            )
            inside = radius < radii[value - 1] * narrowing * (1 + waves)
            label[inside] = value
            image[inside] = levels[value - 1]
        papillary = np.hypot(u - 0.45 * radii[0], v) < 4 * narrowing
        image[papillary & (label == 1)] = levels[1]
        yield _acquire(image, rng), label


def _body(x: Array, y: Array, rng: np.random.Generator) -> Array:
    """A slice through a chest (216, 256, 1): lungs, liver, vessels as bright as the cavity."""
    image = np.where(np.hypot(x / 150, y / 175) < 1, 70.0, 8.0)
    for _ in range(14):
        place, size = rng.uniform([-120, -140], [120, 140]), rng.uniform(8, 45, 2)
        turned = rng.uniform(0, np.pi)
        u = (x - place[0]) * np.cos(turned) + (y - place[1]) * np.sin(turned)
        v = (y - place[1]) * np.cos(turned) - (x - place[0]) * np.sin(turned)
        image = np.where(np.hypot(u / size[0], v / size[1]) < 1, rng.uniform(20, 180), image)
    return image


def _acquire(image: Array, rng: np.random.Generator) -> Array:
    """What a scanner adds: motion along one axis, a bias field, Rician noise."""
    moved = sum(np.roll(image, shift, axis=0) for shift in (-1, 0, 1)) / 3
    image = ndimage.gaussian_filter(moved, (0.7, 0.7, 0))
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in image.shape), indexing="ij", sparse=True)
    bias = sum(rng.normal(0, 0.25) * axis for axis in grid) + rng.normal(0, 0.2) * grid[0] * grid[1]
    image = image * np.exp(bias) * rng.uniform(0.7, 1.4)
    noise = rng.normal(0, 11, (2, *image.shape))
    return np.hypot(image + noise[0], noise[1]).astype(np.float32)


def ultrasound_image(rng: np.random.Generator) -> tuple[Array, Array, tuple[float, float]]:
    """Image uint8 and label uint8 of one size, and its pixel size in mm."""
    shape = (int(rng.integers(220, 520)), int(rng.integers(300, 640)))
    mm = float(rng.uniform(0.12, 0.35))
    rows, columns = np.indices(shape).astype(np.float64)
    depth, across = rows / shape[0], columns / shape[1] - 0.5
    sector = np.abs(across) < 0.12 + 0.42 * depth
    radii = rng.uniform(0.16, 0.3) * min(shape) * np.array([1.0, rng.uniform(1.1, 1.5)])
    centre = np.array(shape) * rng.uniform([0.45, 0.4], [0.62, 0.6])
    turned = rng.uniform(-0.6, 0.6)
    u, v = rows - centre[0], columns - centre[1]
    p, q = u * np.cos(turned) + v * np.sin(turned), v * np.cos(turned) - u * np.sin(turned)
    angle = np.arctan2(p, q)
    bumps = 1 + sum(rng.normal(0, 0.03) * np.cos(k * angle + rng.uniform(0, 6)) for k in (2, 3, 5))
    distance = np.hypot(p / radii[0], q / radii[1]) / bumps
    label = (distance < 1).astype(np.uint8)
    tissue = 0.35 + 0.25 * ndimage.gaussian_filter(rng.normal(size=shape), 18) * 18
    inner = 0.12 + 0.1 * ndimage.gaussian_filter(rng.normal(size=shape), 8) * 8
    image = np.where(label > 0, inner, tissue)
    # The rim is bright where the beam meets it at a right angle, and lost at the sides.
    image += 0.6 * np.exp(-(((distance - 1) * 14) ** 2)) * np.abs(np.sin(angle + turned)) ** 1.5
    for _ in range(rng.integers(0, 3)):
        image *= 1 - 0.7 * np.exp(-(((across - rng.uniform(-0.3, 0.3)) * 25) ** 2)) * (depth > 0.3)
    speckle = ndimage.gaussian_filter(rng.rayleigh(1.0, shape), (0.8, 1.4)) / 1.25
    image = np.clip(image, 0, None) * speckle * np.exp(-1.2 * depth) * sector
    image = 255 * np.clip(image / np.quantile(image, 0.998), 0, 1) ** 0.6
    return image.astype(np.uint8), label * sector.astype(np.uint8), (mm, mm)


def write_heart(root: Path, seed: int = 0) -> None:
    """24 patients with two frames each: 14 to train, 2 to validate, 8 to test."""
    ids = []
    for patient in range(1, 25):
        frames = heart_patient(np.random.default_rng((seed, patient)))
        for frame, (image, label) in zip(("ED", "ES"), frames, strict=True):
            case_id = f"patient{patient:03d}_{frame}"
            _write_case(root, case_id, ".nii.gz", image, label, _HEART_SPACING)
            ids.append(case_id)
    _describe(root, "Heart", {"0": "MRI"}, _HEART_CLASSES, ".nii.gz", ids, (28, 4))


def write_ultrasound(root: Path, seed: int = 0) -> None:
    """80 images: 50 to train, 8 to validate, 22 to test."""
    ids = []
    for number in range(1, 81):
        image, label, spacing = ultrasound_image(np.random.default_rng((seed, number)))
        ids.append(f"image{number:03d}x")
        _write_case(root, ids[-1], ".png", image, label, spacing)
    classes = {"background": 0, "structure": 1}
    _describe(root, "Ultrasound", {"0": "US"}, classes, ".png", ids, (50, 8))


def _write_case(
    root: Path, case_id: str, ending: str, image: Array, label: Array, spacing: tuple[float, ...]
) -> None:
    for folder, name, array in (
        ("imagesTr", f"{case_id}_0000", image),
        ("labelsTr", case_id, label),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        write_volume(root / folder / f"{name}{ending}", array, spacing=spacing)


def _describe(
    root: Path,
    name: str,
    channels: dict[str, str],
    labels: dict[str, int],
    ending: str,
    ids: list[str],
    parts: tuple[int, int],
) -> None:
    """dataset.json and split.json; `parts` are the numbers of cases to train and to validate."""
    train, val = parts
    description = {
        "name": name,
        "channel_names": channels,
        "labels": labels,
        "numTraining": len(ids),
        "file_ending": ending,
    }
    split = {"train": ids[:train], "val": ids[train : train + val], "test": ids[train + val :]}
    (root / "dataset.json").write_text(json.dumps(description, indent=2))
    (root / "split.json").write_text(json.dumps(split, indent=2))


WRITERS: dict[str, Callable[[Path], None]] = {"heart": write_heart, "ultrasound": write_ultrasound}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=WRITERS)
    parser.add_argument("dir", type=Path)
    arguments = parser.parse_args()
    WRITERS[arguments.kind](arguments.dir)
