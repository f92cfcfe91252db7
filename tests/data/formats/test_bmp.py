"""BMP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recycleseg.data.volumes import map_name, read_image, read_label, read_volume, write_volume
from recycleseg.files import FileError

LABEL = np.random.default_rng(0).integers(0, 3, (7, 9)).astype(np.uint8)


def test_kinds_of_label_maps(tmp_path: Path) -> None:
    palette = Image.frombytes("P", (9, 7), LABEL.tobytes())
    palette.putpalette([9, 9, 9, 255, 0, 0, 0, 255, 0])
    images = {
        "grey": Image.fromarray(LABEL),
        "colours": Image.fromarray(LABEL).convert("RGB"),
        "palette": palette,
    }
    for name, image in images.items():
        image.save(tmp_path / f"{name}.BMP")
        np.testing.assert_array_equal(read_label(tmp_path / f"{name}.BMP").array, LABEL)
    red, green, _ = read_image([tmp_path / "palette.BMP"], 3)
    np.testing.assert_array_equal(red.array, np.array([9, 255, 0])[LABEL])
    np.testing.assert_array_equal(green.array, np.array([9, 0, 255])[LABEL])


def test_pixel_size_and_limits(tmp_path: Path) -> None:
    path = tmp_path / "x.bmp"
    write_volume(path, LABEL, spacing=(0.5, 0.25))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, LABEL)
    assert volume.spacing == (0.5, 0.25)
    with pytest.raises(ValueError, match="expected uint8 for a BMP, got uint16"):
        write_volume(path, LABEL.astype(np.uint16), spacing=None)
    for keep in (0, 20, 60, path.stat().st_size - 10):
        (tmp_path / "y.bmp").write_bytes(path.read_bytes()[:keep])
        with pytest.raises(FileError, match="y.bmp: expected a whole .bmp file, got"):
            read_volume(tmp_path / "y.bmp")


def test_names_of_uncertainty_maps() -> None:
    assert [map_name(f"x.y{e}") for e in (".bmp", ".DCM", ".nii.gz")] == [
        "x.y.png",
        "x.y.nii.gz",
        "x.y.nii.gz",
    ]
