"""Rules on label maps: against drawings, plain SciPy on whole maps, the paper's rule in steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from recycleseg.cli.train import parse_command
from recycleseg.prediction.postprocess import check_postprocess, postprocess
from recycleseg.run.config import load_config
from recycleseg.run.options import PostprocessConfig

Labels = dict[str, int | tuple[int, ...]]
ORGANS: Labels = {"liver": 1, "cyst": 2}
TUMOUR: Labels = {"whole": (1, 2, 3), "core": (2, 3), "enhancing": 3}


def drawn(text: str) -> np.ndarray:
    return np.array([[int(c) for c in row] for row in text.split()], np.uint8)


def cleaned(label: np.ndarray, labels: Labels = ORGANS, **options: Any) -> np.ndarray:
    before = label.copy()
    result = postprocess(label, PostprocessConfig(**options), labels)
    np.testing.assert_array_equal(label, before)
    assert result.dtype == np.uint8 and not np.shares_memory(result, label)
    return result


def test_nothing_is_changed_by_default() -> None:
    label = np.random.default_rng(0).integers(0, 3, (6, 7, 8)).astype(np.uint8)
    np.testing.assert_array_equal(cleaned(label), label)


ISLANDS = drawn("""
    1100001
    1100020
    0012000
    2000200
    1100001
""")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # (1, 1) and (2, 2) touch at a corner, so they are one component
        ({"keep_largest": "liver"}, "1100000 1100020 0012000 2000200 0000000"),
        ({"keep_largest": ("cyst",)}, "1100001 1100000 0012000 0000200 1100001"),
        ({"keep_largest": "all"}, "1100000 1100000 0012000 0000200 0000000"),
        ({"keep_largest": "foreground"}, "1100000 1100000 0012000 0000200 0000000"),
    ],
)
def test_largest_components(options: dict[str, Any], expected: str) -> None:
    np.testing.assert_array_equal(cleaned(ISLANDS, **options), drawn(expected))


def test_holes_of_a_class_are_only_its_background() -> None:
    label = drawn("""
        1111111
        1002221
        1002021
        1002221
        1111111
    """)
    # The liver has two holes: one beside the cyst, and one in it, which the cyst fills first.
    filled = drawn("1111111 1112221 1112221 1112221 1111111")
    np.testing.assert_array_equal(cleaned(label, fill_holes="all"), filled)
    np.testing.assert_array_equal(cleaned(label, fill_holes="liver")[2], [1, 1, 1, 2, 1, 2, 1])
    np.testing.assert_array_equal(cleaned(label, fill_holes="cyst")[2], [1, 0, 0, 2, 2, 2, 1])
    # A corner does not open a hole; a way to the border does, even through the cyst.
    label[0, 0] = 0
    np.testing.assert_array_equal(cleaned(label, fill_holes="liver")[2], [1, 1, 1, 2, 1, 2, 1])
    label[4, 4] = 2
    np.testing.assert_array_equal(cleaned(label, fill_holes="liver"), label)


def whole_map(label: np.ndarray, labels: Labels) -> np.ndarray:
    """keep_largest and fill_holes of all exclusive classes, on the whole map, with SciPy only."""
    result = label.copy()
    for value in labels.values():
        components, number = ndimage.label(label == value, np.ones((3,) * label.ndim))
        if number:
            sizes = ndimage.sum_labels(label == value, components, range(1, number + 1))
            result[(components > 0) & (components != 1 + np.argmax(sizes))] = 0
    return result


@pytest.mark.parametrize("shape", [(40, 50), (18, 20, 22), (1, 30), (12, 1, 9)])
def test_random_maps_as_without_boxes(shape: tuple[int, ...]) -> None:
    labels: Labels = {"a": 1, "b": 2, "c": 5}
    rng = np.random.default_rng(1)
    for density in (0.05, 0.2, 0.5):
        label = np.where(rng.random(shape) < density, rng.choice([1, 2, 5], shape), 0)
        label = label.astype(np.uint8)
        kept = whole_map(label, labels)
        np.testing.assert_array_equal(cleaned(label, labels, keep_largest="all"), kept)
        one = np.where(rng.random(shape) < 0.6, 1, 0).astype(np.uint8)
        filled = ndimage.binary_fill_holes(one)
        np.testing.assert_array_equal(cleaned(one, {"a": 1}, fill_holes="a"), filled)


def test_overlapping_regions() -> None:
    label = drawn("""
        1111111003
        1122221000
        1123021001
        1122221000
        2111111000
    """)
    # The whole removes an island of all three regions; the hole of the core gets the core's own
    # label value, which is not in the enhancing region.
    np.testing.assert_array_equal(
        cleaned(label, TUMOUR, keep_largest="whole", fill_holes="core"),
        drawn("1111111000 1122221000 1123221000 1122221000 2111111000"),
    )
    # Islands of the core stay in the whole, but leave the enhancing region, a part of the core.
    np.testing.assert_array_equal(
        cleaned(label, TUMOUR, keep_largest="core")[[0, 4]], drawn("1111111001 1111111000")
    )
    # The core encloses a voxel that is only in the whole.
    label = drawn("222 212 222")
    np.testing.assert_array_equal(cleaned(label, TUMOUR, fill_holes="all"), drawn("222 222 222"))


def muscle_by_steps(mask: np.ndarray) -> np.ndarray:
    """The rule of the muscle-ultrasound data, word for word, with disks written out."""

    def moved(x: np.ndarray, offsets: list[tuple[int, int]], outside: bool) -> list[np.ndarray]:
        padded = np.pad(x, 10, constant_values=outside)
        h, w = x.shape
        return [padded[10 + i : 10 + i + h, 10 + j : 10 + j + w] for i, j in offsets]

    def disk(cut: list[int], width: int) -> list[tuple[int, int]]:
        cuts = cut + [0] * (width - 2 * len(cut)) + cut[::-1]
        return [
            (i - width // 2, j - width // 2)
            for i, c in enumerate(cuts)
            for j in range(c, width - c)
        ]

    square, disk5, disk10 = disk([0], 5), disk([2, 1], 9), disk([4, 3, 2, 1], 19)
    mask = ndimage.binary_fill_holes(mask)
    mask = np.all(moved(mask, square, True), axis=0)
    mask = np.any(moved(mask, disk5, False), axis=0)
    mask = np.all(moved(mask, disk10, True), axis=0)
    mask = np.any(moved(mask, disk10, False), axis=0)
    components, number = ndimage.label(mask, np.ones((3, 3)))
    parts = sorted((components == k for k in range(1, number + 1)), key=lambda m: -m.sum())
    if number > 1 and parts[1].sum() > 0.75 * parts[0].sum():
        parts = sorted(parts[:2], key=lambda m: np.nonzero(m)[0].min())
    return ndimage.binary_fill_holes(parts[0]) if number else mask


def test_muscle_ultrasound_rule() -> None:
    rng = np.random.default_rng(2)
    chosen = 0
    for sigma in (4.0, 6.0, 9.0, 14.0):
        for quantile in (0.4, 0.6, 0.8):
            noise = ndimage.gaussian_filter(rng.normal(size=(150, 180)), sigma)
            mask = noise > np.quantile(noise, quantile)  # touches the border
            expected = muscle_by_steps(mask)
            got = cleaned(mask.astype(np.uint8), {"muscle": 1}, muscle_ultrasound=True)
            np.testing.assert_array_equal(got, expected)
            chosen += bool(expected.any())
    assert chosen >= 8
    empty = np.zeros((30, 40), np.uint8)
    assert not cleaned(empty, {"muscle": 1}, muscle_ultrasound=True).any()


@pytest.mark.parametrize(("width", "upper"), [(44, False), (48, True)])
def test_the_more_superficial_of_two_similar_components(width: int, upper: bool) -> None:
    # Two rectangles, 60 x 40 and `width` x 40; the disks cut their corners.
    label = np.zeros((150, 100), np.uint8)
    label[2:42, 50 : 50 + width] = 1
    label[80:120, 2:62] = 1
    kept = cleaned(label, {"muscle": 1}, muscle_ultrasound=True)
    rows = np.nonzero(kept.any(axis=1))[0]
    assert (rows.max() < 60) == upper and (rows.min() >= 60) == (not upper)


@pytest.mark.parametrize(
    ("label", "labels", "options", "message"),
    [
        (ISLANDS, ORGANS, {"keep_largest": "lung"}, "postprocess.keep_largest: expected some of"),
        (ISLANDS, ORGANS, {"fill_holes": ("liver", "foreground")}, "fill_holes: .*'foreground'"),
        (ISLANDS, ORGANS, {"muscle_ultrasound": True}, "expected one foreground class"),
        (
            ISLANDS[..., None],
            {"muscle": 1},
            {"muscle_ultrasound": True},
            "muscle_ultrasound: expected 2D images, because the rule is made for them, got 3D",
        ),
        (ISLANDS.astype(np.int64), ORGANS, {}, "label: expected uint8"),
    ],
)
def test_rules_that_do_not_fit(
    label: np.ndarray, labels: Labels, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cleaned(label, labels, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"muscle_ultrasound": True, "fill_holes": "all"},
            "expected no keep_largest or fill_holes",
        ),
    ],
)
def test_configurations_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PostprocessConfig(**options)


def test_options_of_a_run(tmp_path: Path) -> None:
    arguments = ["--postprocess.keep_largest", "[lobe, bean]", "--postprocess.fill_holes", "all"]
    config = parse_command(arguments).config
    expected = PostprocessConfig(keep_largest=("lobe", "bean"), fill_holes="all")
    assert config.postprocess == expected
    (tmp_path / "config.yaml").write_text(
        "postprocess: {keep_largest: [lobe, bean], fill_holes: all}"
    )
    assert load_config(tmp_path / "config.yaml").postprocess == expected


def test_a_class_may_be_called_foreground() -> None:
    label = np.zeros((9, 9), np.uint8)
    label[1:6, 1:6] = 1
    label[3, 3] = 0
    label[8, 8] = 1
    expected = np.zeros_like(label)
    expected[1:6, 1:6] = 1
    for chosen in ("all", "foreground"):
        config = PostprocessConfig(keep_largest=chosen, fill_holes="all")
        clean = postprocess(label, config, {"foreground": 1})
        np.testing.assert_array_equal(clean, expected)
    with pytest.raises(ValueError, match="'foreground', which is the name of a class here and of"):
        check_postprocess(PostprocessConfig(keep_largest="foreground"), ("foreground", "b"), 2)


def test_a_class_that_an_earlier_rule_removed_is_no_trouble() -> None:
    label = np.zeros((9, 9), np.uint8)
    label[1:6, 1:6] = 1
    label[8, 8] = 2
    config = PostprocessConfig(keep_largest=("foreground", "all"))
    clean = postprocess(label, config, {"a": 1, "b": 2})
    np.testing.assert_array_equal(clean, np.where(label == 2, 0, label))
