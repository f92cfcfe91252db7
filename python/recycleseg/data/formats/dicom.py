"""DICOM: a folder with one series is a volume; a file may hold one too, or a segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recycleseg.data.formats.dicom_file import DicomFile, read_dicom_file
from recycleseg.data.formats.dicom_seg import read_dicom_seg, segment_file
from recycleseg.data.formats.dicom_slices import (
    affine_of,
    check_slices,
    find_slices,
    has_frames,
    volume_of,
)
from recycleseg.data.formats.extra import needed
from recycleseg.data.formats.itk_process import open_itk
from recycleseg.data.formats.volume import Array, Content, Volume
from recycleseg.files import FileError


def read_dicom(path: Path, content: Content) -> list[Volume]:
    """The volume (x, y, z) of a series, of a file with several frames, or of a segmentation.

    x runs along a row, y along a column and z along the normal of both. Values are rescaled by
    slope and intercept. The numbers of rows, columns and frames in the headers are checked before
    memory is taken.
    """
    highdicom = needed("highdicom", path)  # writes the result: better to miss it before the work
    if content in ("label", "stored") and (segmentation := segment_file(path)) is not None:
        return [read_dicom_seg(segmentation)]
    slices = find_slices(path)
    check_slices(path, slices)
    if has_frames(slices[0].header):
        with DicomFile(slices[0].path) as file:
            return [_of_frames(path, highdicom.imread(file).get_volume(dtype=np.float32))]
    array = np.stack([_pixels(part.path) for part in slices])
    return [volume_of(path, array, affine_of(slices))]


def _pixels(path: Path) -> Array:
    """Rescaled values (rows, columns) of a file with one frame."""
    pydicom = needed("pydicom", path)
    image = read_dicom_file(path)
    syntax = image.file_meta.TransferSyntaxUID
    try:
        if syntax.is_compressed and not pydicom.pixels.get_decoder(syntax).is_available:
            return _decoded_by_itk(path)
        stored = image.pixel_array
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise FileError(f"{path}: expected a whole DICOM file, got: {reason}") from error
    if "ModalityLUTSequence" in image:
        return np.asarray(pydicom.pixels.apply_modality_lut(stored, image))
    slope, intercept = (
        float(default if image.get(name) is None else image[name].value)
        for name, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    if slope.is_integer() and intercept.is_integer():
        return np.asarray(stored.astype(np.int32) * int(slope) + int(intercept))
    return np.asarray(stored * slope + intercept, dtype=np.float32)


def _decoded_by_itk(path: Path) -> Array:
    """As `_pixels`; pydicom needs further libraries for some compressions, ITK brings its own."""
    needed("SimpleITK", path)
    with open_itk(path, "GDCMImageIO") as file:
        array = file.voxels()
    return np.reshape(array, array.shape[-2:])


def _of_frames(path: Path, volume: Any) -> Volume:
    """A volume of highdicom, whose axes are slices, rows and columns."""
    array, affine = volume.array, np.array(volume.affine)[:, [2, 1, 0, 3]]
    if np.linalg.det(affine[:3, :3]) < 0:  # slices against the normal of their plane
        affine[:3, 3] += affine[:3, 2] * (len(array) - 1)
        affine[:3, 2] *= -1
        array = array[::-1]
    return volume_of(path, array, affine)
