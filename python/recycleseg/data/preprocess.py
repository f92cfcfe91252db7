"""From image files to network input and back: orientation, resampling, normalisation."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from recycleseg.classes import Classes
from recycleseg.data.check import image_findings
from recycleseg.data.facts import CaseFacts
from recycleseg.data.geometry import Kernel, Orientation, resample, resample_label
from recycleseg.data.intensity import ChannelIntensity, Normalisation, channel_intensity
from recycleseg.data.layout import Dataset
from recycleseg.data.sizes import unknown_size
from recycleseg.data.upright import UprightGrid, is_upright
from recycleseg.data.volumes import PixelSize, Volume, read_label, sized
from recycleseg.files import FileError
from recycleseg.units import Unit, steps


@dataclass(frozen=True)
class PreprocessConfig:
    """How images become network input.

    Attributes:
        spacing: voxel size in mm per axis (right, anterior, superior; rows, columns in 2D); median
            takes that of the training cases; native does not resample.
        shape: resize every image to this shape, whatever its voxel size (for ultrasound, where the
            depth setting of the probe decides the pixel size).
        pixel_size: which pixel sizes of image files count; auto takes what the file says, but 72
            and 96 dots per inch, which are a screen's, count as unknown; file takes every size;
            ignore takes none. If no image has a known size, the model works in pixels.
        intensity: ct clips to the percentiles 0.5 and 99.5 of the training cases' foreground and
            normalises with its mean and standard deviation; percentile clips each image to its own
            percentiles and normalises it to mean 0 and variance 1, over the voxels that are not
            zero (zero means not scanned); zscore does the same without clipping; none changes
            nothing; auto looks at the channel's name in dataset.json, CT means ct, noNorm none,
            others percentile. One for all channels, or one per channel.
    """

    spacing: tuple[float, ...] | Literal["median", "native"] = "median"
    shape: tuple[int, ...] | None = None
    pixel_size: PixelSize = "auto"
    intensity: Normalisation | tuple[Normalisation, ...] = "auto"

    def __post_init__(self) -> None:
        named = isinstance(self.spacing, str)
        if named and self.spacing not in ("median", "native"):
            raise ValueError(f"spacing: expected median, native or mm, got {self.spacing!r}")
        if not named and not all(0 < float(size) < math.inf for size in self.spacing):
            raise ValueError(f"spacing: expected positive mm, got {self.spacing}")
        if self.shape is not None and not all(0 < size < 2**31 for size in self.shape):
            raise ValueError(f"shape: expected positive sizes, got {reprlib.repr(self.shape)}")
        if self.pixel_size not in get_args(PixelSize):
            raise ValueError(
                f"pixel_size: expected {', '.join(get_args(PixelSize))}, got {self.pixel_size!r}"
            )
        asked = self.intensity if isinstance(self.intensity, tuple) else (self.intensity,)
        if not set(asked) <= set(get_args(Normalisation)):
            raise ValueError(
                f"intensity: expected {', '.join(get_args(Normalisation))}, got {self.intensity!r}"
            )


@dataclass(frozen=True)
class Plan:
    """Everything that preprocessing of a new image needs, fixed by the training cases.

    Attributes:
        channel_names: in channel order.
        classes: of the labels.
        spatial_dims: 2 or 3.
        spacing: target voxel size in mm per canonical axis; None does not resample by spacing,
            which is the only choice for a model of pixels.
        shape: target shape; None if it follows from the spacing.
        intensities: one per channel.
        pixel_size: which voxel sizes of new images count; see `sized`. "ignore" if the training
            images have no known size: then the model works in pixels.
        kernel: resamples images; plans of older runs lack this field and mean "linear".
        upright: whether a file with oblique axes gets a grid along the world's axes. This holds if
            no training case is oblique, because the network has then seen upright images only.
    """

    channel_names: tuple[str, ...]
    classes: Classes
    spatial_dims: int
    spacing: tuple[float, ...] | None
    shape: tuple[int, ...] | None
    intensities: tuple[ChannelIntensity, ...]
    pixel_size: PixelSize = "auto"
    kernel: Kernel = "cubic"
    upright: bool = False

    @property
    def unit(self) -> Unit:
        """The unit of the voxel sizes of prepared images."""
        return "pixels" if self.pixel_size == "ignore" else "mm"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **{name: value for name, value in asdict(self).items() if name != "classes"},
            "class_names": self.classes.names,
            "regions": self.classes.regions,
            "regions_class_order": self.classes.regions_class_order,
            "ignore_label": self.classes.ignore_label,
            "label_values": tuple(self.classes.values),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Inverse of `to_dict`, also for values from JSON.

        Plans of older runs lack `pixel_size`. They took 1 mm where the file of a 2D image gave no
        size, and believed every size that a file gave.

        Raises:
            KeyError: a value is missing.
            TypeError, ValueError: a value is none that a plan can have.
        """
        regions, order = values["regions"], values.get("regions_class_order")
        spacing = None if values["spacing"] is None else tuple(values["spacing"])
        pixel_size = values.get("pixel_size", "ignore" if spacing == (1.0, 1.0) else "file")
        plan = cls(
            channel_names=tuple(values["channel_names"]),
            classes=Classes(
                tuple(values["class_names"]),
                None if regions is None else tuple(map(tuple, regions)),
                None if order is None else tuple(order),
                values.get("ignore_label"),
            ),
            spatial_dims=values["spatial_dims"],
            spacing=None if pixel_size == "ignore" else spacing,
            shape=None if values["shape"] is None else tuple(values["shape"]),
            intensities=tuple(ChannelIntensity(**channel) for channel in values["intensities"]),
            pixel_size=pixel_size,
            kernel=values.get("kernel", "linear"),
            upright=values.get("upright", False),
        )
        _check_values(plan)
        return plan


def _check_values(plan: Plan) -> None:
    """Raise ValueError if a value, as JSON gives it, is none that a plan can have."""
    dims, classes, regions = plan.spatial_dims, plan.classes, plan.classes.regions

    def all_are(kind: type, values: Any, number: int | None = None) -> bool:
        counted = number is None or len(values) == number
        return counted and len(values) > 0 and all(type(value) is kind for value in values)

    def finite(*values: Any) -> bool:
        # Also whole numbers that no float can hold are not.
        return all(type(value) in (int, float) and abs(value) < 1e38 for value in values)

    def sizes(values: Any) -> bool:
        return values is None or len(values) == dims and finite(*values) and min(values) > 0

    valid = {
        "channel_names": all_are(str, plan.channel_names),
        "class_names": all_are(str, classes.names) and len({*classes.names}) == len(classes.names),
        "regions": regions is None
        or len(regions) == len(classes.names)
        and all(all_are(int, region) and min(region) >= 0 for region in regions),
        "regions_class_order": classes.regions_class_order is None
        or all_are(int, classes.regions_class_order, len(classes.names)),
        "ignore_label": type(classes.ignore_label) in (int, type(None)),
        "spatial_dims": type(dims) is int and dims in (2, 3),
        "spacing": sizes(plan.spacing),
        "shape": sizes(plan.shape) and all_are(int, plan.shape or (1,)),
        "intensities": len(plan.intensities) == len(plan.channel_names)
        and all(
            i.method in ("zscore", "percentile", "ct", "none")
            and finite(i.lower, i.upper, i.mean, i.std)
            and i.std > 0
            and type(i.nonzero) is bool
            for i in plan.intensities
        ),
        "pixel_size": plan.pixel_size in get_args(PixelSize),
        "kernel": plan.kernel in get_args(Kernel),
        "upright": type(plan.upright) is bool,
    }
    if wrong := [name for name, is_valid in valid.items() if not is_valid]:
        values = plan.to_dict()
        raise ValueError(f"expected a valid {wrong[0]}, got {reprlib.repr(values[wrong[0]])}")


@dataclass(frozen=True)
class PreparedCase:
    """One case on the prepared grid, and the way back to the file's grid.

    Attributes:
        case_id: name of the case.
        image: (C, *S) float32, normalised.
        label: target of the classes, (*S) uint8 label values or (C, *S) uint8 masks of overlapping
            regions, with IGNORED voxels if there is an ignore label; or None.
        spacing: voxel size of the prepared grid in the unit of the plan, in pixels of the file if
            that is "pixels"; None if it is unknown and the plan does not need it.
        native_shape: shape of the file, in its own axis order.
        orientation: from the file's axes to those of the prepared grid, if `upright` is None.
        label_path: the label file, or None.
        classes: of the label.
        upright: the prepared grid of a file with oblique axes, otherwise None.
    """

    case_id: str
    image: Tensor
    label: Tensor | None
    spacing: tuple[float, ...] | None
    native_shape: tuple[int, ...]
    orientation: Orientation
    label_path: Path | None
    classes: Classes
    upright: UprightGrid | None = None


def make_plan(dataset: Dataset, config: PreprocessConfig, facts: Mapping[str, CaseFacts]) -> Plan:
    """Fix target grid and intensities from the facts of the training cases.

    If the voxel sizes are unknown, the target grid is that of the files, or has `config.shape`.

    Args:
        dataset: the data set.
        config: the wanted preprocessing.
        facts: case_id -> facts, for all training cases.

    Raises:
        ValueError: spacing or shape has another number of axes than the data, intensity another
            number of channels, or spacing is in mm and the voxel sizes are unknown.
        FileError: intensity ct, but no foreground in the training labels.
    """
    dims = dataset.spatial_dims
    training = [facts[case_id] for case_id in dataset.split["train"]]
    spacing: tuple[float, ...] | None = None
    canonical = [size for fact in training if (size := fact.canonical_spacing) is not None]
    if config.shape is None and not isinstance(config.spacing, str):
        spacing = tuple(float(size) for size in config.spacing)
        if not canonical:
            raise ValueError(
                f"preprocess.spacing: expected median or native, because the size of the pixels is "
                f"unknown, got {spacing} mm"
            )
    elif config.shape is None and config.spacing == "median" and canonical:
        spacing = tuple(float(size) for size in np.median(np.array(canonical), axis=0))
    for name, sizes in (("spacing", spacing), ("shape", config.shape)):
        if sizes is not None and len(sizes) != dims:
            raise ValueError(f"{name}: expected {dims} values for {dims}D data, got {sizes}")
    channels = dataset.channel_names
    asked = config.intensity
    methods = asked if isinstance(asked, tuple) else (asked,) * len(channels)
    if len(methods) != len(channels):
        raise ValueError(f"intensity: expected one value or {len(channels)}, got {asked}")
    foreground = np.concatenate([fact.foreground for fact in training], axis=1)
    return Plan(
        channel_names=channels,
        classes=dataset.classes,
        spatial_dims=dims,
        spacing=spacing,
        shape=config.shape,
        intensities=tuple(
            channel_intensity(name, method, values)
            for name, method, values in zip(channels, methods, foreground, strict=True)
        ),
        pixel_size=config.pixel_size if canonical else "ignore",
        upright=config.shape is None
        and bool(canonical)
        and all(fact.affine is not None and is_upright(fact.affine) for fact in training),
    )


def preprocess_image(volumes: Sequence[Volume], plan: Plan, *, case_id: str = "") -> PreparedCase:
    """Prepare an image without label in the same way as the training cases.

    Args:
        volumes: one per channel.
        plan: from the training cases.
        case_id: name of the case.

    Raises:
        FileError: the number of channels or axes is wrong, the grids of the channels differ,
            there are NaN or Inf, or the plan needs a voxel size that is unknown.
    """
    if len(volumes) != len(plan.channel_names):
        raise FileError(
            f"{case_id or 'image'}: expected channels {plan.channel_names}, "
            f"got {len(volumes)} files {[volume.path.name for volume in volumes]}"
        )
    volumes = [sized(volume, plan.pixel_size) for volume in volumes]
    if findings := image_findings(volumes, plan.spatial_dims):
        raise FileError("; ".join(finding.text for finding in findings))
    first = volumes[0]
    if plan.spacing is not None and first.spacing is None:
        raise FileError(unknown_size(first))
    orientation = Orientation.of(first.affine, plan.spatial_dims)
    voxel_size = steps(None, plan.spatial_dims) if plan.unit == "pixels" else first.spacing
    spacing = None if voxel_size is None else orientation.sizes(voxel_size)
    image = torch.stack([torch.from_numpy(v.array.astype(np.float32)) for v in volumes])
    upright = None
    target = plan.spacing or spacing
    if plan.upright and target and first.affine is not None and not is_upright(first.affine):
        upright = UprightGrid.around(image, first.affine, target)
    for channel, intensity in zip(image, plan.intensities, strict=True):
        channel.copy_(intensity.apply(channel))
    if upright is None:
        image = orientation.apply(image)
        shape = prepared_shape(tuple(image.shape[1:]), spacing, plan)
        if spacing is not None:
            zoomed = zip(spacing, image.shape[1:], shape, strict=True)
            spacing = tuple(size * old / new for size, old, new in zoomed)
        image = resample(image, shape, kernel=plan.kernel)
    else:
        spacing = upright.spacing
        image = upright.sample_image(image, plan.kernel)
    return PreparedCase(
        case_id=case_id,
        image=image,
        label=None,
        spacing=spacing,
        native_shape=first.array.shape,
        orientation=orientation,
        label_path=None,
        classes=plan.classes,
        upright=upright,
    )


def preprocess_label(volume: Volume, case: PreparedCase, plan: Plan) -> Tensor:
    """Target of a case on its prepared grid: (*S) uint8, or (C, *S) for overlapping regions."""
    label = torch.from_numpy(volume.array.astype(np.uint8))
    values = plan.classes.values_in_files
    if case.upright is not None:
        label = case.upright.sample_label(label, values)
    else:
        canonical = case.orientation.apply(label[None])[0]
        label = resample_label(canonical, case.image.shape[1:], values)
    return plan.classes.target(label)


def restore(probs: Tensor, case: PreparedCase, rows: slice = slice(None)) -> Tensor:
    """Bring probabilities from the prepared grid back to the file's grid.

    The interpolation is linear; it is exact if the case was not resampled. Outside of an upright
    prepared grid everything is background.

    Args:
        probs: (C, *S) on the prepared grid, float32 or float16.
        case: the prepared case.
        rows: range of the file's first axis to restore, to save memory. The values are the same as
            in the whole (from an upright grid up to rounding).

    Returns:
        (C, *native_shape) float32, in the file's own axis order and directions.

    Raises:
        ValueError: `probs` has another shape than the case.
    """
    if probs.shape[1:] != case.image.shape[1:]:
        raise ValueError(
            f"probs: expected spatial shape {tuple(case.image.shape[1:])} of the prepared case, "
            f"got {tuple(probs.shape[1:])}"
        )
    if case.upright is not None:
        restored = case.upright.restore(probs, case.native_shape, rows)
        if case.classes.exclusive and len(restored) > 1:
            restored[0] += 1 - restored.sum(0)
        return restored
    canonical = tuple(int(size) for size in case.orientation.sizes(case.native_shape))
    number = case.native_shape[0]
    start, stop, _ = rows.indices(number)
    if 0 in case.orientation.flipped:
        start, stop = number - stop, number - start
    part = [
        slice(start, stop) if axis == 0 else slice(None) for axis in case.orientation.permutation
    ]
    return case.orientation.undo(resample(probs, canonical, part)).contiguous()


def native_label(case: PreparedCase) -> Tensor:
    """The target on the file's own grid: (*native_shape) uint8, or masks (C, *native_shape).

    Raises:
        ValueError: the case has no label.
    """
    if case.label_path is None:
        raise ValueError(f"case: expected a case with a label, got {case.case_id} without")
    label = torch.from_numpy(read_label(case.label_path).array.astype(np.uint8))
    return case.classes.target(label)


def prepared_shape(
    shape: tuple[int, ...], spacing: tuple[float, ...] | None, plan: Plan
) -> tuple[int, ...]:
    """The prepared shape of an image with this shape and voxel size along canonical axes."""
    if plan.shape is not None:
        return plan.shape
    if plan.spacing is None or spacing is None:
        return shape
    sizes = zip(shape, spacing, plan.spacing, strict=True)
    return tuple(max(1, round(size * mm / target)) for size, mm, target in sizes)
