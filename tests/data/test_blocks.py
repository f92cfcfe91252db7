"""Arrays in blocks: any patch and the whole are those of the array, and damage is noticed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from recycleseg.data.blocks import Blocks, to_blocks
from recycleseg.files import FileError

SHAPES = [(1, 1), (128, 129), (300, 5), (1, 1, 1), (32, 33, 64), (70, 3, 40)]


def saved(path: Path, x: Tensor, dims: int) -> Blocks:
    np.save(path, to_blocks(x, dims).numpy())
    return Blocks(path, x.shape[x.ndim - dims :])


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("leading", [(), (2,)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_whole_and_any_patch(
    tmp_path: Path, shape: tuple[int, ...], leading: tuple[int, ...], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, 200, (*leading, *shape), generator=generator).to(dtype)
    blocks = saved(tmp_path / "x.npy", x, len(shape))
    assert (blocks.shape, blocks.dtype, blocks.ndim) == (x.shape, x.dtype, x.ndim)
    assert torch.equal(blocks.whole(), x)
    padded = torch.nn.functional.pad(x, [50, 50] * len(shape))
    for patch_size in itertools.product((1, 45), repeat=len(shape)):
        for seed in range(6):
            rng = np.random.default_rng(seed)
            low = [-p + 1 if n < p else 0 for n, p in zip(shape, patch_size, strict=True)]
            high = [max(n - p, 0) for n, p in zip(shape, patch_size, strict=True)]
            starts = rng.integers(low, high, endpoint=True).tolist()
            patch = torch.zeros((*leading, *patch_size), dtype=dtype)
            blocks.copy_patch(starts, patch)
            box = (slice(a + 50, a + 50 + p) for a, p in zip(starts, patch_size, strict=True))
            assert torch.equal(patch, padded[(..., *box)])


def test_blocks_waste_little() -> None:
    for shape in ((35, 51, 35), (512, 512, 97), (33, 33, 33), (216, 256, 9)):
        stored = to_blocks(torch.zeros(shape, dtype=torch.uint8), 3).numel()
        assert stored <= 1.12 * np.prod(shape)


def test_a_patch_reads_few_bytes(tmp_path: Path) -> None:
    blocks = saved(tmp_path / "x.npy", torch.zeros(1, 256, 256, 128), 3)

    def read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = read()
    blocks.copy_patch((100, 90, 40), torch.zeros(1, 64, 64, 64))
    # 27 blocks of 128 KiB for a patch of 1 MiB; besides, this process reads its own account.
    assert 27 * 2**17 <= read() - before < 27 * 2**17 + 2**16


@pytest.mark.parametrize("keep", [0, 5, 90, 128, 3000])
def test_a_file_that_was_cut(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.npy"
    blocks = saved(path, torch.ones(40, 40, 40), 3)
    path.write_bytes(path.read_bytes()[:keep])
    expected = f"{path}: expected the array that was written there, got "
    with pytest.raises(FileError) as error:
        blocks.copy_patch((30, 30, 30), torch.zeros(10, 10, 10))
    assert str(error.value).startswith(expected)
    with pytest.raises(FileError) as error:
        Blocks(path, (40, 40, 40)).whole()
    assert str(error.value).startswith(expected)


def test_an_array_of_another_shape(tmp_path: Path) -> None:
    saved(tmp_path / "x.npy", torch.ones(40, 40, 40), 3)
    with pytest.raises(FileError, match=r"x.npy: expected the array .* got shape \(2, 2, 2, 20"):
        Blocks(tmp_path / "x.npy", (40, 40, 65))
