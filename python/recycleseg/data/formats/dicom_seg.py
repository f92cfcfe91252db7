"""DICOM-SEG: a label map as segments that refer to the series they were made from."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np

from recycleseg.data.formats.dicom import slices_of
from recycleseg.data.formats.extra import needed
from recycleseg.data.formats.volume import Array, Names, Volume
from recycleseg.files import written_whole

_NAME = "recycleseg"
# Viewers show segments of the last series first; a number above those of scanners.
_SERIES_NUMBER = 900


def write_dicom_seg(path: Path, array: Array, grid: Volume, names: Names | None) -> None:
    """Write a label map (x, y, z) of a series, with one segment for each name.

    Regions may overlap. Each segment has the general code "Tissue", because a name alone does not
    tell a better one.

    Raises:
        ValueError: the grid is not that of a series, or the array holds no labels.
    """
    highdicom, pydicom = needed("highdicom", path), needed("pydicom", path)
    if not grid.path.is_dir():
        raise ValueError(
            f"path: expected another ending for an image that is no DICOM series, got {path.name}"
        )
    if array.dtype.kind not in "bui":
        raise ValueError(f"array: expected labels for DICOM-SEG, got {array.dtype}")
    if names is None:
        names = {str(value): int(value) for value in np.unique(array) if value > 0} or {"1": 1}
    frames = array.transpose(2, 1, 0)
    masks = np.stack([np.isin(frames, value) for value in names.values()], axis=-1)
    sources = [pydicom.dcmread(file, stop_before_pixels=True) for file in slices_of(grid.path)]
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=_NAME,
        version=version(_NAME),
        family=pydicom.sr.codedict.codes.DCM.ArtificialIntelligence,
    )
    tissue = pydicom.sr.codedict.codes.SCT.Tissue
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name[:64],  # the longest that DICOM allows
            segmented_property_category=tissue,
            segmented_property_type=tissue,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(names, 1)
    ]
    segmentation = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=masks,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=highdicom.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=_NAME,
        manufacturer_model_name=_NAME,
        software_versions=version(_NAME),
        device_serial_number="0",
        omit_empty_frames=False,  # so that the file tells the whole grid
    )
    with written_whole(path) as temporary:
        segmentation.save_as(temporary)
