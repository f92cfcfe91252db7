"""The vote of five members; "read" is the floor: all members read once.

`process_ms_fastest` is the processor time of the fastest round, summed over threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from monai.transforms import MeanEnsemble, VoteEnsemble
from pytest_benchmark.fixture import BenchmarkFixture
from selection import DEVICE, full_unless
from torch import Tensor

from recycleseg.ops.ensemble_vote import ensemble_vote

NUM_MEMBERS, NUM_CLASSES = 5, 16
LARGE = (128, 128, 128)  # 671 MB
MEDIUM = (64, 64, 128)
SMALL = (48, 64, 48)
# Group -> (spatial shape, method, source of the members).
CASES = {
    "mean": (LARGE, "mean", "probs"),
    "majority": (MEDIUM, "majority", "probs"),
    "max": (SMALL, "max", "probs"),
    "mean of logits": (SMALL, "mean", "logits"),
    "majority of labels": (SMALL, "majority", "label"),
}
QUICK_CASES = ("mean", "majority")
Vote = Callable[[Sequence[Tensor], str, str], Tensor]


def ours(members: Sequence[Tensor], method: str, source: str) -> Tensor:
    label = ensemble_vote(members, method=method, source_type=source, num_classes=NUM_CLASSES)
    assert isinstance(label, Tensor)
    return label


def plain(members: Sequence[Tensor], method: str, source: str) -> Tensor:
    """What one writes in torch."""
    if source == "label":
        return torch.stack(list(members)).mode(0).values
    if method == "majority":
        return torch.stack([x.argmax(1) for x in members]).mode(0).values
    if source == "logits":
        members = [x.softmax(1) for x in members]
    stacked = torch.stack(list(members))
    return (stacked.amax(0) if method == "max" else stacked.mean(0)).argmax(1)


def by_numpy(members: Sequence[Tensor], method: str, source: str) -> Tensor:
    """A running sum, of probabilities or votes."""
    if source == "logits":
        members = [x.softmax(1) for x in members]
    arrays = [x.cpu().numpy() for x in members]
    combine = np.maximum if method == "max" else np.add
    if method == "majority":
        labels = arrays if source == "label" else [x.argmax(1) for x in arrays]
        votes = np.zeros((NUM_CLASSES, *labels[0].shape), np.uint8)
        for c, row in enumerate(votes):
            for label in labels:
                row += label == c
        return torch.from_numpy(votes.argmax(0)).to(DEVICE)
    total = arrays[0].copy()
    for array in arrays[1:]:
        combine(total, array, out=total)
    return torch.from_numpy(total.argmax(1)).to(DEVICE)


def by_monai(members: Sequence[Tensor], method: str, source: str) -> Tensor:
    if method == "max":
        pytest.skip("MONAI has no maximum")
    if method == "majority":
        labels = members if source == "label" else [x.argmax(1) for x in members]
        return VoteEnsemble(num_classes=NUM_CLASSES)([x.unsqueeze(1) for x in labels]).squeeze(1)
    if source == "logits":
        members = [x.softmax(1) for x in members]
    return MeanEnsemble()(list(members)).argmax(1)


def read(members: Sequence[Tensor], method: str, source: str) -> Tensor:
    return torch.stack([x.sum() for x in members])


PROVIDERS: dict[str, Vote] = {
    "ours": ours,
    "reference": plain,
    "compiled": torch.compile(plain),
    "numpy": by_numpy,
    "monai": by_monai,
    "read": read,
}


@pytest.fixture(scope="module")
def large() -> list[Tensor]:
    return make_members(LARGE, "probs")


def make_members(shape: tuple[int, ...], source: str) -> list[Tensor]:
    """Multiples of 1/64, whose sums are exact in any order, so that all agree on ties."""
    generator = torch.Generator().manual_seed(0)
    members = []
    for _ in range(NUM_MEMBERS):
        if source == "label":
            x = torch.randint(NUM_CLASSES, (1, *shape), generator=generator, dtype=torch.uint8)
        else:
            x = torch.randint(65, (1, NUM_CLASSES, *shape), generator=generator, dtype=torch.int8)
            x = x.float() / 64
        members.append(x.to(DEVICE))
    return members


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("case", [full_unless(case in QUICK_CASES, case) for case in CASES])
def test_ensemble_vote(
    benchmark: BenchmarkFixture, large: list[Tensor], case: str, provider: str
) -> None:
    shape, method, source = CASES[case]
    members = large if shape == LARGE else make_members(shape, source)
    threads = torch.get_num_threads()
    benchmark.group = f"ensemble_vote, {case}, {NUM_CLASSES} classes, {shape}, {threads} threads"
    vote = PROVIDERS[provider]

    seconds = []

    def run() -> Tensor:
        start = time.process_time()
        result = vote(members, method, source)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.process_time() - start)
        return result

    result = run()
    if provider != "read":
        # Of logits, softmaxes that differ by rounding may disagree where scores are all but equal.
        different = (result.reshape(1, *shape) != ours(members, method, source)).sum()
        assert different <= (10 if source == "logits" else 0)
    benchmark.pedantic(run, rounds=5)
    benchmark.extra_info["process_ms_fastest"] = 1e3 * min(seconds)
