"""Voxels per class of two label maps, from which Dice and IoU follow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.metrics.confusion_matrix import get_confusion_matrix
from pytest_benchmark.fixture import BenchmarkFixture
from selection import DEVICE, full_unless, on_device
from torch import Tensor

from recycleseg.ops.overlap_counts import overlap_counts, overlap_counts_reference

NUM_CLASSES = [3, 16]
# (B, *S): a batch of hippocampus crops, one abdominal CT, a batch of ultrasound images.
SHAPES = [(8, 36, 50, 36), (1, 160, 192, 192), (8, 256, 384)]
QUICK_SHAPE, QUICK_CLASSES = on_device((SHAPES[0], 3), (SHAPES[1], 16))


def by_numpy(pred: Tensor, ref: Tensor, num_classes: int) -> Tensor:
    """Confusion matrix of each sample by bincount, and its sums."""
    counts = []
    for p, r in zip(pred.cpu().numpy(), ref.cpu().numpy(), strict=True):
        pairs = np.bincount((p * num_classes + r).ravel(), minlength=num_classes**2)
        matrix = pairs.reshape(num_classes, num_classes)
        counts.append(np.stack([matrix.diagonal(), matrix.sum(1), matrix.sum(0)], axis=1))
    return torch.from_numpy(np.stack(counts)).to(pred.device)


def by_monai(pred: Tensor, ref: Tensor, num_classes: int) -> Tensor:
    """MONAI's confusion matrix, with the one-hot maps that it asks for."""
    one_hot = [F.one_hot(label, num_classes).movedim(-1, 1) for label in (pred, ref)]
    positive, false_positive, _, false_negative = get_confusion_matrix(*one_hot).unbind(-1)
    return torch.stack(
        [positive, positive + false_positive, positive + false_negative], dim=-1
    ).long()


def labels_in_runs(shape: tuple[int, ...], num_classes: int, seed: int) -> Tensor:
    """Random int64 labels in runs of four voxels along the last axis, for label maps have runs."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    short = (*shape[:-1], -(-shape[-1] // 4))
    label = torch.randint(num_classes, short, generator=generator, device=DEVICE)
    return label.repeat_interleave(4, -1)[..., : shape[-1]].contiguous()


PROVIDERS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "ours": overlap_counts,
    "reference": overlap_counts_reference,
    "numpy": by_numpy,
    "monai": by_monai,
}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("num_classes", [full_unless(n == QUICK_CLASSES, n) for n in NUM_CLASSES])
@pytest.mark.parametrize("shape", [full_unless(s == QUICK_SHAPE, s) for s in SHAPES], ids=str)
def test_overlap_counts(
    benchmark: BenchmarkFixture, shape: tuple[int, ...], num_classes: int, provider: str
) -> None:
    benchmark.group = f"overlap_counts, {shape}, {num_classes} classes"
    pred, ref = (labels_in_runs(shape, num_classes, seed) for seed in range(2))
    count = PROVIDERS[provider]
    expected = overlap_counts_reference(pred, ref, num_classes)
    assert torch.equal(count(pred, ref, num_classes), expected)

    def run() -> Tensor:
        counts = count(pred, ref, num_classes)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return counts

    benchmark(run)
