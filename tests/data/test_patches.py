"""Patch sampling: positions of patches, how often cases come, and that a step decides a batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recycleseg.classes import IGNORED, Classes
from recycleseg.data.blocks import Blocks, to_blocks
from recycleseg.data.patches import PatchSampler, TrainingCase
from recycleseg.data.positions import find_positions


def case_of(
    image: Tensor,
    label: Tensor,
    classes: Classes = Classes(("background", "a")),  # noqa: B008
) -> TrainingCase:
    return TrainingCase("x", image, label, classes, find_positions(label, classes, image.ndim - 1))


def numbered_case(shape: tuple[int, ...], label: Tensor | None = None) -> TrainingCase:
    """A case with voxels 1, 2, 3, ..., so that a patch shows where it comes from."""
    image = torch.arange(1.0, 1.0 + int(np.prod(shape))).reshape(1, *shape)
    return case_of(image, torch.zeros(shape, dtype=torch.uint8) if label is None else label)


def start_of(patch: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(patch.flatten()[0]) - 1, shape))


def test_batch_is_a_function_of_seed_and_step() -> None:
    cases = [numbered_case((8, 9, 7)) for _ in range(5)]
    options: dict[str, Any] = {"patch_size": (4, 4, 4), "batch_size": 2}
    first = PatchSampler(cases, seed=1, **options)
    batches = [first.batch(step) for step in range(12)]
    fresh = PatchSampler(cases, seed=1, **options)
    for step in (11, 3, 0, 7):
        image, label = fresh.batch(step)
        assert torch.equal(image, batches[step][0])
        assert torch.equal(label, batches[step][1])
    other = PatchSampler(cases, seed=2, **options)
    assert any(not torch.equal(other.batch(s)[0], batches[s][0]) for s in range(12))


def test_every_case_comes_once_per_epoch_in_changing_order() -> None:
    cases = [
        case_of(torch.full((1, 4, 4), float(i)), torch.zeros(4, 4, dtype=torch.uint8))
        for i in range(7)
    ]
    sampler = PatchSampler(cases, (2, 2), 3)
    drawn = torch.cat([sampler.batch(step)[0][:, 0, 0, 0] for step in range(21)])
    epochs = [tuple(epoch.int().tolist()) for epoch in drawn.split(7)]
    assert len(epochs) == 9
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) > 1


def test_shapes_dtypes_and_channels() -> None:
    image = torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(0))
    masks = torch.ones(3, 6, 7, dtype=torch.uint8)
    got_image, got_label = PatchSampler([case_of(image, masks)], (4, 5), 6).batch(0)
    assert (got_image.shape, got_image.dtype) == ((6, 2, 4, 5), torch.float32)
    assert (got_label.shape, got_label.dtype) == ((6, 3, 4, 5), torch.uint8)


@pytest.mark.parametrize("imgx_compat", [False, True])
def test_every_start_is_drawn_equally_often(imgx_compat: bool) -> None:
    shape = (5, 4, 6)
    sampler = PatchSampler(
        [numbered_case(shape)], (3, 4, 4), 64, foreground_probability=0.0, imgx_compat=imgx_compat
    )
    starts = Counter(
        start_of(patch, shape) for step in range(30) for patch in sampler.batch(step)[0]
    )
    last = 1 if imgx_compat else 2
    expected = {(i, 0, k) for i in range(last + 1) for k in range(last + 1)}
    assert set(starts) == expected
    # 1920 draws over at most 9 places; the limit is five standard deviations of a count.
    mean = 1920 / len(expected)
    assert max(abs(count - mean) for count in starts.values()) < 5 * mean**0.5


def test_image_and_label_are_cut_at_the_same_place() -> None:
    label = torch.randint(0, 3, (9, 8, 7), generator=torch.Generator().manual_seed(0)).byte()
    case = case_of(label[None].float(), label)
    for step in range(10):
        image, patch = PatchSampler([case], (5, 4, 7), 3).batch(step)
        assert torch.equal(image[:, 0], patch.float())


def test_small_images_are_centred_and_padded() -> None:
    image, label = torch.ones(1, 3, 8), torch.full((3, 8), 2, dtype=torch.uint8)
    got_image, got_label = PatchSampler([case_of(image, label)], (6, 4), 1).batch(0)
    expected = torch.zeros(6, 4)
    expected[2:5] = 1
    assert torch.equal(got_image[0, 0], expected)
    assert torch.equal(got_label[0], (2 * expected).byte())


@pytest.mark.parametrize("patch_size", [(3, 3, 3), (20, 3, 3)])
@pytest.mark.parametrize("overlapping", [False, True])
def test_foreground_patches_hold_every_class_equally_often(
    overlapping: bool, patch_size: tuple[int, ...]
) -> None:
    label = torch.zeros(12, 30, 30, dtype=torch.uint8)
    label[0, 0, 0] = 1
    label[5:, 20:, 20:] = 3
    masks = torch.stack([label == 1, label == 2, label == 3]).to(torch.uint8)
    case = case_of(torch.zeros(1, *label.shape), masks if overlapping else label)
    sampler = PatchSampler([case], patch_size, 50, foreground_probability=1.0)
    seen = Counter[int]()
    for step in range(8):
        for patch in sampler.batch(step)[1]:
            values = (
                [i + 1 for i in range(3) if patch[i].any()]
                if overlapping
                else [int(value) for value in patch.unique() if value > 0]
            )
            seen.update(values)
            assert values
    # A class is drawn half the time, whatever its size: 400 draws, five standard deviations.
    assert set(seen) == {1, 3}
    assert abs(seen[1] - 200) < 50


def test_foreground_probability_is_kept() -> None:
    label = torch.zeros(64, 64, dtype=torch.uint8)
    label[0, 0] = 1
    sampler = PatchSampler(
        [case_of(torch.zeros(1, 64, 64), label)], (2, 2), 100, foreground_probability=0.3
    )
    hits = sum(int(patch.any()) for step in range(10) for patch in sampler.batch(step)[1])
    # 1000 draws have a standard deviation of 14.5; a hit by chance has probability 1 / 63**2.
    assert abs(hits - 300) < 73


def sparse_case(overlapping: bool) -> TrainingCase:
    """Only four of 40x40 voxels are known, and none of them is background."""
    regions = ((1, 2), (2,)) if overlapping else None
    names = ("whole", "core") if overlapping else ("background", "a", "b")
    classes = Classes(names, regions, ignore_label=3)
    label = torch.full((40, 40), 3, dtype=torch.uint8)
    label[4, 5], label[30, 8:11] = 1, 2
    return case_of(torch.zeros(1, 40, 40), classes.target(label), classes)


@pytest.mark.parametrize("foreground_probability", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("overlapping", [False, True])
def test_every_patch_of_a_sparse_case_holds_a_known_voxel(
    overlapping: bool, foreground_probability: float
) -> None:
    case = sparse_case(overlapping)
    sampler = PatchSampler([case], (3, 3), 200, foreground_probability=foreground_probability)
    _, known = case.classes.split(sampler.batch(0)[1], dim=1)
    assert known is not None and known.flatten(1).any(1).all()


def test_the_lowest_class_of_a_case_without_background_is_drawn() -> None:
    label = torch.ones(8, 8, dtype=torch.uint8)
    label[0, 0] = 2
    sampler = PatchSampler(
        [case_of(torch.zeros(1, 8, 8), label)], (1, 1), 200, foreground_probability=1.0
    )
    ones = int((sampler.batch(0)[1] == 1).sum())
    assert abs(ones - 100) < 36  # half of 200 draws; five standard deviations


def test_a_case_without_known_voxels_is_sampled_anywhere() -> None:
    label = torch.full((6, 6), IGNORED, dtype=torch.uint8)
    numbered = torch.arange(1.0, 37.0).reshape(1, 6, 6)
    case = case_of(numbered, label, Classes(("background", "a"), ignore_label=2))
    images, labels = PatchSampler([case], (2, 2), 40).batch(0)
    assert len({start_of(patch, (6, 6)) for patch in images}) > 10
    assert (labels == IGNORED).all()


def test_case_without_foreground_is_sampled_anywhere() -> None:
    sampler = PatchSampler([numbered_case((6, 6))], (2, 2), 40, foreground_probability=1.0)
    starts = {start_of(patch, (6, 6)) for patch in sampler.batch(0)[0]}
    assert len(starts) > 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cases": []}, "cases: expected at least one"),
        ({"patch_size": (2,)}, r"patch_size: expected 2 positive sizes, got \(2,\)"),
        ({"patch_size": (2, 0)}, "patch_size: expected 2 positive sizes"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"foreground_probability": 1.5}, "foreground_probability: expected 0 to 1, got 1.5"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {
        "cases": [numbered_case((4, 4))],
        "patch_size": (2, 2),
        "batch_size": 1,
    }
    with pytest.raises(ValueError, match=message):
        PatchSampler(**(options | changes))


def test_blocks_on_disk_give_the_same_patches(tmp_path: Path) -> None:
    label = torch.randint(0, 3, (40, 33, 20), generator=torch.Generator().manual_seed(0)).byte()
    case = case_of(torch.arange(2 * 26400.0).reshape(2, 40, 33, 20), label)
    on_disk = {}
    for name in ("image", "label"):
        np.save(tmp_path / f"{name}.npy", to_blocks(getattr(case, name), 3).numpy())
        on_disk[name] = Blocks(tmp_path / f"{name}.npy", label.shape)
    options: dict[str, Any] = {"patch_size": (17, 40, 9), "batch_size": 3}
    one = PatchSampler([case], **options)
    other = PatchSampler([replace(case, **on_disk)], **options)
    for step in range(5):
        for expected, got in zip(one.batch(step), other.batch(step), strict=True):
            assert torch.equal(got, expected) and got.dtype == expected.dtype
