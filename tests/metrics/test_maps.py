"""What `evaluate` takes as two segmentations: integers of every kind, with any labels."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch

from recycleseg.metrics import Scores, evaluate, summarise
from recycleseg.metrics.measure import measure

RNG = np.random.default_rng(0)
PRED, REF = RNG.integers(0, 4, (2, 6, 7, 5), dtype=np.uint8)
SPACING = (1.0, 0.5, 2.0)
LABELS: dict[str, int | tuple[int, ...]] = {"a": 1, "b": 2, "bc": (2, 3), "c": 3}
BACKENDS = ["auto", "reference"]


def equal(scores: Scores, expected: Scores) -> None:
    assert scores.labels == expected.labels
    for metric, values in expected.table.items():
        # "reference" sums in another order.
        np.testing.assert_allclose(scores.table[metric], values, rtol=1e-12, err_msg=metric)


# Labels of an atlas, of 32 bits and of 64 bits, in place of 1, 2 and 3.
VALUES = [(11143, 12143, 12175), (2**31, 2**31 + 5, 2**32 - 1), (7, 2**40, 2**63 - 1)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("definitions", [("voxel",), ()], ids=["surfaces", "overlap"])
@pytest.mark.parametrize("values", VALUES)
def test_labels_may_be_far_apart(
    values: tuple[int, int, int], definitions: tuple[str, ...], backend: str
) -> None:
    options: dict[str, Any] = {"spacing": SPACING, "definitions": definitions}
    expected = evaluate(PRED, REF, labels=LABELS, **options)
    table = np.array([0, *values])
    labels = {"a": values[0], "b": values[1], "bc": values[1:], "c": values[2]}
    for dtype in (np.int64, np.uint64):
        maps = table[PRED].astype(dtype), table[REF].astype(dtype)
        equal(evaluate(*maps, labels=labels, backend=backend, **options), expected)
        ignoring = {"a": values[0], "b": values[1], "ignore": values[2]}
        equal(
            evaluate(maps[0] * (PRED != 3).astype(dtype), maps[1], labels=ignoring, **options),
            evaluate(PRED * (PRED != 3), REF, labels={"a": 1, "b": 2, "ignore": 3}, **options),
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_unlisted_label_of_any_size_is_named(backend: str) -> None:
    for value in (-3, 300, 2**40):
        ref = REF.astype(np.int64)
        ref[1, 2, :3] = value
        with pytest.raises(
            ValueError, match=rf"^ref: expected 0 and the labels 1, 2, 3, got {value} \(3 voxels\)"
        ):
            evaluate(PRED, ref, spacing=SPACING, labels=LABELS, backend=backend)


def test_many_labels() -> None:
    """More than the counting operation takes at once."""
    label = np.arange(18 * 18 * 16, dtype=np.int32).reshape(18, 18, 16) * 1000
    other = np.roll(label, 1, 0)
    values = [int(value) for value in np.unique(label) if value > 0]
    assert len(values) > 4096
    scores = evaluate(label, other, spacing=SPACING, labels={str(v): v for v in values})
    np.testing.assert_array_equal(scores.table["dice"], 0)
    np.testing.assert_array_equal(np.unique(scores.table["hd"]), [1.0, 17.0])
    options: dict[str, Any] = {"percentile": 95.0, "border_is_outside": True, "backend": "auto"}
    counted = measure(
        label[None],
        other[None],
        [(value,) for value in values],
        spacing=SPACING,
        tolerances=(),
        definitions=(),
        **options,
    )
    np.testing.assert_array_equal(counted.counts, np.broadcast_to([0, 1, 1], (1, len(values), 3)))


FULL, EMPTY = np.ones((4, 5, 6), np.uint8), np.zeros((4, 5, 6), np.uint8)
PART = EMPTY.copy()
PART[1:3, 2:4, 2:5] = 1
OVERLAP = ("dice", "iou", "precision", "recall")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("maps", [(FULL, EMPTY), (EMPTY, FULL), (PART, EMPTY), (EMPTY, PART)])
def test_a_structure_of_one_map_alone_is_a_miss_at_any_border(
    maps: tuple[np.ndarray, np.ndarray], backend: str
) -> None:
    """Also where it fills the volume, so that it has no surface where the border is inside."""
    for border_is_outside in (True, False):
        scores = evaluate(
            *maps,
            spacing=SPACING,
            labels={"a": 1},
            border_is_outside=border_is_outside,
            backend=backend,
        )["a"]
        for metric in (*OVERLAP, "nsd"):
            assert scores.pop(metric) == 0, metric
        assert sorted((scores.pop("pred_volume_ml"), scores.pop("ref_volume_ml")))[0] == 0
        assert set(scores.values()) == {math.inf}


@pytest.mark.parametrize("backend", BACKENDS)
def test_structures_without_a_surface(backend: str) -> None:
    options: dict[str, Any] = {"spacing": SPACING, "labels": {"a": 1}, "backend": backend}
    both = evaluate(FULL, FULL, border_is_outside=False, **options)["a"]
    assert both["dice"] == 1 and both["centroid_distance"] == 0
    assert math.isnan(both["hd95"]) and math.isnan(both["nsd"])
    one = evaluate(FULL, PART, border_is_outside=False, **options)["a"]
    assert 0 < one["dice"] < 1
    assert (one["hd95"], one["assd"], one["nsd"]) == (math.inf, math.inf, 0.0)


def test_a_batch_must_be_asked_for() -> None:
    options: dict[str, Any] = {"labels": LABELS}
    with pytest.raises(
        ValueError,
        match=r"^spacing: expected 3 numbers, one for each axis of S in pred \(\*S\) of shape "
        r"\(6, 7, 5\), got \(1\.0, 2\.0\); a batch needs batched=True$",
    ):
        evaluate(PRED, REF, spacing=(1, 2), **options)
    batch = evaluate(PRED, REF, spacing=(1, 2), batched=True, **options)
    assert batch.batched and batch["a"]["dice"].shape == (6,)
    equal(
        Scores.join(
            evaluate(p, r, spacing=(1, 2), **options) for p, r in zip(PRED, REF, strict=True)
        ),
        batch,
    )
    with pytest.raises(
        ValueError, match=r"^spacing: expected 2 numbers.*got \(1\.0, 2\.0, 3\.0\)$"
    ):
        evaluate(PRED, REF, spacing=(1, 2, 3), batched=True, **options)
    with pytest.raises(ValueError, match=r"^pred: expected shape \(\*S\).*needs batched=True$"):
        evaluate(PRED[None], REF[None], spacing=SPACING, **options)
    with pytest.raises(ValueError, match=r"^pred: expected shape \(B, C, \*S\) with 2 or 3 axes"):
        evaluate(PRED > 0, REF > 0, spacing=(1,), labels=["a"], batched=True)
    with pytest.raises(ValueError, match="^batched: expected True or False, got 6"):
        evaluate(PRED, REF, spacing=(1, 2), batched=6, **options)


def test_a_mask_of_an_array_is_refused() -> None:
    masked = np.ma.masked_array(PRED, mask=PRED == 2)
    said = "expected an array without a mask, got MaskedArray"
    for maps, name in (((masked, REF), "pred"), ((PRED, masked), "ref")):
        with pytest.raises(ValueError, match=f"^{name}: {said}"):
            evaluate(*maps, spacing=SPACING, labels=LABELS)
    with pytest.raises(ValueError, match=f"^values: {said}"):
        summarise(np.ma.masked_array([1.0, 2.0], mask=[True, False]))
    with pytest.raises(ValueError, match=f"^spacing: {said}"):
        evaluate(PRED, REF, spacing=np.ma.masked_array(SPACING, mask=False), labels=LABELS)


def test_labels_beyond_63_bits_are_refused() -> None:
    large = PRED.astype(np.uint64)
    large[0, 0, 0] = 2**64 - 1
    for maps in ((large, REF), (torch.from_numpy(large), torch.from_numpy(REF))):
        with pytest.raises(
            ValueError,
            match="^pred: expected labels up to 9223372036854775807, got 18446744073709551615$",
        ):
            evaluate(*maps, spacing=SPACING, labels=LABELS)


@pytest.mark.parametrize(
    "spacing", [np.array(SPACING), torch.tensor(SPACING), [1, Decimal("0.5"), 2]]
)
def test_numbers_of_every_kind(spacing: Any) -> None:
    expected = evaluate(PRED, REF, spacing=SPACING, labels=LABELS, tolerance_mm=1.5)
    for tolerance in (np.float32(1.5), np.array(1.5), torch.tensor(1.5), Decimal("1.5")):
        equal(evaluate(PRED, REF, spacing=spacing, labels=LABELS, tolerance_mm=tolerance), expected)


STRANGE: list[tuple[dict[str, Any], str]] = [
    ({"pred": PRED.astype(np.float32)}, "pred: expected booleans or integers, got float32"),
    ({"pred": PRED + 0.5}, "pred: expected booleans or integers, got float64"),
    ({"pred": np.full(PRED.shape, np.nan)}, "pred: expected booleans or integers, got float64"),
    ({"pred": PRED.astype(complex)}, "pred: expected booleans or integers, got complex128"),
    ({"pred": PRED.astype(object)}, "pred: expected booleans or integers, got object"),
    ({"pred": PRED.astype("M8[s]")}, "pred: expected booleans or integers, got datetime64"),
    (
        {"pred": torch.rand(6, 7, 5, requires_grad=True)},
        r"pred: expected booleans or integers, got torch\.float32",
    ),
    ({"pred": torch.from_numpy(PRED).to_sparse()}, r"pred: expected a dense tensor, got torch\.sp"),
    ({"pred": PRED.astype(np.int8) - 1}, "pred: expected 0 and the labels 1, 2, 3, got -1"),
    ({"pred": np.uint8(1)}, "pred: expected a NumPy array"),
    ({"pred": np.array(1)}, r"pred: expected shape \(\*S\) with 2 or 3 axes in S, got \(\)"),
    ({"pred": PRED[:, :0], "ref": REF[:, :0]}, "pred: expected at least one voxel"),
    ({"pred": "scan.nii.gz"}, "pred: expected a NumPy array, .* got str"),
    ({"labels": {"a": [[1], 2]}}, r"labels\['a'\]: expected integers from 0 .* got \[1\]"),
    ({"labels": {"a": {1: 2}}}, r"labels\['a'\]: expected integers from 0 .* got \{1: 2\}"),
    ({"labels": {"a": True}}, r"labels\['a'\]: expected integers from 0 .* got True"),
    ({"labels": {"a": 1.0}}, r"labels\['a'\]: expected integers from 0 .* got 1\.0"),
    ({"labels": {"a": "1"}}, r"labels\['a'\]: expected a label or a tuple of them, got '1'"),
    ({"labels": {1: 1}}, "labels: expected text as the name of a structure, got 1"),
    ({"labels": [["a"], "b"]}, r"labels: expected different names, .* got \[\['a'\], 'b'\]"),
    ({"labels": 3}, "labels: expected a mapping from names to labels, .* got 3"),
    ({"labels": None}, "labels: expected a mapping from names to labels, .* got None"),
    ({"spacing": (1, 2, math.inf)}, r"spacing: expected mm from 1e-09 to .* got \(1\.0, 2\.0, inf"),
    ({"spacing": (1, 2, 0)}, "spacing: expected mm from 1e-09 to"),
    ({"spacing": (1, 2, 3, 4)}, "spacing: expected 3 numbers"),
    ({"spacing": [[1, 1, 1]]}, r"spacing: expected numbers, got \[\[1, 1, 1\]\]"),
    ({"spacing": "111"}, "spacing: expected numbers, got '111'"),
    ({"spacing": ("1", "1", "1")}, r"spacing: expected numbers, got \('1', '1', '1'\)"),
    ({"spacing": (1, 1, True)}, "spacing: expected numbers"),
    ({"spacing": (1, 1, 1j)}, "spacing: expected numbers"),
    ({"spacing": (1, 1, None)}, "spacing: expected numbers"),
    ({"tolerance_mm": math.nan}, r"tolerance_mm: expected .* finite mm from 0 on, got \(nan,\)"),
    ({"tolerance_mm": math.inf}, r"tolerance_mm: expected .* finite mm from 0 on, got \(inf,\)"),
    ({"tolerance_mm": -0.5}, r"tolerance_mm: expected .* finite mm from 0 on, got \(-0\.5,\)"),
    ({"tolerance_mm": "1.5"}, "tolerance_mm: expected numbers, got '1.5'"),
    ({"tolerance_mm": True}, "tolerance_mm: expected numbers, got True"),
    ({"tolerance_mm": None}, "tolerance_mm: expected numbers, got None"),
    ({"tolerance_mm": (1.0, np.float32(1.0))}, "tolerance_mm: expected different, finite"),
    ({"percentile": "95"}, "percentile: expected numbers, got '95'"),
    ({"percentile": (50, 95)}, r"percentile: expected one number from 0 to 100, got \(50, 95\)"),
    ({"percentile": math.nan}, "percentile: expected one number from 0 to 100, got nan"),
    ({"definitions": [["voxel"]]}, r"definitions: expected a tuple of .* got \[\['voxel'\]\]"),
    ({"border_is_outside": "no"}, "border_is_outside: expected True or False, got 'no'"),
    ({"backend": None}, "backend: expected one of"),
]


@pytest.mark.parametrize(("change", "message"), STRANGE)
def test_strange_arguments_are_named(change: dict[str, Any], message: str) -> None:
    arguments = {"pred": PRED, "ref": REF, "spacing": SPACING, "labels": LABELS, **change}
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        evaluate(arguments.pop("pred"), arguments.pop("ref"), **arguments)


def test_a_tolerance_of_zero() -> None:
    moved = np.roll(PART, 1, 0)
    scores = evaluate(PART, moved, spacing=SPACING, labels={"a": 1}, tolerance_mm=0)
    # Of 12 voxels each, all of them surface, 6 coincide.
    assert scores["a"]["nsd"] == 0.5


def test_both_on_a_device_without_voxels() -> None:
    maps = torch.zeros(2, 4, 5, dtype=torch.uint8, device="meta")
    with pytest.raises(ValueError, match="^pred: expected voxels, got a tensor on the device meta"):
        evaluate(*maps, spacing=(1, 1), labels={"a": 1})
