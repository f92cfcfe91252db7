"""The target grid: one voxel size, or one shape, for all images of a data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recycleseg.planning.fingerprint import Fingerprint, Floats

# nnU-Net (Isensee et al. 2021) calls voxels anisotropic beyond this ratio.
ANISOTROPIC = 3.0
# A finer slice distance than the median keeps what the better scans show (nnU-Net's percentile).
_FINE_SLICES = 10
# Images are resized to one shape if this makes the structures' sizes vary by a fifth less.
_CLEARLY_LESS = 0.8
_ENOUGH_CASES = 5


@dataclass(frozen=True)
class Grid:
    """The grid that all images are resampled to.

    Attributes:
        spacing: (D,) voxel size; of the median image if `resized`.
        shape: (D,) voxels of the median image on this grid.
        resized: whether every image gets `shape`, whatever its voxel size.
        reason: why, in words.
    """

    spacing: Floats
    shape: Floats
    resized: bool
    reason: str


def choose_grid(fingerprint: Fingerprint, *, may_resize: bool = True) -> Grid:
    """The median voxel size, with two exceptions.

    Thick slices (beyond 3:1) get the tenth percentile of the slice distances. 2D images whose
    structures vary less in size as a share of the image than in mm are resized to one shape; this
    is so where the depth setting of an ultrasound probe decides the pixel size.

    Args:
        fingerprint: of the training cases.
        may_resize: whether the second exception is allowed.
    """
    median = np.median(fingerprint.spacings, axis=0)
    labelled = len(fingerprint.extents) == len(fingerprint.spacings)
    if may_resize and fingerprint.spatial_dims == 2 and labelled:
        in_units, as_share = _variation(fingerprint)
        different = np.ptp(fingerprint.shapes, axis=0).any() or np.ptp(fingerprint.spacings) > 0
        enough = len(fingerprint.extents) >= _ENOUGH_CASES
        if enough and different and as_share < _CLEARLY_LESS * in_units:
            return Grid(
                median,
                np.median(fingerprint.shapes, axis=0).round(),
                True,
                f"the structures' size varies by {as_share:.0%} as a share of the image, "
                f"by {in_units:.0%} in {fingerprint.unit}, so every image gets one shape",
            )
    spacing, reason = median, f"median of {len(fingerprint.spacings)} training cases"
    thick = int(np.argmax(median))
    others = np.delete(median, thick).max()
    if fingerprint.spatial_dims == 3 and median[thick] > ANISOTROPIC * others:
        fine = float(np.percentile(fingerprint.spacings[:, thick], _FINE_SLICES))
        if others < fine < median[thick]:
            spacing = median.copy()
            spacing[thick] = fine
            reason += f"; of the slice distances {median[thick]:g} the finer {fine:g}"
    return at_spacing(fingerprint, spacing, reason)


def at_spacing(fingerprint: Fingerprint, spacing: Floats, reason: str) -> Grid:
    """The grid with a given voxel size (D,)."""
    spacing = np.asarray(spacing, dtype=np.float64)
    shape = np.median(fingerprint.sizes / spacing, axis=0).round().clip(1)
    return Grid(spacing, shape, False, reason)


def at_shape(fingerprint: Fingerprint, shape: Floats, reason: str) -> Grid:
    """The grid on which every image has the shape (D,)."""
    shape = np.asarray(shape, dtype=np.float64)
    return Grid(np.median(fingerprint.sizes, axis=0) / shape, shape, True, reason)


def thick_axis(spacing: Floats) -> int | None:
    """The axis across thick slices: its voxels are more than three times as long as the others."""
    if len(spacing) < 3:
        return None
    axis = int(np.argmax(spacing))
    return axis if spacing[axis] > ANISOTROPIC * np.delete(spacing, axis).max() else None


def _variation(fingerprint: Fingerprint) -> tuple[float, float]:
    """Standard deviation over mean of the structures' sizes, in `unit` and as a share of images."""
    shares = fingerprint.extents / fingerprint.sizes
    in_units, as_share = (
        float((x.std(axis=0) / x.mean(axis=0)).mean()) for x in (fingerprint.extents, shares)
    )
    return in_units, as_share
