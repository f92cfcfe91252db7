"""PNG files with or without the size of their pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_png(path: Path, array: np.ndarray, dpi: float | None) -> None:
    """Write an image with this many dots per inch; None writes nothing of its pixel size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **({} if dpi is None else {"dpi": (dpi, dpi)}))


def set_dpi(path: Path, dpi: float | None) -> None:
    """Write the same pixels again; see `write_png`."""
    with Image.open(path) as image:
        array = np.array(image)
    write_png(path, array, dpi)
