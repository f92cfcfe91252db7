"""DICOM-SEG: a label map as segments that refer to the series they were made from."""

from __future__ import annotations

import colorsys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from recycleseg.data.formats.dicom_file import read_dicom_file
from recycleseg.data.formats.dicom_slices import (
    SEGMENTATIONS,
    Slice,
    affine_of,
    find_slices,
    has_frames,
    is_dicom,
    position_of,
    sorted_slices,
    volume_of,
    with_left_out,
)
from recycleseg.data.formats.extra import needed
from recycleseg.data.formats.volume import Array, Names, Volume, swap_lps_ras
from recycleseg.files import FileError, written_whole
from recycleseg.limits import check_memory
from recycleseg.names import printable

_NAME = "recycleseg"
# Viewers show segments of the last series first; a number above those of scanners.
_SERIES_NUMBER = 900
_LONGEST_LABEL = 64


def write_dicom_seg(path: Path, array: Array, grid: Volume, names: Names | None) -> None:
    """Write a label map (x, y, z) of a series, with one segment for each name.

    Regions may overlap. Each segment has the general code "Tissue", because a name alone does not
    tell a better one.

    Raises:
        ValueError: the grid is not that of a series, or the array holds no labels.
    """
    highdicom = needed("highdicom", path)
    if not grid.path.is_dir() and not is_dicom(grid.path):
        raise ValueError(
            f"path: expected another ending for an image that is no DICOM series, got {path.name}"
        )
    if array.dtype.kind not in "bui":
        raise ValueError(f"array: expected labels for DICOM-SEG, got {array.dtype}")
    if names is None:
        names = {str(value): int(value) for value in np.unique(array) if value > 0} or {"1": 1}
    frames = array.transpose(2, 1, 0)
    masks = np.stack([np.isin(frames, value) for value in names.values()], axis=-1)
    slices = find_slices(grid.path)
    sources = [read_dicom_file(part.path, stop_before_pixels=True) for part in slices]
    if has_frames(sources[0]):  # in any order, so the masks tell where they lie
        assert grid.affine is not None
        masks = highdicom.Volume(
            masks,
            swap_lps_ras(grid.affine)[:, [2, 1, 0, 3]],
            coordinate_system="PATIENT",
            channels={"SegmentNumber": list(range(1, len(names) + 1))},
            frame_of_reference_uid=sources[0].FrameOfReferenceUID,
        )
    segmentation = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=masks,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=_descriptions(path, names),
        series_instance_uid=highdicom.UID(),
        series_number=_SERIES_NUMBER,
        series_description=f"Segmentation ({_NAME})",
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=_NAME,
        manufacturer_model_name=_NAME,
        software_versions=version(_NAME),
        device_serial_number="0",
        omit_empty_frames=False,  # so that the file tells the whole grid
    )
    segmentation.SpecificCharacterSet = "ISO_IR 192"  # UTF-8, for names in all letters
    with written_whole(path) as temporary:
        segmentation.save_as(temporary)


def _descriptions(path: Path, names: Names) -> list[Any]:
    """The description of each segment."""
    highdicom, pydicom = needed("highdicom", path), needed("pydicom", path)
    codes = pydicom.sr.codedict.codes
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=_NAME, version=version(_NAME), family=codes.DCM.ArtificialIntelligence
    )
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=_segment_label(name, number),
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            display_color=highdicom.color.CIELabColor.from_rgb(*_colour(number)),
        )
        for number, name in enumerate(names, 1)
    ]


def _segment_label(name: str, number: int) -> str:
    """The name as DICOM allows it: without backslash, which separates values, and not long."""
    label = printable(name).replace("\\", "/")
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 5]}~{number}"


def _colour(number: int) -> tuple[int, ...]:
    """Red, green and blue up to 255 of a segment; without colours, some viewers show one for all.

    Hues are a golden ratio apart, so that any number of them differ.
    """
    hue = (number - 1) * 0.618034 % 1
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75, 0.95))


def segment_file(path: Path) -> Path | None:
    """The DICOM-SEG that a path is, or that is the only DICOM file of a folder; else None."""
    files = [path] if path.is_file() else sorted(filter(is_dicom, path.iterdir()))
    if len(files) != 1 or not is_dicom(files[0]):
        return None
    header = read_dicom_file(files[0], specific_tags=["SOPClassUID"])
    return files[0] if header.get("SOPClassUID") in SEGMENTATIONS else None


def segment_names(path: Path) -> dict[int, str]:
    """Number -> name of each segment of a DICOM-SEG; empty for another file."""
    file = segment_file(path)
    if file is None:
        return {}
    header = read_dicom_file(file, stop_before_pixels=True)
    return {
        int(segment.SegmentNumber): str(segment.SegmentLabel)
        for segment in header.get("SegmentSequence") or ()
    }


def read_dicom_seg(path: Path) -> Volume:
    """A label map whose values are the numbers of the segments.

    Slices that the file leaves out between others, because they have no segment, are 0. Not by
    highdicom, which reads no volume of a gantry that was tilted.
    """
    pydicom = needed("pydicom", path)
    stored = read_dicom_file(path)
    if (kind := stored.get("SegmentationType")) not in ("BINARY", "LABELMAP"):
        raise FileError(f"{path}: expected a DICOM-SEG of type BINARY or LABELMAP, got {kind}")
    frames_declared = int(stored.get("NumberOfFrames", 1))
    # One byte for each pixel of a frame, and two in the label map, once as slices.
    check_memory(path, 5 * frames_declared * int(stored.Rows) * int(stored.Columns))
    masks = np.asarray(stored.pixel_array).reshape(-1, stored.Rows, stored.Columns)
    shared, frames = (
        stored.SharedFunctionalGroupsSequence[0],
        stored.PerFrameFunctionalGroupsSequence,
    )
    planes: dict[tuple[float, ...], Slice] = {}
    labels: dict[tuple[float, ...], Array] = {}
    for frame, mask in zip(frames, masks, strict=True):
        header = _plane_of(pydicom.Dataset(), stored, shared, frame)
        position = position_of(path, header)
        place = tuple(position)
        planes.setdefault(place, Slice(path, header, position))
        label = labels.setdefault(place, np.zeros(mask.shape, np.uint16))
        if kind == "LABELMAP":
            label[:] = mask
            continue
        if label[mask > 0].any():
            raise FileError(f"{path}: expected segments that do not overlap, got some that do")
        # All frames share it if there is one segment.
        group = frame if "SegmentIdentificationSequence" in frame else shared
        label[mask > 0] = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    slices = sorted_slices(path, with_left_out(list(planes.values())))
    empty = np.zeros(masks.shape[1:], np.uint16)
    array = np.stack([labels.get(tuple(part.position), empty) for part in slices])
    return volume_of(path, array, affine_of(slices))


def _plane_of(header: Any, stored: Any, shared: Any, frame: Any) -> Any:
    """Fill in the header that a slice at the place of a frame would have."""
    header.Rows, header.Columns = stored.Rows, stored.Columns
    for sequence, names in (
        ("PlanePositionSequence", ("ImagePositionPatient",)),
        ("PlaneOrientationSequence", ("ImageOrientationPatient",)),
        ("PixelMeasuresSequence", ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices")),
    ):
        group = (frame if sequence in frame else shared)[sequence][0]
        for name in names:
            if name in group:
                setattr(header, name, group[name].value)
    return header
