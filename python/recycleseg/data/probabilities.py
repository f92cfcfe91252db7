"""Class probabilities in files of nnU-Net's format.

CASE.npz holds one array, `probabilities`, float32. For NIfTI it is (C, Z, Y, X): the axes of the
image array (X, Y, Z) are reversed, because nnU-Net reads NIfTI with SimpleITK. For PNG it is
(C, 1, H, W). C includes the background if classes are exclusive; if regions overlap, C is the
number of regions. nnU-Net version 1 called the array `softmax` and rounded it to float16; this
module reads both.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from recycleseg.data.npz import read_npy
from recycleseg.files import FileError, written_whole

_KEYS = ("probabilities", "softmax")


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
    path: Path | str, shape: Sequence[int], most_channels: int | None = None
) -> np.ndarray[Any, Any]:
    """Read probabilities in the axes of the image array.

    Args:
        path: a file of `write_probabilities` or of nnU-Net.
        shape: of the image array: (X, Y, Z), or (H, W) of a PNG.
        most_channels: how many channels there may be; None bounds the memory that the file takes
            by its size instead (`check_memory`).

    Returns:
        (C, *shape) float32.

    Raises:
        FileError: the file is missing or damaged, has no array of probabilities, or this has
            another shape or values outside 0 and 1.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path}: expected a file, got a path that does not exist")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            keys = [key for key in _KEYS if key in names]
            most = None if most_channels is None else most_channels * math.prod(shape)
            stored = read_npy(archive, keys[0], path, most) if keys else None
    except FileError:
        raise
    except Exception as error:  # damaged bytes cause many kinds in zipfile, zlib and NumPy
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileError(f"{path}: expected a whole .npz file, got: {reason}") from error
    if stored is None:
        raise FileError(f"{path}: expected an array named {' or '.join(_KEYS)}, got {names[:20]}")
    grid = (1, *shape) if len(shape) == 2 else tuple(reversed(tuple(shape)))
    if stored.ndim != 4 or stored.shape[1:] != grid or stored.dtype.kind != "f":
        raise FileError(
            f"{path}: expected floating point numbers of shape (C, {', '.join(map(str, grid))}), "
            f"got {stored.dtype} of shape {stored.shape}"
        )
    stored = stored.astype(np.float32, copy=False)
    # `not` makes NaN fail too. Rounding may take a resampled softmax a little above 1.
    if stored.size and not (stored.min() >= -1e-3 and stored.max() <= 1 + 1e-3):
        raise FileError(f"{path}: expected probabilities within 0 and 1, got other values")
    return np.asarray(stored[:, 0] if len(shape) == 2 else stored.transpose(0, 3, 2, 1))
