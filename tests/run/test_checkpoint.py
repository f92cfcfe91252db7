"""Checkpoints: what is saved comes back, and what has changed since is found."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recycleseg.files import FileError
from recycleseg.run.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

STATE = {"step": 3, "best_dice": 0.5, "average_updates": 2}


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 2, 2, generator=generator)
    return {
        "network/a.weight": weight.transpose(0, 2),
        "average/a.weight": weight.to(torch.bfloat16),
        "optimizer/a.weight/step": torch.tensor(3.0),
        "timesteps/loss_sq": torch.tensor([1.0, math.inf, math.nan]),
        "timesteps/loss_count": torch.tensor([1, 2, 3]),
        "network/empty": torch.ones(0),
    }


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    """Also NaN in the statistics of the time steps, where imgx_compat wants it."""
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, Checkpoint(tensors(), STATE))
    loaded = load_checkpoint(path)
    assert loaded.state == STATE and loaded.source == str(path)
    assert loaded.tensors.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert loaded.tensors[name].dtype == tensor.dtype
        torch.testing.assert_close(loaded.tensors[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """Of the whole file: the format's own header, state, checksums and tensors."""
    path = tmp_path / "a.safetensors"
    few = {"network/a": torch.tensor([1.0, -2.0]), "average/a": torch.tensor([0.5, 0.0])}
    save_checkpoint(path, Checkpoint(few, {"step": 1}))
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(FileError, match=f"^{re.escape(str(path))}: expected"):
            load_checkpoint(path)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("owner", ["network", "average", "optimizer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_numbers_that_are_not_finite_are_not_saved(
    tmp_path: Path, value: float, owner: str, dtype: torch.dtype
) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, Checkpoint({"network/a": torch.ones(2)}, STATE))
    before = path.read_bytes()
    bad = {"network/b": torch.ones(3), f"{owner}/a": torch.tensor([1.0, value, 2.0], dtype=dtype)}
    with pytest.raises(FileError, match=f"numbers, .* to save, got {value} in {owner}/a$"):
        save_checkpoint(path, Checkpoint(bad, STATE))
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]


def test_the_largest_float64_is_finite(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    large = torch.tensor([sys.float_info.max], dtype=torch.float64)
    save_checkpoint(path, Checkpoint({"optimizer/a": large}, STATE))
    assert torch.equal(load_checkpoint(path).tensors["optimizer/a"], large)


def test_a_huge_weight_is_no_weight(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(FileError, match=r"weights up to 1e\+06 to save, got -1e\+30 in network/a$"):
        save_checkpoint(path, Checkpoint({"network/a": torch.tensor([0.5, -1e30])}, STATE))
    assert not path.exists()
