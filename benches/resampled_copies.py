"""How much Dice a trained model loses on copies of cases in another grid.

python benches/resampled_copies.py RUN DATASET [--split val] [--cases 8]

Each case is copied into a grid that is rotated, of other voxel sizes, permuted and flipped: the
image by cubic splines, zero beyond its borders, the label by the largest of its linearly resampled
structures. The copy's prediction is compared with the copy's label, and the case's own prediction
with its own. Prints JSON: for each kind of copy the Dice of each case, averaged over structures,
how much that is less than the case's own, and how much the case's own prediction loses where it is
carried into that grid as the label is, which no model can help.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

import recycleseg as rs
from recycleseg.data.layout import read_dataset

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """Voxel sizes in mm, degrees around each axis, and the order and direction of axes."""

    spacing: tuple[float, float, float]
    degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)
    axis_codes: str = "SLA"


COPIES = {
    "flipped": Grid((1.0, 1.0, 1.0)),
    "resampled": Grid((1.4, 0.8, 1.0)),
    "resampled mildly": Grid((0.8, 1.25, 1.0)),
    "rotated": Grid((1.0, 1.0, 1.0), (10.0, 0.0, 0.0)),
    "rotated and resampled": Grid((1.0, 0.8, 1.2), (10.0, 0.0, 0.0)),
    "rotated about all axes and resampled": Grid((1.0, 0.8, 1.2), (12.0, 12.0, 12.0)),
    "rotated far and resampled": Grid((1.2, 1.0, 0.8), (0.0, 0.0, 30.0)),
}


def copy_of(image: nib.Nifti1Image, grid: Grid, values: list[int] | None) -> nib.Nifti1Image:
    """The image, or a label map of these values, in a grid around the same centre that holds it."""
    old_spacing = nib.affines.voxel_sizes(image.affine)
    rotation = Rotation.from_euler("xyz", grid.degrees, degrees=True).as_matrix()
    corners = list(itertools.product(*((-mm / 2, mm / 2) for mm in image.shape * old_spacing)))
    size = np.ptp(corners @ rotation, axis=0) / grid.spacing
    shape = (np.ceil(size) if any(grid.degrees) else np.rint(size)).astype(int)
    to_old = np.diag(1 / old_spacing) @ rotation @ np.diag(grid.spacing)
    offset = (np.array(image.shape) - 1) / 2 - to_old @ ((shape - 1) / 2)
    # Half a voxel at the border of an unrotated copy lies beyond the outermost centres.
    mode = "constant" if any(grid.degrees) else "nearest"

    def resampled(array: Array, order: int, beyond: float) -> Array:
        return ndimage.affine_transform(
            array, to_old, offset, tuple(shape), order=order, mode=mode, cval=beyond
        )

    array = np.asarray(image.dataobj, dtype=np.float64)
    if values is None:
        result = resampled(array, 3, 0.0).astype(np.float32)
    else:
        shares = [resampled((array == v).astype(np.float64), 1, float(v == 0)) for v in values]
        result = np.array(values, dtype=np.uint8)[np.argmax(shares, axis=0)]
    affine = image.affine @ nib.affines.from_matvec(to_old, offset)
    copy = nib.Nifti1Image(result, affine)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(grid.axis_codes)
    )
    return copy.as_reoriented(turn)


def dice_of(prediction: NDArray[np.uint8], label: nib.Nifti1Image, values: list[int]) -> float:
    """Mean Dice of all structures but the background, whose value is first."""
    truth = np.asarray(label.dataobj)
    assert prediction.shape == truth.shape
    pairs = [(prediction == value, truth == value) for value in values[1:]]
    return float(np.mean([2 * (p & t).sum() / (p.sum() + t.sum()) for p, t in pairs]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--cases", type=int, default=8)
    options = parser.parse_args()
    dataset = read_dataset(options.dataset)
    values = list(dataset.label_values)
    predictor = rs.Predictor.load(options.run)
    own: list[float] = []
    copied: dict[str, list[float]] = {name: [] for name in COPIES}
    carried: dict[str, list[float]] = {name: [] for name in COPIES}
    with tempfile.TemporaryDirectory() as folder:
        for case_id in dataset.split[options.split][: options.cases]:
            case = dataset.cases[case_id]
            image, label = nib.load(case.image_paths[0]), nib.load(case.label_path)
            prediction = predictor(case.image_paths[0]).label.numpy()
            own.append(dice_of(prediction, label, values))
            for name, grid in COPIES.items():
                path = Path(folder, f"{case_id}_0000.nii.gz")
                nib.save(copy_of(image, grid, None), path)
                truth = copy_of(label, grid, values)
                copied[name].append(dice_of(predictor(path).label.numpy(), truth, values))
                known = copy_of(nib.Nifti1Image(prediction, image.affine), grid, values)
                carried[name].append(dice_of(np.asarray(known.dataobj), truth, values))
    print(json.dumps({"own grid": np.round(own, 4).tolist()}))
    for name in COPIES:
        lost, unavoidable = np.subtract(own, copied[name]), np.subtract(own, carried[name])
        record = {
            "dice": np.round(copied[name], 4).tolist(),
            "lost": {"mean": round(lost.mean(), 4), "most": round(lost.max(), 4)},
            "carried": {"mean": round(unavoidable.mean(), 4), "most": round(unavoidable.max(), 4)},
        }
        print(json.dumps({name: record}))


if __name__ == "__main__":
    main()
