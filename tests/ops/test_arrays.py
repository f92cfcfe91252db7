"""What the operations say of arrays that they do not take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recycleseg as rs
from recycleseg import ops
from recycleseg.data.volumes import write_volume
from recycleseg.prediction.postprocess import postprocess
from recycleseg.run.options import PostprocessConfig

PROBS = np.random.default_rng(0).dirichlet(np.ones(3), (2, 4, 5)).astype(np.float32)
PROBS = np.ascontiguousarray(np.moveaxis(PROBS, -1, 1))  # (B, C, *S)
LABEL = PROBS.argmax(1).astype(np.uint8)
MASKED = np.ma.masked_array(LABEL, mask=LABEL == 1)

# Functions that take arrays, and the argument that has a mask.
TAKING_ARRAYS: dict[str, Callable[[], Any]] = {
    "members": lambda: rs.ensemble_vote([PROBS, np.ma.masked_array(PROBS, mask=PROBS > 0.5)]),
    "members of one array": lambda: rs.ensemble_vote(
        np.ma.masked_array([PROBS, PROBS], mask=False)
    ),
    "members that are labels": lambda: rs.ensemble_vote(
        [LABEL, MASKED], source_type="label", num_classes=3
    ),
    "ref": lambda: rs.ensemble_vote([PROBS, PROBS], ref=MASKED),
    "betas": lambda: rs.NoiseSchedule.from_betas(
        np.ma.masked_array([0.1, 0.2], mask=[False, True])  # type: ignore[arg-type]
    ),
    "label": lambda: postprocess(
        MASKED, {"a": 1, "b": 2}, PostprocessConfig(keep_largest=("all",))
    ),
    "array": lambda: write_volume(Path("x.nii.gz"), MASKED, spacing=(1.0, 1.0, 1.0)),
}


@pytest.mark.parametrize("name", TAKING_ARRAYS)
def test_masks_are_refused(name: str) -> None:
    said = f"^{name.split()[0]}: expected an array without a mask, got MaskedArray"
    with pytest.raises(ValueError, match=said):
        TAKING_ARRAYS[name]()


TENSOR = torch.from_numpy(LABEL)
LOGITS = torch.from_numpy(PROBS)
NETWORK = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3, "channels": (8, 8)}

# Functions that take tensors alone, and the argument that is an array.
TAKING_TENSORS: dict[str, Callable[[Any], Any]] = {
    "pred": lambda x: rs.overlap_counts(x, TENSOR, 3),
    "ref": lambda x: rs.overlap_counts(TENSOR, x, 3),
    "mask": lambda x: rs.distance_transform(x, spacing=(1.0, 1.0)),
    "pred of distances": lambda x: ops.surface_distances(x, TENSOR, labels=[1], spacing=(1.0, 1.0)),
    "label": lambda x: rs.SegmentationLoss()(LOGITS, x),
    "logits": lambda x: rs.SegmentationLoss()(x, TENSOR),
    "image": lambda x: rs.UNet(**NETWORK)(x[:, None], None, None),
}


@pytest.mark.parametrize("name", TAKING_TENSORS)
def test_arrays_are_no_tensors(name: str) -> None:
    for x in (LABEL, MASKED):
        with pytest.raises(ValueError, match=f"^{name.split()[0]}: expected a torch tensor, got"):
            TAKING_TENSORS[name](x)


def test_votes_of_arrays_in_every_memory_layout() -> None:
    expected = rs.ensemble_vote([PROBS, PROBS[:, ::-1].copy()])
    big_endian = PROBS.astype(">f4")
    read_only = PROBS[:, ::-1].copy()
    read_only.flags.writeable = False
    for members in (
        [PROBS, PROBS[:, ::-1]],  # a negative stride
        [big_endian, read_only],
        [PROBS, torch.from_numpy(read_only.copy()).requires_grad_()],
        (x for x in (PROBS, read_only)),
    ):
        assert torch.equal(rs.ensemble_vote(members), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"members": 3},
            r"members: expected an array \(K, \.\.\.\) or an iterable of arrays, got int",
        ),
        ({"members": "probs"}, r"members: expected an array .* got str"),
        ({"members": [LABEL.astype(str)]}, "members: expected numbers, got dtype <U"),
        ({"members": [[1, 2]]}, "members: expected tensors or arrays, got list"),
        ({"members": [LOGITS.to_sparse()]}, "members: expected a dense tensor, got"),
        ({"num_classes": "3"}, "num_classes: expected 1 to 4096, got '3'"),
        ({"num_classes": True}, "num_classes: expected 1 to 4096, got True"),
        ({"weights": "11"}, "weights: expected numbers, got '11'"),
        ({"weights": [1, None]}, r"weights: expected numbers, got \[1, None\]"),
        ({"exclusive": False, "thresholds": "0.5"}, "thresholds: expected numbers, got '0.5'"),
    ],
)
def test_strange_arguments_of_a_vote(arguments: dict[str, Any], message: str) -> None:
    given = {"members": [PROBS, PROBS], **arguments}
    with pytest.raises(ValueError, match=f"^{message}"):
        rs.ensemble_vote(given.pop("members"), **given)


@pytest.mark.parametrize("num_classes", ["3", 3.0, True, None])
def test_a_number_of_classes_is_an_integer(num_classes: Any) -> None:
    with pytest.raises(ValueError, match="^num_classes: expected 1 to 4096, got"):
        rs.overlap_counts(TENSOR, TENSOR, num_classes)


@pytest.mark.parametrize("spacing", ["11", ("1", "1"), (1, True), ((1,), (1,)), None])
def test_spacing_is_numbers(spacing: Any) -> None:
    for call in (
        lambda: rs.distance_transform(TENSOR, spacing=spacing),
        lambda: ops.surface_distances(TENSOR, TENSOR, labels=[1], spacing=spacing),
    ):
        with pytest.raises(ValueError, match="^spacing: expected numbers, got"):
            call()


@pytest.mark.parametrize("labels", [[True], ["1"], [1.5], "12", 3, [None]])
def test_labels_are_integers(labels: Any) -> None:
    with pytest.raises(ValueError, match="^labels: expected"):
        ops.surface_distances(TENSOR, TENSOR, labels=labels, spacing=(1.0, 1.0))
