"""Probabilities in nnU-Net's files: order of axes, damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recycleseg.data.probabilities import read_probabilities, write_probabilities
from recycleseg.files import FileError


@pytest.mark.parametrize("shape", [(3, 5, 6, 7), (2, 5, 6), (1, 4, 1, 3)])
def test_what_is_written_is_read_again(tmp_path: Path, shape: tuple[int, ...]) -> None:
    probs = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "case.npz"
    write_probabilities(path, probs)
    read = read_probabilities(path, shape[1:])
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, probs.numpy())  # nothing is rounded
    assert [file.name for file in tmp_path.iterdir()] == ["case.npz"]


def test_axes_are_those_of_nnunet(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).random((2, 4, 5, 6))  # float64; the file rounds to float32
    image = volume[..., 0]
    write_probabilities(tmp_path / "volume.npz", volume)
    write_probabilities(tmp_path / "image.npz", image)
    with np.load(tmp_path / "volume.npz") as stored:
        assert stored.files == ["probabilities"]
        assert stored["probabilities"].dtype == np.float32
        np.testing.assert_array_equal(
            stored["probabilities"], volume.astype(np.float32).transpose(0, 3, 2, 1)
        )
    with np.load(tmp_path / "image.npz") as stored:
        np.testing.assert_array_equal(stored["probabilities"][:, 0], image.astype(np.float32))


def test_version_1_of_nnunet(tmp_path: Path) -> None:
    softmax = np.random.default_rng(0).random((3, 6, 5, 4)).astype(np.float16)
    np.savez_compressed(tmp_path / "case.npz", softmax=softmax)
    read = read_probabilities(tmp_path / "case.npz", (4, 5, 6))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, softmax.transpose(0, 3, 2, 1).astype(np.float32))


def test_an_array_without_a_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "case.npz", GOOD)
    assert read_probabilities(tmp_path / "case.npz", (4, 5, 6)).shape == (2, 4, 5, 6)


def test_the_cropped_array_of_version_1_is_refused_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "case.npz", softmax=GOOD.astype(np.float16))
    with pytest.raises(FileError, match=r"case.npz: .* of shape \(2, 6, 5, 4\)$"):
        read_probabilities(tmp_path / "case.npz", (4, 5, 9))
    (tmp_path / "case.pkl").write_bytes(b"never read")
    with pytest.raises(FileError, match="case.pkl tells the place of the array if nnU-Net version"):
        read_probabilities(tmp_path / "case.npz", (4, 5, 9))


def test_channels_of_another_number_of_axes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"probs: expected .* got shape \(2, 3\)"):
        write_probabilities(tmp_path / "case.npz", np.zeros((2, 3)))
    assert not list(tmp_path.iterdir())


GOOD = np.full((2, 6, 5, 4), 0.5, np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"logits": GOOD}, r"expected one array .* softmax or arr_0, got \['logits'\]"),
        ({"softmax": GOOD, "probabilities": GOOD}, "expected one array of probabilities"),
        ({"probabilities": GOOD.swapaxes(1, 3)}, r"of shape \(C, 6, 5, 4\), got float32 of shape"),
        ({"probabilities": GOOD[0]}, r"got float32 of shape \(6, 5, 4\)"),
        ({"probabilities": GOOD.astype(np.uint8)}, "got uint8"),
        ({"probabilities": 4 * GOOD}, "got values from 2 to 2; logits are no probabilities"),
        ({"probabilities": np.nan * GOOD}, "expected probabilities within 0 and 1"),
        ({"probabilities": np.array([{}])}, "expected a whole .npz file"),
    ],
)
def test_wrong_arrays_are_named(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    path = tmp_path / "case.npz"
    np.savez(path, **arrays)
    with pytest.raises(FileError, match=message) as caught:
        read_probabilities(path, (4, 5, 6))
    assert str(caught.value).startswith(f"{path}: ")


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "case.npz"
    write_probabilities(path, GOOD)
    content = path.read_bytes()
    middle = len(content) // 2
    broken = [b"", content[:middle], b"text", content[:60] + b"\x00" * 20 + content[80:]]
    for damaged in broken:
        path.write_bytes(damaged)
        with pytest.raises(FileError, match="expected a whole .npz file, got"):
            read_probabilities(path, (5, 6, 2))
    with pytest.raises(FileError, match="missing.npz: expected a file, got a path that does not"):
        read_probabilities(tmp_path / "missing.npz", (5, 6, 2))
