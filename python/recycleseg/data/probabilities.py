"""Class probabilities in files of nnU-Net's format.

CASE.npz holds one array, `probabilities`, float32. For NIfTI it is (C, Z, Y, X): the axes of the
image array (X, Y, Z) are reversed, because nnU-Net reads NIfTI with SimpleITK. For PNG it is
(C, 1, H, W). C includes the background if classes are exclusive; if regions overlap, C is the
number of regions. nnU-Net version 1 called the array `softmax` and rounded it to float16, and
NumPy calls an array without a name `arr_0`; this module reads all three.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from operator import le
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recycleseg.data.geometry import Orientation
from recycleseg.data.npz import read_npy
from recycleseg.files import FileError, written_whole

_KEYS = ("probabilities", "softmax", "arr_0")


def write_probabilities(path: Path | str, probs: Tensor | np.ndarray[Any, Any]) -> None:
    """Write probabilities, whole.

    Args:
        path: ends in .npz.
        probs: (C, X, Y, Z), or (C, H, W) of a PNG, in the axes of the image array and on the CPU;
            stored as float32.

    Raises:
        ValueError: probs has another number of axes.
    """
    path = Path(path)
    array = np.asarray(probs)
    if array.ndim not in (3, 4):
        raise ValueError(f"probs: expected (C, X, Y, Z) or (C, H, W), got shape {array.shape}")
    stored = array.transpose(0, 3, 2, 1) if array.ndim == 4 else array[:, None]
    with (
        written_whole(path) as temporary,
        # np.savez_compressed takes several times as long and saves only a few per cent more.
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(f"{_KEYS[0]}.npy", "w", force_zip64=True) as file,
    ):
        header = {"descr": "<f4", "fortran_order": False, "shape": stored.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for channel in stored:
            for plane in channel:
                file.write(np.ascontiguousarray(plane, "<f4").data)


def read_probabilities(
    path: Path | str,
    shape: Sequence[int],
    orientation: Orientation | None = None,
    *,
    most_channels: int | None = None,
) -> np.ndarray[Any, Any]:
    """Read probabilities in the axes of the image array.

    Args:
        path: a file of `write_probabilities` or of nnU-Net.
        shape: of the image array: (X, Y, Z), or (H, W) of a PNG.
        orientation: of the image, if the array in the file has canonical axes instead of the
            image's, as nnU-Net's NibabelIOWithReorient stores it: (C, Z, Y, X) of that image.
        most_channels: how many channels there may be; None bounds the memory that the file takes
            by its size instead (`check_memory`).

    Returns:
        (C, *shape) float32.

    Raises:
        FileError: the file is missing or damaged, has no array of probabilities or several, or
            this has another shape or values outside 0 and 1.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path}: expected a file, got a path that does not exist")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            keys = [key for key in _KEYS if key in names]
            most = None if most_channels is None else most_channels * math.prod(shape)
            stored = read_npy(archive, keys[0], path, most) if len(keys) == 1 else None
    except FileError:
        raise
    except Exception as error:  # damaged bytes cause many kinds in zipfile, zlib and NumPy
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileError(f"{path}: expected a whole .npz file, got: {reason}") from error
    if stored is None:
        raise FileError(
            f"{path}: expected one array of probabilities, named {' or '.join(_KEYS)}, got "
            f"{names[:20]}"
        )
    axes = range(len(shape)) if orientation is None else orientation.permutation
    grid = (1, *shape) if len(shape) == 2 else tuple(shape[axis] for axis in reversed(axes))
    _check(path, stored, grid)
    stored = stored.astype(np.float32, copy=False)
    if len(shape) == 2:
        return np.asarray(stored[:, 0])
    probs: np.ndarray[Any, Any] = stored.transpose(0, 3, 2, 1)
    return probs if orientation is None else orientation.undo(torch.from_numpy(probs)).numpy()


def _check(path: Path, stored: np.ndarray[Any, Any], grid: tuple[int, ...]) -> None:
    """Check type, shape (C, *grid) and values of an array."""
    if stored.ndim != 4 or stored.shape[1:] != grid or stored.dtype.kind != "f":
        cropped = (
            f". {path.stem}.pkl tells the place of the array if nnU-Net version 1 cropped the "
            "image; it is not read, because it may hold a program: save the probabilities of the "
            "whole image, or leave the .npz files out"
            if path.with_suffix(".pkl").is_file()
            and stored.ndim == 4
            and all(map(le, stored.shape[1:], grid))
            else ""
        )
        raise FileError(
            f"{path}: expected floating point numbers of shape (C, {', '.join(map(str, grid))}), "
            f"got {stored.dtype} of shape {stored.shape}{cropped}"
        )
    if not stored.size:
        return
    low, high = float(stored.min()), float(stored.max())
    # `not` makes NaN fail too. Rounding may take a resampled softmax a little above 1.
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise FileError(
            f"{path}: expected probabilities within 0 and 1, got values from {low:.3g} to "
            f"{high:.3g}; logits are no probabilities"
        )
