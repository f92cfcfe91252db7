"""Class probabilities in files as nnU-Net keeps them, and their order of axes.

CASE.npz holds one array, `probabilities`, float32: (C, Z, Y, X) for NIfTI, the axes of the image
file's array (X, Y, Z) reversed, since nnU-Net reads NIfTI by SimpleITK; (C, 1, H, W) for PNG. C
counts the background where classes are exclusive, and the regions alone where they overlap.
nnU-Net version 1 called the array `softmax` and rounded it to float16; both are read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from recycleseg.files import FileError, written_whole

_KEYS = ("probabilities", "softmax")


def write_probabilities(path: Path | str, probs: Tensor | np.ndarray[Any, Any]) -> None:
    """Write probabilities (C, *S), on the CPU and in the axes of the image's array, in one rename.

    Args:
        path: ends in .npz.
        probs: (C, X, Y, Z), or (C, H, W) of a PNG; stored as float32.

    Raises:
        ValueError: another number of axes.
    """
    path = Path(path)
    array = np.asarray(probs)
    if array.ndim not in (3, 4):
        raise ValueError(f"probs: expected (C, X, Y, Z) or (C, H, W), got shape {array.shape}")
    stored = array.transpose(0, 3, 2, 1) if array.ndim == 4 else array[:, None]
    with (
        written_whole(path) as temporary,
        # np.savez_compressed takes several times as long for a few per cent less.
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(f"{_KEYS[0]}.npy", "w", force_zip64=True) as file,
    ):
        header = {"descr": "<f4", "fortran_order": False, "shape": stored.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for channel in stored:
            for plane in channel:
                file.write(np.ascontiguousarray(plane, "<f4").data)


def read_probabilities(path: Path | str, shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """Read probabilities (C, *S) float32 in the axes of an image array of this shape.

    Args:
        path: a file of `write_probabilities` or of nnU-Net.
        shape: (X, Y, Z), or (H, W) of a PNG.

    Raises:
        FileError: missing or damaged file, none of the arrays above, another shape, or values
            that are not within 0 and 1.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path}: expected a file, got none there")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            stored = _read_first(archive, [key for key in _KEYS if key in names])
    except Exception as error:  # zipfile, zlib and NumPy meet damaged bytes with any kind
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileError(f"{path}: expected a whole .npz file, got: {reason}") from error
    if stored is None:
        raise FileError(f"{path}: expected an array named {' or '.join(_KEYS)}, got {names}")
    grid = (1, *shape) if len(shape) == 2 else tuple(reversed(tuple(shape)))
    if stored.ndim != 4 or stored.shape[1:] != grid or stored.dtype.kind != "f":
        raise FileError(
            f"{path}: expected floating point numbers of shape (C, {', '.join(map(str, grid))}), "
            f"got {stored.dtype} of shape {stored.shape}"
        )
    stored = stored.astype(np.float32, copy=False)
    # Written so that NaN fails too; a resampled softmax passes 1 by a few roundings.
    if stored.size and not (stored.min() >= -1e-3 and stored.max() <= 1 + 1e-3):
        raise FileError(f"{path}: expected probabilities within 0 and 1, got other values")
    return np.asarray(stored[:, 0] if len(shape) == 2 else stored.transpose(0, 3, 2, 1))


def _read_first(archive: zipfile.ZipFile, keys: Sequence[str]) -> np.ndarray[Any, Any] | None:
    if not keys:
        return None
    with archive.open(f"{keys[0]}.npy") as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
