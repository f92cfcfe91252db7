"""A mask on the grid of its image, if it has the same voxels in another order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recycleseg.data.grids import same_grid
from recycleseg.data.volumes import Volume, file_ending


def on_grid(mask: Volume, image: Volume) -> Volume:
    """Put the voxels of a mask where the image has them; no voxel is interpolated.

    Programs store the axes of a volume in different orders and directions. A DICOM-SEG may also
    leave out the slices without a segment.

    Args:
        mask: a label map.
        image: its image, or another map of the same image.

    Returns:
        The mask with the shape and the affine of the image, 0 where a DICOM-SEG had no voxel; or
        `mask` itself if its grid is that of the image already, or has other voxels.
    """
    if mask.affine is None or image.affine is None or mask.array.ndim != 3:
        return mask
    shape = mask.array.shape
    if shape == image.array.shape and same_grid(image.affine, mask.affine, shape):
        return mask
    # Voxel index of the mask -> voxel index of the image.
    index = np.rint(np.linalg.solve(image.affine, mask.affine)).astype(int)
    turn, first = index[:3, :3], index[:3, 3]
    if not (np.abs(turn).sum(axis=0) == 1).all() or not (np.abs(turn).sum(axis=1) == 1).all():
        return mask
    if not same_grid(image.affine @ index, mask.affine, shape):
        return mask
    order, reversed_ = np.abs(turn).argmax(axis=1), turn.sum(axis=1) < 0
    turned = np.flip(mask.array.transpose(order), tuple(np.flatnonzero(reversed_)))
    if turned.shape != image.array.shape and file_ending(mask.path) != ".dcm":
        return mask
    begin = np.where(reversed_, first - np.array(turned.shape) + 1, first)
    end = begin + turned.shape
    if (begin < 0).any() or (end > image.array.shape).any():
        return mask
    array = np.zeros(image.array.shape, mask.array.dtype)
    array[tuple(slice(b, e) for b, e in zip(begin, end, strict=True))] = turned
    return replace(
        mask, array=array, spacing=image.spacing, affine=image.affine, header=image.header
    )
