"""Masks with the voxels of their image in another order, and DICOM-SEG with fewer of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from recycleseg.data.regrid import on_grid
from recycleseg.data.volumes import Volume

# Turned against the world, with unequal voxels.
AFFINE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, 0.2, 0.1) @ np.diag([0.7, 1.1, 3.0]), (12.0, -30.0, 5.0)
)
LABEL = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
IMAGE = Volume(np.zeros(LABEL.shape, np.int16), (0.7, 1.1, 3.0), AFFINE, Path("image"))


def mask(array: np.ndarray, affine: np.ndarray, name: str = "mask.dcm") -> Volume:
    return Volume(array, None, affine.astype(np.float32).astype(float), Path(name))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAL", "ARI", "PIR"])
def test_other_order_of_axes(codes: str) -> None:
    turned = nib.Nifti1Image(LABEL, AFFINE).as_reoriented(
        nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
        )
    )
    moved = on_grid(mask(np.asarray(turned.dataobj), turned.affine), IMAGE)
    np.testing.assert_array_equal(moved.array, LABEL)
    assert moved.affine is not None
    np.testing.assert_allclose(moved.affine, AFFINE, rtol=0, atol=1e-5)  # float32


def test_what_a_dicom_seg_leaves_out_is_background() -> None:
    part = (slice(1, 3), slice(0, 5), slice(2, 6))
    affine = AFFINE @ nib.affines.from_matvec(np.eye(3), (1, 0, 2))
    expected = np.zeros_like(LABEL)
    expected[part] = LABEL[part]
    np.testing.assert_array_equal(on_grid(mask(LABEL[part], affine), IMAGE).array, expected)
    # In other formats it is rather a wrong file.
    nifti = mask(LABEL[part], affine, "mask.nii.gz")
    assert on_grid(nifti, IMAGE) is nifti


@pytest.mark.parametrize(
    "change",
    [
        nib.affines.from_matvec(np.eye(3), (0.5, 0, 0)),  # between two voxels
        nib.affines.from_matvec(np.eye(3), (0, 0, 1)),  # one slice beyond the image
        np.diag([1.0, 1.0, 2.0, 1.0]),  # other voxel size
        nib.affines.from_matvec([[1, 1, 0], [0, 1, 0], [0, 0, 1]]),  # sheared
    ],
)
def test_other_voxels_stay_as_they_are(change: np.ndarray) -> None:
    other = mask(LABEL, AFFINE @ change)
    assert on_grid(other, IMAGE) is other


def test_equal_grids_and_no_place_in_space() -> None:
    same = mask(LABEL, AFFINE)
    assert on_grid(same, IMAGE) is same
    assert on_grid(replace(same, affine=None), IMAGE).affine is None
