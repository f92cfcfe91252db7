"""Probabilities in every order of axes, beside label maps that do or do not belong to them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from recycleseg.classes import Classes
from recycleseg.data.volumes import write_volume
from recycleseg.files import FileError
from recycleseg.prediction.members import read_member

LABELS = {"background": 0, "organ": 1, "lesion": 2}
CLASSES = Classes.of(LABELS, "test")
REGIONS: dict[str, Any] = {"background": 0, "whole": [1, 2], "core": [2]}
ORIENTATIONS = [
    "".join(axes)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for axes in itertools.product(*order)
]


def scene(shape: Sequence[int] = (12, 12, 12)) -> np.ndarray:
    """An organ and a lesion that no symmetry of the array maps to themselves."""
    label = np.zeros(shape, np.uint8)
    label[(slice(1, 6), slice(2, 9), slice(3, 7))[: len(shape)]] = 1
    label[(slice(2, 4), slice(3, 6), slice(4, 6))[: len(shape)]] = 2
    return label


def probs_of(label: np.ndarray, classes: Classes = CLASSES) -> np.ndarray:
    masks = [np.isin(label, r) for r in classes.regions or [(v,) for v in classes.values]]
    low = 0.1 / (len(masks) - 1)
    return np.stack([np.where(m, 0.9, low) for m in masks]).astype(np.float32)


def write(folder: Path, label: np.ndarray, stored: np.ndarray, **description: Any) -> Path:
    """A foreign folder with one case: a label map and an array (C, Z, Y, X) or (C, 1, H, W)."""
    folder.mkdir(exist_ok=True)
    ending = ".nii.gz" if label.ndim == 3 else ".png"
    write_volume(folder / f"c{ending}", label, spacing=(1.0,) * label.ndim)
    np.savez(folder / "c.npz", probabilities=stored)
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, **description}))
    return folder


def in_file_order(probs: np.ndarray) -> np.ndarray:
    return probs.transpose(0, 3, 2, 1) if probs.ndim == 4 else probs[:, None]


def read(folder: Path, classes: Classes = CLASSES) -> np.ndarray:
    member = read_member(folder)
    return member.read_probs("c", member.read_label("c", classes.values), classes)


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("file", ["dataset.json", "plans.json"])
@pytest.mark.parametrize("reader", ["NibabelIOWithReorient", "NibabelIO"])
def test_the_named_reader_decides_the_order(
    tmp_path: Path, codes: str, file: str, reader: str
) -> None:
    label = scene()
    affine = np.diag([0.0, 0, 0, 1])
    for axis, (world, sign) in enumerate(nib.orientations.axcodes2ornt(codes)):
        affine[int(world), axis] = sign
    image = nib.Nifti1Image(label, affine)
    assert "".join(nib.aff2axcodes(image.affine)) == codes
    probs = probs_of(label)
    seen = [nib.Nifti1Image(p, affine) for p in probs]
    if reader == "NibabelIOWithReorient":  # as nnU-Net does it
        seen = [p.as_reoriented(nib.io_orientation(affine)) for p in seen]
    stored = np.stack([np.asarray(p.dataobj).transpose(2, 1, 0) for p in seen])
    folder = write(tmp_path, label, stored)
    nib.save(image, folder / "c.nii.gz")
    key = {"dataset.json": "overwrite_image_reader_writer", "plans.json": "image_reader_writer"}
    (folder / file).write_text(json.dumps({"labels": LABELS, key[file]: reader}))
    np.testing.assert_array_equal(read(folder), probs)
    (folder / file).write_text(json.dumps({"labels": LABELS}))  # the label map alone remains
    if np.array_equal(stored, in_file_order(probs)):
        np.testing.assert_array_equal(read(folder), probs)
    else:
        with pytest.raises(FileError, match=r"c.npz: .* of .*c.nii.gz, got .* in another order"):
            read(folder)


def test_the_plan_is_nearer_than_the_wish(tmp_path: Path) -> None:
    label = scene()
    folder = write(
        tmp_path,
        label,
        in_file_order(probs_of(label)),
        overwrite_image_reader_writer="NibabelIOWithReorient",
    )
    nib.save(nib.Nifti1Image(label, np.diag([-1.0, -1, 1, 1])), folder / "c.nii.gz")
    with pytest.raises(FileError, match="X, Y are reversed"):
        read(folder)
    (folder / "plans.json").write_text(json.dumps({"image_reader_writer": "SimpleITKIO"}))
    read(folder)
    (folder / "plans.json").write_text(json.dumps({"image_reader_writer": "OurIO"}))
    message = "plans.json: image_reader_writer: expected one of SimpleITKIO, .* got 'OurIO'"
    with pytest.raises(FileError, match=message):
        read(folder)
    (folder / "c.npz").unlink()
    assert not read_member(folder).has_probs  # label maps have no unknown order


def test_a_dataset_json_from_elsewhere_names_the_reader(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", scene(), in_file_order(probs_of(scene())))
    labels = (folder / "dataset.json").rename(tmp_path / "dataset.json")
    reader = {"overwrite_image_reader_writer": "NibabelIOWithReorient"}
    labels.write_text(json.dumps({"labels": LABELS, **reader}))
    assert read_member(folder, labels).origin.canonical
    assert not read_member(folder).origin.canonical


@pytest.mark.parametrize("dims", [2, 3])
def test_every_other_order_of_a_cube_is_seen(tmp_path: Path, dims: int) -> None:
    label = scene((12,) * dims)
    probs, orders = probs_of(label), 0
    for axes in itertools.permutations(range(dims)):
        for back in itertools.product((1, -1), repeat=dims):
            turned = probs.transpose(0, *(axis + 1 for axis in axes))
            turned = turned[(slice(None), *(slice(None, None, step) for step in back))]
            folder = write(tmp_path, label, in_file_order(turned))
            if axes == tuple(range(dims)) and -1 not in back:
                read(folder)
                continue
            orders += 1
            with pytest.raises(FileError, match="in another order of axes: .* but only 0 if "):
                read(folder)
    assert orders == {2: 7, 3: 47}[dims]


def test_a_lesion_on_the_wrong_side_of_a_symmetrical_organ_is_seen(tmp_path: Path) -> None:
    label = np.ones((20, 20, 20), np.uint8)
    label[3, 10, 10] = 2
    folder = write(tmp_path, label, in_file_order(probs_of(label)[:, ::-1]))
    with pytest.raises(FileError, match="2 of the 8000 voxels .* only 0 if X is reversed"):
        read(folder)


@pytest.mark.parametrize("exclusive", [True, False])
def test_post_processing_may_change_the_label_map(tmp_path: Path, exclusive: bool) -> None:
    labels = LABELS if exclusive else {**REGIONS}
    classes = Classes.of(labels, "test")
    label = scene()
    with_speck = label.copy()
    with_speck[9:11, 9:11, 9:11] = 1
    folder = write(tmp_path, label, in_file_order(probs_of(with_speck, classes)), labels=labels)
    read(folder, classes)  # a component was removed
    with_hole = label.copy()
    with_hole[5, 5, 5] = 0
    write(tmp_path, label, in_file_order(probs_of(with_hole, classes)), labels=labels)
    read(folder, classes)  # a hole was filled


def test_another_case_is_seen(tmp_path: Path) -> None:
    label = scene()
    moved = np.roll(label, 3, 0)
    folder = write(tmp_path, label, in_file_order(probs_of(moved)))
    with pytest.raises(FileError, match=r"c.npz: expected the probabilities of .*c.nii.gz, got"):
        read(folder)
    write(tmp_path, np.zeros_like(label), in_file_order(probs_of(label)))
    with pytest.raises(FileError, match="structures in 140 voxels, .* lacks 140; .* remove 50%"):
        read(folder)
    write(tmp_path, label, in_file_order(probs_of(np.zeros_like(label))))
    with pytest.raises(FileError, match="another class in 140 of the 140 voxels"):
        read(folder)


def test_numbers_that_are_no_probabilities(tmp_path: Path) -> None:
    label = scene()
    folder = write(tmp_path, label, in_file_order(np.log(probs_of(label))))
    with pytest.raises(FileError, match="c.npz: .* got values from -3 to -0.105; logits are no"):
        read(folder)
    sigmoids = np.clip(2 * probs_of(label), 0, 1)
    write(tmp_path, label, in_file_order(sigmoids))
    with pytest.raises(FileError, match="c.npz: expected probabilities that add up to 1 in every"):
        read(folder)
    small = scene((3, 3, 3))
    last = np.moveaxis(probs_of(small), 0, -1)  # (X, Y, Z, C), of equal sizes
    write(tmp_path, small, last)
    with pytest.raises(FileError, match="add up to 1 in every voxel"):
        read(folder)


def test_thresholds_of_our_ensembles_are_known(tmp_path: Path) -> None:
    classes = Classes.of(REGIONS, "test")
    label = scene()
    probs = probs_of(label, classes)
    probs[1][label == 2] = 0.4  # the core counts from 0.3 on
    record: dict[str, Any] = {"dataset": {"labels": REGIONS}, "options": {}}
    folder = write(tmp_path, label, in_file_order(probs))
    for options, fits in (
        ({"method": "mean", "thresholds": [0.5, 0.3]}, True),
        ({"method": "mean", "thresholds": None}, False),
        ({"postprocess": {"fill_holes": "all", "keep_largest": ()}}, True),
    ):
        (folder / "predict.json").write_text(json.dumps({**record, "options": options}))
        if fits:
            read(folder, classes)
        else:
            with pytest.raises(FileError, match="another class in 12 of the 140 voxels"):
                read(folder, classes)


def test_halves_of_a_vote_and_largest_scores_are_known(tmp_path: Path) -> None:
    classes = Classes.of(REGIONS, "test")
    label = np.where(scene() == 2, 1, scene()).astype(np.uint8)
    shares = probs_of(label, classes)
    shares[1][label == 1] = 0.5  # half of the votes are not more than half
    folder = write(tmp_path, label, in_file_order(shares))
    record: dict[str, Any] = {"dataset": {"labels": REGIONS}, "options": {"method": "majority"}}
    (folder / "predict.json").write_text(json.dumps(record))
    read(folder, classes)
    label = scene()
    largest = np.clip(1.1 * probs_of(label) + 0.1, 0, 1)
    write(tmp_path, label, in_file_order(largest))
    record = {"dataset": {"labels": LABELS}, "options": {"method": "max"}}
    (folder / "predict.json").write_text(json.dumps(record))
    read(folder)
