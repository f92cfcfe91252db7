"""The counts that come with the surface distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.ops.surface_cases import needs_cpp
from torch import Tensor

from recycleseg.metrics.measure import Measured, Structures, measure

STRUCTURES: list[Structures] = [
    [(1,), (2,), (3,), (4,)],
    [(4, 3), (1, 2, 3), (2,), (1, 4)],  # unions that overlap
    [(0,), (0, 1, 2, 3, 4)],  # background as a structure
    [(1, 2, 3, 4, 300)],  # a label that is beyond a byte, and in no map
]
SHAPES = [(2, 9, 11, 70), (1, 100, 130), (3, 1, 1, 1), (1, 24, 64, 64)]


def check(pred: Tensor, ref: Tensor, structures: Structures | None, backend: str = "cpp") -> None:
    """Compares counts and sums with those of masks in NumPy."""
    axes = pred.ndim - (2 if structures is None else 1)
    ours = measured(pred, ref, structures, axes, backend)
    sides = [maps.numpy() for maps in (pred, ref)]
    if structures is not None:
        sides = [np.stack([np.isin(maps, s) for s in structures], axis=1) for maps in sides]
    counts = [sides[0] & sides[1], *sides]
    voxels = tuple(range(2, 2 + axes))
    np.testing.assert_array_equal(ours.counts, np.stack([c.sum(voxels) for c in counts], -1))
    indices = np.indices(pred.shape[-axes:])
    sums = [np.stack([(side * i).sum(voxels) for i in indices], -1) for side in sides]
    np.testing.assert_array_equal(ours.coordinate_sums, np.stack(sums, axis=2))


def measured(
    pred: Tensor, ref: Tensor, structures: Structures | None, axes: int, backend: str = "cpp"
) -> Measured:
    return measure(
        pred,
        ref,
        structures,
        spacing=(0.5, 2.0, 1.0)[:axes],
        tolerances=(1.0,),
        percentile=95.0,
        definitions=("voxel",) if backend == "cpp" else (),
        border_is_outside=True,
        backend=backend,
    )


def blocks(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Labels 0 to 4, in blocks whose runs end within rows, at their ends and beyond them."""
    return torch.stack([sample(shape[1:], dtype, seed + 100 * b) for b in range(shape[0])])


def sample(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(shape, dtype=dtype)
    for label in (1, 2, 3, 4, 0, 2):
        low = [int(torch.randint(n, (), generator=generator)) for n in shape]
        high = [
            i + 1 + int(torch.randint(n, (), generator=generator))
            for i, n in zip(low, shape, strict=True)
        ]
        labels[tuple(map(slice, low, high))] = label
    return labels


@needs_cpp
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("structures", STRUCTURES)
@pytest.mark.parametrize("dtypes", [(torch.uint8, torch.uint8), (torch.int16, torch.int64)])
def test_label_maps(
    shape: tuple[int, ...], structures: Structures, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    check(blocks(shape, dtypes[0], 1), blocks(shape, dtypes[1], 2), structures)


@needs_cpp
@pytest.mark.parametrize("shape", SHAPES)
def test_masks(shape: tuple[int, ...]) -> None:
    pred, ref = (
        torch.stack([blocks(shape, torch.uint8, seed + c) == 2 for c in range(3)], dim=1)
        for seed in (0, 3)
    )
    check(pred, ref, None)


def test_the_references_count_the_same() -> None:
    pred, ref = (blocks((2, 9, 11, 12), torch.uint8, seed) for seed in (1, 2))
    for structures in STRUCTURES:
        check(pred, ref, structures, "reference")
    masks = (torch.stack([maps == 1, maps > 1], dim=1) for maps in (pred, ref))
    check(*masks, None, "reference")


@needs_cpp
@pytest.mark.parametrize("threads", [1, 4])
def test_a_batch_on_threads(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(*(blocks((7, 40, 96, 96), torch.uint8, seed) for seed in (5, 6)), STRUCTURES[1])
    finally:
        torch.set_num_threads(before)


@needs_cpp
@pytest.mark.parametrize(("side", "name"), [(0, "pred"), (1, "ref")])
def test_a_label_of_no_structure_is_named(side: int, name: str) -> None:
    maps = [blocks((1, 20, 30), torch.uint8, seed) for seed in (7, 8)]
    maps[side][0, 3, 4:7] = 9
    with pytest.raises(ValueError, match=rf"^{name}: .* 1, 2, 3, 4, got 9 \(3 voxels\)"):
        measured(*maps, STRUCTURES[0], 2)
