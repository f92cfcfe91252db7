"""Facts that are collected from the files of one case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recycleseg.classes import Classes
from recycleseg.data.facts import CaseFacts, facts_of, value_counts
from recycleseg.data.volumes import Volume

# Axes of the file: towards superior, left and posterior.
SLP = np.array([[0, -1.0, 0, 0], [0, 0, -1.0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])


def facts(
    image: np.ndarray, label: np.ndarray, affine: np.ndarray | None, classes: Classes
) -> CaseFacts:
    volumes = [Volume(a, (1.0,) * a.ndim, affine, Path("x")) for a in (image, label)]
    return facts_of(volumes[:1], volumes[1], value_counts(label), classes)


def test_values_of_no_class_are_no_foreground() -> None:
    image = np.arange(60).reshape(3, 4, 5)
    label = np.zeros((3, 4, 5), np.uint8)
    label[0, 1:3, 2] = 1
    label[2] = 2
    found = facts(image, label, np.eye(4), Classes(("background", "a")))
    assert found.class_voxels.tolist() == [2]
    assert found.foreground_box is not None
    assert found.foreground_box.tolist() == [[0, 1, 2], [1, 3, 3]]
    assert found.foreground.tolist() == [[7.0, 12.0]]


def digest_of(array: np.ndarray, affine: np.ndarray | None) -> str:
    label = np.zeros(array.shape, np.uint8)
    return facts(array, label, affine, Classes(("background", "a"))).image_digests[0]


def test_equal_voxels_have_equal_digests_however_they_are_stored() -> None:
    array = np.random.default_rng(0).integers(0, 99, (4, 5, 6)).astype(np.int16)
    digest = digest_of(array, np.eye(4))
    assert digest == digest_of(array.astype(np.float64), np.eye(4))
    assert digest == digest_of(np.asfortranarray(array), np.eye(4))
    stored = array.transpose(2, 0, 1)[:, ::-1, ::-1]  # towards superior, left and posterior
    assert digest == digest_of(stored, SLP)
    assert digest != digest_of(array.reshape(5, 4, 6), np.eye(4))
    changed = array.copy()
    changed[3, 4, 5] += 1
    assert digest != digest_of(changed, np.eye(4))
    assert digest_of(np.full((3, 3), 7), None) == ""


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.uint16])
def test_values_are_counted_as_by_numpy(dtype: type) -> None:
    rng = np.random.default_rng(0)
    highest = {np.uint8: 200, np.int16: 4095}.get(dtype, 9000)  # also beyond possible label values
    label = rng.integers(-3 if dtype is np.float32 else 0, highest, (130, 100, 90)).astype(dtype)
    values, counts = np.unique(label, return_counts=True)
    assert value_counts(label) == dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert value_counts(label[:0]) == {}
