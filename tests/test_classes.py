"""What the classes of a segmentation are: parsing, the decision, masks, painting, entropy."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from recycleseg.classes import Classes, max_entropy, parse_labels, probabilities
from recycleseg.files import FileError

NESTED = ((1, 2, 3), (2, 3), (3,))


def regions_of(*regions: tuple[int, ...]) -> Classes:
    return Classes(tuple("abcdef"[: len(regions)]), regions)


def test_background_is_left_out_and_regions_are_sorted() -> None:
    labels = {"background": 0, "whole": [2, 1, 3], "core": [3], "edema": 2}
    assert parse_labels(labels, "x") == {"whole": (1, 2, 3), "core": 3, "edema": 2}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "x: labels: expected name -> value, or .* got null"),
        ({"0": "background", "1": "left"}, 'expected name -> value, .* got {"0": "background"'),
        ({"a": 1.5}, "expected name -> value"),
        ({"a": True}, "expected name -> value"),
        ({"a": []}, "expected name -> value"),
        ({"a": -1}, "from 0 to 9223372036854775807, got"),
        ({"a": 2**63}, "from 0 to 9223372036854775807, got"),
        ({"background": 0}, "expected a foreground label, got only background"),
        ({"a": 2, "ignore": 1}, 'expected "ignore" as the highest value, above 2, got 1'),
        ({"a": 2, "ignore": 2}, 'expected "ignore" as the highest value, above 2, got 2'),
        ({"a": [1, 3], "ignore": [4]}, 'expected "ignore" as the highest value, above 3, got .4'),
        ({"background": 0, "ignore": 1}, "expected a foreground label, got only background"),
        ({"a": [1, 2], "b": [2, 1]}, "one name per structure, got 'a' and 'b' for"),
    ],
)
def test_invalid_labels_are_named(labels: Any, message: str) -> None:
    for parse in (parse_labels, Classes.of):
        with pytest.raises(FileError, match=message):
            parse(labels, "x")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"a": 1}, 'x: labels: expected "background": 0, got null'),
        ({"background": 1, "a": 2}, 'expected "background": 0, got 1'),
        ({"air": 0, "a": 1}, 'expected "background": 0, got null'),
        (
            {"background": 0, "a": 1, "b": 3},
            r"consecutive values from 0, got \[0, 1, 3\]; replace 3 by 2 in x and in all label",
        ),
        ({"background": 0, "a": 1, "ignore": 3}, r"got \[0, 1, 3\]; replace 3 by 2 in x"),
        ({"background": 0, "a": [2]}, r"consecutive values from 0, got \[0, 2\]"),
        (
            {"background": 0, **{f"c{value}": value for value in range(1, 257)}},
            "expected at most 256, got 257",
        ),
        (
            {"background": 0, **{f"c{value}": value for value in range(1, 256)}, "ignore": 256},
            "expected at most 256, got 257",
        ),
    ],
)
def test_a_network_tells_only_consecutive_classes_apart(labels: Any, message: str) -> None:
    assert parse_labels(labels, "x")  # evaluation accepts any label values
    with pytest.raises(FileError, match=message):
        Classes.of(labels, "x")


def test_exclusive_classes_are_in_the_order_of_their_values() -> None:
    classes = Classes.of({"b": 2, "background": 0, "a": 1}, "x")
    assert classes == Classes(("background", "a", "b"))
    assert classes.exclusive and len(classes) == 3 and list(classes.values) == [0, 1, 2]
    assert classes.foreground == {"a": 1, "b": 2}
    assert classes.labels == {"background": 0, "a": 1, "b": 2}


@pytest.mark.parametrize("background", [0, [0]])
def test_one_list_of_several_makes_all_classes_regions(background: Any) -> None:
    classes = Classes.of({"background": background, "whole": [3, 1, 2], "core": [3], "e": 2}, "x")
    assert classes == Classes(("whole", "core", "e"), ((1, 2, 3), (3,), (2,)))
    assert not classes.exclusive and len(classes) == 3 and list(classes.values) == [0, 1, 2, 3]
    assert classes.foreground == {"whole": (1, 2, 3), "core": 3, "e": 2}
    assert classes.labels == {"background": 0, "whole": [1, 2, 3], "core": [3], "e": [2]}
    assert Classes.of(classes.labels, "x") == classes


def test_lists_of_one_value_are_exclusive_classes() -> None:
    # as in nnU-Net, whose network then has a channel for the background
    assert Classes.of({"background": 0, "a": [1], "b": [2]}, "x").names == ("background", "a", "b")


IGNORING: list[tuple[dict[str, Any], list[int] | None]] = [
    ({"background": 0, "a": 1, "b": 2, "ignore": 3}, None),
    ({"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, None),
    ({"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, [1, 2]),
]


@pytest.mark.parametrize(("labels", "order"), IGNORING)
def test_an_ignored_voxel_is_of_no_class(labels: dict[str, Any], order: list[int] | None) -> None:
    classes = Classes.of(labels, "x", order)
    plain = {name: entry for name, entry in labels.items() if name != "ignore"}
    assert len(classes) == len(Classes.of(plain, "x"))
    assert (list(classes.values), list(classes.values_in_files)) == ([0, 1, 2], [0, 1, 2, 3])
    assert classes.foreground == Classes.of(plain, "x").foreground
    assert classes.labels == labels
    description = json.loads(json.dumps(classes.description))
    again = Classes.of(description["labels"], "x", description.get("regions_class_order"))
    assert again == classes
    assert max_entropy(classes.labels) == max_entropy(plain)

    label = torch.tensor([[0, 1, 3], [2, 3, 3]], dtype=torch.uint8)
    target = classes.target(label)
    without, known = classes.split(target)
    assert known is not None and torch.equal(known, label != 3)
    background = label * known
    assert torch.equal(without, Classes.of(plain, "x").target(background))
    assert without.dtype == torch.uint8 and torch.equal(classes.label_map(without), background)
    of_batch, known_of_batch = classes.split(torch.stack([target, target]), dim=1)
    assert torch.equal(of_batch[1], without)
    assert known_of_batch is not None and torch.equal(known_of_batch[1], known)


def test_without_ignore_label_every_value_is_a_class() -> None:
    classes = Classes(("background", *(f"c{value}" for value in range(1, 256))))
    label = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(classes.target(label), label)
    assert classes.split(label) == (label, None)


def painted_by_nnunet(probs: torch.Tensor, regions_class_order: list[int]) -> torch.Tensor:
    """nnU-Net's convert_probabilities_to_segmentation of regions."""
    label = torch.zeros(probs.shape[1:], dtype=torch.uint8)
    for prob, value in zip(probs, regions_class_order, strict=True):
        label[prob > 0.5] = value
    return label


@pytest.mark.parametrize("order", [[1, 2, 3], [3, 2, 1], [2, 1, 3]])
def test_regions_are_painted_in_nnunets_order(order: list[int]) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "ring": [1, 3], "ignore": 4}
    classes = Classes.of(labels, "x", order)
    probs = torch.rand(3, 40, 30, generator=torch.Generator().manual_seed(0))
    painted = classes.label_map(classes.decide(probs))
    assert torch.equal(painted, painted_by_nnunet(probs, order))
    assert classes.regions_class_order == tuple(order)


@pytest.mark.parametrize("order", [[1], [1, 2, 3], [1, 4], [1, 3], "12", [1, "2"], [1, True], {}])
def test_a_painting_order_that_does_not_fit_is_named(order: Any) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    message = "x: regions_class_order: expected 2 label values from 0 to 2, one for each of whole, "
    with pytest.raises(FileError, match=message):
        Classes.of(labels, "x", order)
    exclusive = {"background": 0, "a": 1}
    assert Classes.of(exclusive, "x", order) == Classes.of(exclusive, "x")  # nnU-Net takes it too


def test_classes_are_joined_unless_they_contradict() -> None:
    plain = Classes(("whole", "core"), ((1, 2), (2,)))
    ordered = replace(plain, regions_class_order=(1, 2))
    ignoring = replace(plain, ignore_label=3)
    assert plain.joined(ordered) == ordered.joined(plain) == ordered
    assert ordered.joined(ignoring) == replace(ordered, ignore_label=3)
    assert ordered.joined(replace(plain, regions_class_order=(2, 1))) is None
    assert plain.joined(Classes(("whole", "core"), ((1, 2), (1,)))) is None


def test_probabilities_of_logits() -> None:
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(probabilities(logits, True), logits.softmax(1))
    assert torch.equal(probabilities(logits, True, dim=0), logits.softmax(0))
    assert torch.equal(probabilities(logits, False), logits.sigmoid())


def test_masks_of_a_label_map() -> None:
    label = torch.tensor([[0, 1], [2, 2]], dtype=torch.uint8)
    exclusive, regions = Classes(("background", "a", "b")), regions_of((1, 2), (2,))
    assert exclusive.masks(label).tolist() == [
        [[1, 0], [0, 0]],
        [[0, 1], [0, 0]],
        [[0, 0], [1, 1]],
    ]
    assert regions.masks(label).dtype == torch.uint8
    assert regions.masks(label).tolist() == [[[0, 1], [1, 1]], [[0, 0], [1, 1]]]
    assert torch.equal(regions.target(label), regions.masks(label))
    assert torch.equal(exclusive.target(label), label)
    assert torch.equal(exclusive.label_map(label), label)


def test_the_most_probable_class_is_decided_for() -> None:
    probs = torch.tensor([[0.6, 0.2, 0.1], [0.3, 0.7, 0.4], [0.1, 0.1, 0.5]])
    decided = Classes(("background", "a", "b")).decide(probs)
    assert decided.dtype == torch.uint8 and decided.tolist() == [0, 1, 2]


def test_one_half_is_inside_of_overlapping_classes() -> None:
    probs = torch.tensor([[0.5, 0.49], [0.5, 0.5]]).reshape(2, 2, 1, 1)
    for classes in (regions_of((1, 2), (2,)), regions_of((1,), (2,))):
        decided = classes.decide(probs)
        assert decided.dtype == torch.uint8
        assert decided.flatten().tolist() == [1, 0, 1, 1]
        assert classes.label_map(decided).flatten().tolist() == [2, 2]
    # label values 2 and 3 are in the same regions: the first one is taken
    assert regions_of((1, 2, 3), (2, 3)).label_map(torch.ones(2, 1, 1, 1)).item() == 2


@pytest.mark.parametrize("regions", [NESTED, NESTED[::-1], ((1, 2, 4, 7), (4, 7), (7,))], ids=str)
def test_nested_regions_survive_painting(regions: tuple[tuple[int, ...], ...]) -> None:
    classes = regions_of(*regions)
    masks = classes.masks(torch.tensor([[0, 1, 2], [3, 4, 7]], dtype=torch.uint8))
    assert torch.equal(classes.masks(classes.label_map(masks)), masks)


def test_specific_regions_are_painted_over_general_ones() -> None:
    # one voxel per set of masks: none, only whole, only enhancing, whole and enhancing, all
    masks = torch.tensor([[0, 1, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 1, 1, 1]])
    assert regions_of(*NESTED).label_map(masks).tolist() == [0, 1, 3, 3, 3]
    # two regions with as many label values: the later one; the whole has no label value of its own
    masks = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 1]])
    assert regions_of((1, 2), (1,), (2,)).label_map(masks).tolist() == [1, 1, 2, 2]
    # a label value that two regions share is for the voxels in both
    masks = torch.tensor([[1, 0, 1], [0, 1, 1]])
    assert regions_of((1, 3), (2, 3)).label_map(masks).tolist() == [1, 2, 3]


def test_entropy_is_greatest_where_all_is_equal() -> None:
    exclusive, regions = Classes(("background", "a", "b")), regions_of((1, 2), (2,))
    for classes, most in (
        (exclusive, torch.full((3, 1), 1 / 3)),
        (regions, torch.full((2, 1), 0.5)),
    ):
        assert classes.entropy(most).item() == pytest.approx(max_entropy(classes.labels), rel=1e-6)
        assert classes.entropy(torch.eye(len(classes))[:, :1]).item() == 0
    # Bernoulli entropies of 0.1 and 0.3, summed
    expected = sum(-p * math.log(p) - (1 - p) * math.log(1 - p) for p in (0.1, 0.3))
    assert regions.entropy(torch.tensor([[0.1], [0.3]])).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"background": 0, "a": 1, "b": 2}, math.log(3)),
        ({"a": 1, "b": 2}, math.log(3)),
        ({"background": 0, "all": [1, 2], "b": [2]}, 2 * math.log(2)),
        ({"all": (1, 2), "b": 2}, 2 * math.log(2)),
        ({"background": 0, "a": [1], "b": [2], "c": [3]}, math.log(4)),
        ({"background": 0, "all": [1, 2], "b": [2], "ignore": 3}, 2 * math.log(2)),
    ],
)
def test_greatest_entropy(labels: dict[str, Any], expected: float) -> None:
    assert max_entropy(labels) == pytest.approx(expected)
