"""Windows, compared with arrays of ImgX, and properties that they must always have."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map
from tests.sampling.merged_windows import gaussian_weight, merge_windows

from recycleseg.sampling.windows import (
    WindowGrid,
    WindowMerger,
    extract_windows,
    num_windows,
    window_starts,
)

Reference = Callable[[str], dict[str, np.ndarray]]
ChannelsFirst = Callable[[np.ndarray], torch.Tensor]

SMALL = ["2d_noov", "2d_ov", "3d", "1patch"]
REAL = ["amos_ct", "brats2021_mr", "male_pelvic_mr", "muscle_us"]
SIZES = ["in/image_shape", "in/patch_shape", "in/patch_overlap"]
GEOMETRIES = [
    ((6, 11), (3, 5), (1, 3)),
    ((5, 5), (5, 5), (0, 0)),
    ((7, 4), (1, 1), (0, 0)),
    ((8, 10, 6), (4, 5, 6), (2, 1, 4)),
    ((9, 7, 5), (4, 6, 5), (3, 5, 0)),
]


def load(reference: Reference, case: str) -> dict[str, np.ndarray]:
    arrays = reference("h_patch_grid")
    return {
        key.removeprefix(f"{case}/"): value
        for key, value in arrays.items()
        if key.startswith(f"{case}/")
    }


def test_no_array_of_imgx_is_left_out(reference: Reference) -> None:
    outputs = ["batch_patch_grid_sample", "batch_patch_grid_mean_aggregate", "roundtrip"]
    expected = {f"{case}/{key}" for case in SMALL + REAL for key in [*SIZES, "start_indices"]}
    expected |= {f"{case}/{key}" for case in SMALL for key in [*outputs, "in/x", "in/x_patch"]}
    assert set(reference("h_patch_grid")) == expected


@pytest.mark.parametrize("case", SMALL + REAL)
def test_starts_equal_imgx(reference: Reference, case: str) -> None:
    arrays = load(reference, case)
    starts = window_starts(*(arrays[key].tolist() for key in SIZES))
    assert starts.dtype == torch.int64
    np.testing.assert_array_equal(starts.numpy(), arrays["start_indices"])


@pytest.mark.parametrize("case", SMALL)
def test_windows_equal_imgx(reference: Reference, channels_first: ChannelsFirst, case: str) -> None:
    arrays = load(reference, case)
    image_shape, patch_size, overlap = (arrays[key].tolist() for key in SIZES)
    starts = window_starts(image_shape, patch_size, overlap)

    x = channels_first(arrays["in/x"])
    windows = torch.stack([extract_windows(item, starts, patch_size) for item in x])
    expected = torch.from_numpy(np.moveaxis(arrays["batch_patch_grid_sample"], -1, 2))
    assert torch.equal(windows, expected)
    # A few roundings, because up to twelve float32 values are summed in another order.
    torch.testing.assert_close(
        merge_windows(windows, starts, image_shape),
        channels_first(arrays["roundtrip"]),
        rtol=1e-6,
        atol=1e-6,
    )

    n = len(image_shape)
    patches = torch.from_numpy(arrays["in/x_patch"]).flatten(-2).movedim(-1, 2)
    mean = torch.from_numpy(arrays["batch_patch_grid_mean_aggregate"]).flatten(-2).movedim(-1, 1)
    assert mean.ndim == n + 2
    torch.testing.assert_close(
        merge_windows(patches, starts, image_shape), mean, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(("image_shape", "patch_size", "overlap"), GEOMETRIES)
def test_windows_cover_every_voxel_once_each(
    image_shape: tuple[int, ...], patch_size: tuple[int, ...], overlap: tuple[int, ...]
) -> None:
    starts = window_starts(image_shape, patch_size, overlap)
    assert len(starts.unique(dim=0)) == len(starts)
    voxels = torch.arange(int(np.prod(image_shape))).view(1, *image_shape)
    windows = extract_windows(voxels, starts, patch_size)
    assert windows.shape == (len(starts), 1, *patch_size)
    assert torch.equal(windows.unique(), voxels.flatten())


@pytest.mark.parametrize("overlap", [0.0, 0.5])
@pytest.mark.parametrize(("image_shape", "patch_size", "_"), GEOMETRIES)
def test_merging_undoes_cutting(
    image_shape: tuple[int, ...], patch_size: tuple[int, ...], _: tuple[int, ...], overlap: float
) -> None:
    grid = WindowGrid(image_shape, patch_size, overlap)
    noise = torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0))
    for x in (noise, torch.full_like(noise, 0.7)):
        mean = torch.zeros_like(x)
        for windows in grid.batches(3):
            grid.add(mean, grid.cut(x, windows), windows)
        # Shares add up to 1 except for float32 rounding.
        torch.testing.assert_close(mean, x, rtol=1e-5, atol=1e-6)


def test_a_grid_weighs_by_a_gaussian() -> None:
    grid = WindowGrid((4,), (3,), 0.7)
    assert grid.starts.tolist() == [[0], [1]]
    mean = torch.zeros(1, 4)
    grid.add(mean, torch.tensor([[[1.0] * 3], [[4.0] * 3]]), slice(0, 2))
    rim = math.exp(-0.5 * (8 / 3) ** 2)  # the centre has 1
    expected = torch.tensor([[1.0, (1 + rim * 4) / (1 + rim), (rim + 4) / (1 + rim), 4.0]])
    torch.testing.assert_close(mean, expected)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("image_shape", "patch_size", "_"), GEOMETRIES)
def test_a_grid_merges_a_few_windows_at_a_time(
    image_shape: tuple[int, ...], patch_size: tuple[int, ...], _: tuple[int, ...], overlap: float
) -> None:
    grid = WindowGrid(image_shape, patch_size, overlap)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(len(grid), 2, 3, *patch_size, generator=generator)
    mean = torch.zeros(2, 3, *image_shape)
    for windows in grid.batches(2):
        grid.add(mean, values[windows], windows)
    weight = gaussian_weight(patch_size)
    expected = merge_windows(values.movedim(0, 1), grid.starts, image_shape, weight)
    # The grid divides weights before the sum, not after it; this rounds differently.
    torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-6)
    x = torch.randn(3, *image_shape, generator=generator)
    assert torch.equal(
        torch.cat([grid.cut(x, windows) for windows in grid.batches(3)]),
        extract_windows(x, grid.starts, patch_size),
    )


@pytest.mark.parametrize("batch", [1, 3, 100])
@pytest.mark.parametrize(("image_shape", "patch_size", "_"), GEOMETRIES)
def test_voxels_leave_when_no_further_window_reaches_them(
    image_shape: tuple[int, ...], patch_size: tuple[int, ...], _: tuple[int, ...], batch: int
) -> None:
    grid = WindowGrid(image_shape, patch_size, 0.5)
    generator = torch.Generator().manual_seed(0)
    batches = grid.batches(batch)
    merger = WindowMerger(grid, 3)
    # The window that reaches a voxel as the last one.
    last = torch.zeros(image_shape, dtype=torch.int64)
    for number, start in enumerate(grid.starts.tolist()):
        box = tuple(slice(n, n + p) for n, p in zip(start, patch_size, strict=True))
        last[box] = number
    for _ in range(2):  # a merger can be used again
        values = torch.randn(len(grid), 3, *patch_size, generator=generator)
        expected = torch.zeros(3, *image_shape)
        grid.add(expected, values, slice(0, len(grid)))
        seen = torch.zeros_like(last)
        for windows in batches:
            for box, mean in merger.add(values[windows], windows):
                assert torch.equal(mean, expected[box])
                assert last[box[1:]].max() < windows.stop
                seen[box[1:]] += 1
        assert seen.eq(1).all()


def test_a_single_window_is_its_own_mean() -> None:
    grid = WindowGrid((4, 5, 6), (4, 5, 6), 0.5)
    values = torch.randn(1, 2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    mean = torch.zeros(2, 4, 5, 6)
    grid.add(mean, values, slice(0, 8))
    assert torch.equal(mean, values[0])


@pytest.mark.parametrize("patch_size", [(1, 4), (5, 8), (12, 7, 9), (40, 56, 40)])
def test_process_weight_is_monais(patch_size: tuple[int, ...]) -> None:
    weight = gaussian_weight(patch_size)
    assert weight.shape == patch_size and weight.dtype == torch.float32
    assert weight.max() == 1 and weight.min() > 0
    assert torch.equal(weight, weight.flip(tuple(range(len(patch_size)))))
    theirs = compute_importance_map(patch_size, mode="gaussian", sigma_scale=0.125)
    # MONAI raises the rim to 1e-3, and its maximum is below 1 if sizes are even.
    theirs = theirs / theirs.max()
    inner = theirs > 2e-3
    torch.testing.assert_close(weight[inner], theirs[inner], rtol=2e-5, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((4, 4), (5, 4), (0, 0)), r"patch_size\[0\]: expected 1 to 4 \(the image\), got 5"),
        (((4, 4), (4, 0), (0, 0)), r"patch_size\[1\]: expected 1 to 4 \(the image\), got 0"),
        (((4, 4), (2, 3), (0, 3)), r"overlap\[1\]: expected 0 to 2, got 3"),
        (((4, 4), (2, 3), (-1, 0)), r"overlap\[0\]: expected 0 to 1, got -1"),
        (((4, 4), (2,), (0,)), "expected one number per axis"),
    ],
)
def test_window_starts_refuses(
    arguments: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        window_starts(*arguments)


def test_cutting_refuses() -> None:
    x = torch.zeros(1, 4, 4)
    with pytest.raises(ValueError, match=r"starts: expected windows of \(2, 2\) within \(4, 4\)"):
        extract_windows(x, torch.tensor([[3, 0]]), (2, 2))
    with pytest.raises(ValueError, match=r"got one at \(0, -1\)"):
        extract_windows(x, torch.tensor([[0, -1]]), (2, 2))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.99])
@pytest.mark.parametrize("image_shape", [(7, 20), (5, 3), (1, 64), (40, 41)])
def test_number_of_windows_is_that_of_the_grid(
    image_shape: tuple[int, int], overlap: float
) -> None:
    patch_size = (5, 8)
    padded = [max(size, patch) for size, patch in zip(image_shape, patch_size, strict=True)]
    expected = len(WindowGrid(padded, patch_size, overlap))
    assert num_windows(image_shape, patch_size, overlap) == expected
