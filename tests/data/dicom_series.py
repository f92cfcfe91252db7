"""A DICOM series that the tests write, slice by slice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROW, COLUMN = (0.96, 0.28, 0.0), (-0.28, 0.96, 0.0)


def write_series(
    folder: Path,
    array: np.ndarray,
    *,
    origin: Sequence[float] = (-20.0, 30.0, 7.5),
    row: Sequence[float] = ROW,
    column: Sequence[float] = COLUMN,
    pixel: Sequence[float] = (0.75, 0.5),
    step: Sequence[float] = (0.0, 0.0, 3.0),
    places: Sequence[float] | None = None,
    slope: float = 1.0,
    intercept: float = 0.0,
    **fields: Any,
) -> None:
    """Write CT slices of an array (z, y, x) of int16 in mixed order of names.

    Args:
        folder: where.
        array: the stored values.
        origin: centre of the first voxel, mm (left, posterior, superior).
        row, column: directions along a row and along a column.
        pixel: distance between rows, and between columns, mm.
        step: from slice to slice, mm.
        places: number of steps of each slice from the origin; None means 0, 1, 2, ...
        slope, intercept: of the stored values.
        fields: other elements of each header.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    common = {
        **{name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID")},
        "FrameOfReferenceUID": generate_uid(),
        **{"PatientName": "Test^One", "PatientID": "1", "PatientBirthDate": "", "PatientSex": ""},
        **{"StudyDate": "20200101", "StudyTime": "000000", "StudyID": "1", "AccessionNumber": ""},
        **{"ReferringPhysicianName": "", "PositionReferenceIndicator": "", "Manufacturer": ""},
        **{"Modality": "CT", "SeriesDescription": "Chest", "SeriesNumber": 1, "SliceThickness": 3},
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ImageOrientationPatient": [*map(float, row), *map(float, column)],
        "PixelSpacing": list(pixel),
        **{"Rows": array.shape[1], "Columns": array.shape[2], "SamplesPerPixel": 1},
        **{"PhotometricInterpretation": "MONOCHROME2", "PixelRepresentation": 1},
        **{"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15},
        **{"RescaleSlope": slope, "RescaleIntercept": intercept},
        **fields,
    }
    for index, stored in enumerate(array):
        header = Dataset()
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, generate_uid()
        for name, value in common.items():
            setattr(header, name, value)
        place = index if places is None else places[index]
        position = np.array(origin) + place * np.array(step)
        header.ImagePositionPatient = [round(float(x), 6) for x in position]
        header.InstanceNumber = index + 1
        header.PixelData = stored.astype(np.int16).tobytes()
        # 7 has no common divisor with the numbers of slices that the tests use.
        header.save_as(folder / f"{index * 7 % len(array):03d}.dcm", enforce_file_format=True)
